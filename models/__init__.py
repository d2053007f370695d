"""Network definitions, goodness functions and run-folder weights of ffstudy. Needs torch alone."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "MLP": "backbone",
    "BackboneConfig": "backbone",
    "GOODNESS": "registry",
    "BACKBONES": "registry",
    "NORMALISATIONS": "registry",
    "Goodness": "goodness",
    "ff_loss": "goodness",
    "LinearHead": "heads",
    "load_backbone": "checkpoint",
    "load_head": "checkpoint",
    "FFStudyError": "errors",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used, so that ``import ffmodels`` costs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
