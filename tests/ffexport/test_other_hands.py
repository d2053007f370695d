"""The files in other hands: images that a model was not made for, ONNX's own tools, older runtimes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnxruntime.quantization import quantize_dynamic

from ffcore.errors import ModelError
from ffexport import onnx_format
from ffexport.parity import relative_error
from ffexport.registry import load_format
from ffserve import Model

IMAGES = np.random.default_rng(4).integers(0, 256, (5, 1, 28, 28), dtype=np.uint8)


@pytest.mark.parametrize("name", ["model.onnx", "model.ts", "model.pt2", "model.fp16.ts", "model.readout.ts"])
def test_what_is_not_uint8_images_of_its_size_is_refused(exported, name):
    path = exported["ff"] / name
    run = load_format({".onnx": "onnx", ".ts": "torchscript", ".pt2": "pt2"}[path.suffix]).load(path)
    for count in (5, 1):
        assert [len(output) for output in run(IMAGES[:count])] == [count] * 3
    for other in (
        IMAGES.astype(np.float32) / 255,
        IMAGES.astype(np.int64),
        IMAGES.transpose(0, 2, 3, 1),
        IMAGES.repeat(3, axis=1),
        IMAGES[:, :, 1:],
        IMAGES.reshape(5, -1),
        IMAGES[0],
    ):
        with pytest.raises(Exception, match=r"(?i)images|input|shape|dim|expected"):
            run(other)


@pytest.mark.parametrize("name", ["model.ts", "model.fp16.ts", "model.readout.ts"])
def test_torchscript_says_what_is_wrong_and_what_it_takes(exported, name):
    run, takes = load_format("torchscript").load(exported["ff"] / name), r"uint8 \[batch, 1, 28, 28\]"
    with pytest.raises(torch.jit.Error, match=rf"images are not uint8: the model takes raw pixels, {takes}"):
        run(IMAGES / 255)
    with pytest.raises(torch.jit.Error, match=rf"images have shape \[5, 28, 28, 1\]: the model takes .*{takes}"):
        run(IMAGES.transpose(0, 2, 3, 1))


def onnx_files(exported):
    return sorted(path for folder in exported.values() for path in folder.glob("*.onnx"))


def test_the_noted_shapes_are_those_of_values_alone_and_agree(exported):
    for path in onnx_files(exported):
        proto = onnx.load(path)
        weights = {initializer.name for initializer in proto.graph.initializer}
        assert not weights & {value.name for value in proto.graph.value_info}, path.name
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)


def test_users_can_quantise_a_file_themselves(exported, tmp_path):
    load = load_format("onnx").load
    for path in onnx_files(exported):
        quantize_dynamic(path, tmp_path / "quantised.onnx")
        if "int8" not in path.name:
            features, *_ = load(path)(IMAGES)
            found, *_ = load(tmp_path / "quantised.onnx")(IMAGES)
            assert 0 < relative_error(found, features) < 1  # by as much as its processor loses


def test_a_file_that_its_user_quantised_is_not_called_damaged(exported, tmp_path, monkeypatch):
    quantize_dynamic(exported["ff"] / "model.onnx", tmp_path / "quantised.onnx")
    monkeypatch.setattr("ffserve.about.Golden.changed", lambda *given: "features")  # as where it loses more than here
    for path, said in (
        (tmp_path / "quantised.onnx", "was quantised since by another program; `ffexport --precision int8` makes"),
        (exported["ff"] / "model.int8.onnx", "was changed since, or it or this ONNX Runtime is damaged"),
    ):
        with pytest.raises(ModelError, match=said):
            Model(path)


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
