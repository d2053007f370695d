"""Networks, and how they learn: backbones, methods, units, and run folders as they are read. No data and no loop."""

from __future__ import annotations

from ffcore.lazy import lazily

_HOME = {
    "BACKBONES": "ffmodels.parts",
    "METHODS": "ffmodels.parts",
    "Backbone": "ffmodels.backbones.base",
    "BackboneSettings": "ffmodels.backbones.base",
    "Batch": "ffmodels.batch",
    "BlockInfo": "ffmodels.backbones.base",
    "Condition": "ffmodels.conditions",
    "Draws": "ffmodels.draws",
    "Encoder": "ffmodels.encoder",
    "FFStudyError": "ffcore.errors",
    "LinearHead": "ffmodels.linear",
    "Method": "ffmodels.methods.base",
    "Needs": "ffmodels.methods.base",
    "Readout": "ffmodels.methods.base",
    "Run": "ffmodels.run",
    "ff_loss": "ffmodels.goodness",
    "load_encoder": "ffmodels.run",
    "load_head": "ffmodels.linear",
    "make_units": "ffmodels.units",
}
__all__ = sorted(_HOME)
__getattr__ = lazily(__name__, _HOME)
