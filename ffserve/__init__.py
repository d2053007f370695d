"""Inference with exported models, through ONNX Runtime: no torch.

from ffserve import Classifier
Classifier("model.onnx").predict(["image.png"])
"""

from __future__ import annotations

import os

from ffcore.lazy import lazily

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
__getattr__ = lazily(__name__, _HOME)
