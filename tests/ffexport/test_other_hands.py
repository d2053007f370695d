"""The files in other hands: ONNX's own tools, older runtimes."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnxruntime.quantization import quantize_dynamic

from ffexport import onnx_format
from ffexport.parity import relative_error
from ffexport.registry import FORMATS

IMAGES = np.random.default_rng(4).integers(0, 256, (5, 1, 28, 28), dtype=np.uint8)


def onnx_files(exported):
    return sorted(path for folder in exported.values() for path in folder.glob("*.onnx"))


def test_the_noted_shapes_are_those_of_values_alone_and_agree(exported):
    for path in onnx_files(exported):
        proto = onnx.load(path)
        weights = {initializer.name for initializer in proto.graph.initializer}
        assert not weights & {value.name for value in proto.graph.value_info}, path.name
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)


def test_users_can_quantise_a_file_themselves(exported, tmp_path):
    load = FORMATS.load("onnx").load
    for path in onnx_files(exported):
        quantize_dynamic(path, tmp_path / "quantised.onnx")
        if "int8" not in path.name:
            features, *_ = load(path)(IMAGES)
            found, *_ = load(tmp_path / "quantised.onnx")(IMAGES)
            assert 0 < relative_error(found, features) < 1  # by as much as its processor loses


def test_the_ir_version_is_the_lowest_that_has_the_opset(exported):
    """Runtimes refuse newer ones than they know: ONNX Runtime 1.16 and 1.17 read 9 at most."""
    found = {}
    for opset in (18, 19, 20, 21, 22, 23):
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", [value], [])
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        onnx_format._strip(proto)
        found[opset] = proto.ir_version
    assert found == {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
    for path in onnx_files(exported):
        proto = onnx.load(path)
        assert proto.ir_version == found[proto.opset_import[0].version]
