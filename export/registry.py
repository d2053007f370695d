"""The formats that a run can be exported to."""

from __future__ import annotations

from ffmodels.registry import Registry

FORMATS = Registry(
    "format",
    {
        "onnx": ("ffexport.onnx_format:OnnxFormat", "for ONNX Runtime and ffserve: model.onnx"),
        "torchscript": ("ffexport.torchscript:TorchScriptFormat", "for libtorch: model.ts"),
    },
)
