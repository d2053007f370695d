"""INT8: the backbone's products in 8 bits, weights symmetric with a scale for each unit.

Weights use 7 of their 8 bits: sums of full ones saturate on x86 processors without VNNI, where a file may run. The head
stays in float32 (`ffexport.graph.halved` says why), and so does everything between the products: scales of
normalisation, goodness, softmax. Written by ONNX Runtime's own quantisation.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ffcore.errors import ExportError
from ffexport.formats import Images

if TYPE_CHECKING:
    import onnx

ROWS = 64
WEIGHT_BITS = 7
PRODUCTS = ("Gemm", "MatMul", "Conv")


def quantised(proto: onnx.ModelProto, scheme: str, calibration: Images) -> onnx.ModelProto:
    """Returns a graph whose backbone multiplies in 8 bits, by a scheme of `ffexport.registry.SCHEMES`."""
    return {"static": static, "dynamic": dynamic}[scheme](proto, calibration)


def static(proto: onnx.ModelProto, calibration: Images) -> onnx.ModelProto:
    """Quantises activations with ranges that are measured once, from the least to the largest value.

    Black and white images are measured too, so that what lies far from the data is not clipped. The products themselves
    are not rounded to 8 bits again.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    extremes = np.stack([np.zeros_like(calibration[0]), np.full_like(calibration[0], 255)])
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.onnx"
        quantize_static(
            proto,
            target,
            _reader(np.concatenate([calibration, extremes])),
            quant_format=QuantFormat.QDQ,
            nodes_to_quantize=[node.name for node in _products(proto)],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"OpTypesToExcludeOutputQuantization": [*PRODUCTS]},
        )
        return _loaded(target)


def dynamic(proto: onnx.ModelProto, calibration: Images) -> onnx.ModelProto:
    """Quantises activations with ranges that are measured in each batch: what an image gives depends on the others.

    Convolutions stay as they are: ONNX Runtime has no such product of 8 bits on CPUs.

    Raises:
        ExportError: where the backbone has convolutions alone.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    products = [node.name for node in _products(proto) if node.op_type != "Conv"]
    if not products:
        raise ExportError("--int8 dynamic is for backbones with dense layers, and this one has none: choose static")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "model.onnx"
        quantize_dynamic(
            proto,
            target,
            nodes_to_quantize=[*products, *(f"{name}_MatMul" for name in products)],  # a Gemm becomes one
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
        return _loaded(target)


def describe_cpu() -> dict[str, Any]:
    """Returns what INT8's speed and rounding depend on: the CPU's model and whether it has VNNI.

    Where the system does not tell (only Linux does), the instructions are None.
    """
    found: dict[str, Any] = {"machine": platform.machine(), "model": platform.processor() or None}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {**found, "avx512_vnni": None, "avx_vnni": None}
    lines = dict(line.split(":", 1) for line in reversed(text.splitlines()) if ":" in line)
    facts = {key.strip(): value.strip() for key, value in lines.items()}
    flags = facts.get("flags", "").split()
    return {
        **found,
        "model": facts.get("model name", found["model"]),
        **{name: name in flags for name in ("avx512_vnni", "avx_vnni")},
    }


def _products(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Returns the nodes that multiply with weights, but for those of the head: what is left is the backbone's."""
    weights = {initializer.name for initializer in proto.graph.initializer}
    own = {name for name in weights if name.startswith("head.") and ".backbone." not in name}
    return [
        node
        for node in proto.graph.node
        if node.op_type in PRODUCTS and any(name in weights - own for name in node.input)
    ]


def _reader(images: Images) -> Any:
    """Returns the images as ONNX Runtime's calibration wants them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Images] = iter(np.split(images, range(ROWS, len(images), ROWS)))

        def get_next(self) -> dict[str, Images] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    return Reader()


def _loaded(path: Path) -> onnx.ModelProto:
    import onnx

    return onnx.load(path)
