"""A run folder -> deployable files: ONNX, TorchScript and pt2, checked against what was trained."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "FORMATS": "registry",
    "DeployedModel": "graph",
    "export_run": "export",
    "newest_run": "export",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used, so that ``import ffexport`` costs no torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
