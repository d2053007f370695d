"""Inference with exported models, through ONNX Runtime: no torch.

from ffserve import Classifier
Classifier("model.onnx").predict(["image.png"])
"""

from __future__ import annotations

import os
import pkgutil
from typing import Any

# Before ONNX Runtime is imported, which else writes a device's id into the home folder, and queues what it is used for.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOME = {
    "Classifier": "ffserve.predict",
    "Prediction": "ffserve.predict",
    "Model": "ffserve.session",
    "find_model": "ffserve.session",
    "read_image": "ffcore.images",
    "find": "ffcore.folders",
    "DeviceError": "ffcore.errors",
    "FFStudyError": "ffcore.errors",
    "ImageError": "ffcore.errors",
    "ModelError": "ffcore.errors",
    "UsageError": "ffcore.errors",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Loads a public name when it is first used, so that ``import ffserve`` stays cheap."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return pkgutil.resolve_name(f"{_HOME[name]}:{name}")
