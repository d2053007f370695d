"""Network definitions, goodness functions and run-folder weights of ffstudy. Needs torch alone."""

from __future__ import annotations

from ffcore.lazy import lazily

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
__getattr__ = lazily(__name__, _HOME)
