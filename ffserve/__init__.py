"""Inference with exported models, through ONNX Runtime: no torch.

from ffserve import Classifier
Classifier("model.onnx").predict(["image.png"])
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# Before ONNX Runtime is imported, which else writes a device's id into the home folder, and queues what it is used for.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOME = {
    "Classifier": "predict",
    "Prediction": "predict",
    "Model": "session",
    "find_model": "session",
    "read_image": "images",
    "find": "inputs",
    "DeviceError": "errors",
    "FFServeError": "errors",
    "ImageError": "errors",
    "ModelError": "errors",
    "UsageError": "errors",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used, so that ``import ffserve`` stays cheap."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
