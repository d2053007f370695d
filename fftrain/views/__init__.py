"""Views: what a method sees of an image, a file each. `base.py` says what one has."""
