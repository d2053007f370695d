"""The formats that a run can be exported to."""

from __future__ import annotations

from ffmodels.registry import Registry

# The largest difference from the eager model, plus as much of an output's largest value.
ATOL = 1e-4

FORMATS = Registry(
    "--format",
    {
        "onnx": ("ffexport.onnx_format:OnnxFormat", "for ONNX Runtime and ffserve: model.onnx"),
        "torchscript": ("ffexport.torchscript:TorchScriptFormat", "for libtorch: model.ts"),
    },
)
