"""Evaluations, a file each: what is measured of the frozen features."""
