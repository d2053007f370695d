"""The networks and methods there are: a file each."""

from __future__ import annotations

from ffcore.plugins import Plugins

BACKBONES = Plugins("ffmodels.backbones", "backbone", "BackboneSettings")
METHODS = Plugins("ffmodels.methods", "method", "Method")
