"""A run folder -> deployable files: ONNX, TorchScript and pt2, checked against what was trained."""

from __future__ import annotations

from ffcore.lazy import lazily

_HOME = {
    "FORMATS": "ffexport.registry",
    "DeployedModel": "ffexport.graph",
    "export_run": "ffexport.export",
    "newest_run": "ffexport.export",
}
__all__ = sorted(_HOME)
__getattr__ = lazily(__name__, _HOME)
