from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

CLASSES = ("zero", "one", "two")


@dataclass(frozen=True, kw_only=True)
class Handmade:
    """A model file written without torch, and what it computes, in float64."""

    path: Path
    shape: tuple[int, int, int]
    classes: tuple[str, ...] | None
    weight: np.ndarray
    bias: np.ndarray

    def images(self, count, seed=0):
        return np.random.default_rng(seed).integers(0, 256, (count, *self.shape), dtype=np.uint8)

    def drawings(self, count, seed=0):
        """Returns images of light ink on black, none of it at the border."""
        found = np.zeros((count, *self.shape), dtype=np.uint8)
        inner = found[:, :, 1:-1, 1:-1]
        inner[:] = np.random.default_rng(seed).choice([0, 255], inner.shape)
        inner[:, :, 0, 0] = 255
        return found

    def expected(self, images):
        features = images.reshape(len(images), -1) / 255.0
        if self.classes is None:
            return {"features": features}
        logits = features @ self.weight + self.bias
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        return {"features": features, "logits": logits, "probabilities": odds / odds.sum(-1, keepdims=True)}


def write_model(
    path: Path,
    *,
    shape: tuple[int, int, int] = (1, 4, 4),
    classes: tuple[str, ...] | None = CLASSES,
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    about: Callable[[dict[str, str]], object] = lambda texts: None,
    graph: Callable[[onnx.ModelProto], object] = lambda proto: None,
) -> Handmade:
    """Writes an exported model; `about` may break its metadata (JSON texts by key), `graph` the rest."""
    size, count = int(np.prod(shape)), len(classes or ())
    if weight is None:
        weight = np.random.default_rng(1).normal(size=(size, count))
    if bias is None:
        bias = np.linspace(-0.5, 0.5, count)
    model = Handmade(path=path, shape=shape, classes=classes, weight=weight.astype(np.float32), bias=bias)
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "white"], ["unit"]),
        helper.make_node("Flatten", ["unit"], ["features"]),
    ]
    constants = {"white": np.array(255)}
    widths = {"features": size}
    if classes is not None:
        nodes += [
            helper.make_node("MatMul", ["features", "weight"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        ]
        constants |= {"weight": weight, "bias": bias}
        widths |= {"logits": count, "probabilities": count}
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "handmade",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *shape])],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", width]) for n, width in widths.items()],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    golden = model.images(1, seed=2)
    outputs = {name: value[0].round(6).tolist() for name, value in model.expected(golden).items() if name != "logits"}
    values = {
        "format": 1,
        "version": "0.1.0",
        "image": dict(zip(("channels", "height", "width"), shape, strict=True)),
        "dataset": "handmade",
        "golden": {"image": base64.b64encode(golden.tobytes()).decode(), **outputs},
    }
    if classes is not None:
        values |= {"class_names": classes, "probe": {"dataset": "handmade", "validation": 0.5, "test": 0.25}}
    texts = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
    about(texts)
    for name, text in texts.items():
        proto.metadata_props.add(key=f"ffstudy.{name}", value=text)
    graph(proto)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString())
    return model


@pytest.fixture
def make_model(tmp_path):
    """Writes a model into the test's folder: make_model(name="model.onnx", **what_to_break) -> Handmade."""
    return lambda name="model.onnx", **settings: write_model(tmp_path / name, **settings)


@pytest.fixture
def contents(model):
    """Files of 23 images, and of one that is none."""
    from tests.ffserve.parts import png

    return [*map(png, model.images(23)), b"no image"]
