"""Network definitions, goodness functions and run-folder weights of ffstudy. Needs torch alone."""

from __future__ import annotations

import pkgutil
from typing import Any

_HOME = {
    "MLP": "ffmodels.backbone",
    "BackboneConfig": "ffmodels.backbone",
    "GOODNESS": "ffmodels.registry",
    "BACKBONES": "ffmodels.registry",
    "NORMALISATIONS": "ffmodels.registry",
    "Goodness": "ffmodels.goodness",
    "ff_loss": "ffmodels.goodness",
    "LinearHead": "ffmodels.heads",
    "load_backbone": "ffmodels.checkpoint",
    "load_head": "ffmodels.checkpoint",
    "FFStudyError": "ffcore.errors",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used, so that ``import ffmodels`` costs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return pkgutil.resolve_name(f"{_HOME[name]}:{name}")
