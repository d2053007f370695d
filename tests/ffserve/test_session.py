"""Models written by hand against NumPy in float64, and everything that a model file can have wrong."""

from __future__ import annotations

import base64
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from ffcore.errors import FFStudyError, ModelError, ModelNotFound
from ffcore.machine import cores
from ffserve import session
from ffserve.session import Model, find_model


def refused(path, *words, kind=ModelError):
    """Checks that a file is refused in one line that names it."""
    with pytest.raises(kind) as error:
        Model(path)
    text = str(error.value)
    assert text.startswith(str(path))
    assert len(text.splitlines()) == 1
    for word in words:
        assert word in text


def changed(key, **values):
    """Returns what replaces values inside one entry of the metadata."""
    return lambda texts: texts.update({key: json.dumps({**json.loads(texts[key]), **values})})


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 2)])
@pytest.mark.parametrize("count", [1, 2, 100])
def test_outputs_equal_numpy(make_model, shape, count):
    made = make_model(shape=shape)
    images = made.images(count)
    found = Model(made.path).run(images)
    expected = made.expected(images)
    assert list(found) == ["features", "logits", "probabilities"]
    for name, values in found.items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, expected[name], atol=1e-5)


def test_a_model_without_a_probe_gives_features_alone(make_model):
    made = make_model(classes=None)
    model = Model(made.path)
    images = made.images(3)
    found = model.run(images)
    assert list(found) == ["features"]
    np.testing.assert_allclose(found["features"], made.expected(images)["features"], atol=1e-6)
    assert model.about.class_names is None


def test_a_model_says_what_it_is(make_model):
    model = Model(make_model(shape=(3, 5, 2)).path)
    assert (model.about.channels, model.about.height, model.about.width) == (3, 5, 2)
    assert model.about.class_names == ("zero", "one", "two")
    assert model.about.values["dataset"] == "handmade"
    assert model.providers == ["CPUExecutionProvider"]


def test_images_do_not_need_to_be_contiguous(make_model):
    made = make_model()
    images = made.images(8)
    found = Model(made.path).run(images[::2, :, ::-1])
    np.testing.assert_allclose(found["logits"], made.expected(images[::2, :, ::-1])["logits"], atol=1e-5)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 1, 4, 5), np.uint8),
        np.zeros((1, 3, 4, 4), np.uint8),
        np.zeros((1, 4, 4), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((1, 1, 4, 4), np.float32),
        np.zeros((1, 1, 4, 4), np.int8),
        np.zeros((1, 1, 4, 4), bool),
    ],
)
def test_images_of_another_shape_or_type_are_refused(make_model, images):
    model = Model(make_model().path)
    with pytest.raises(ModelError, match=r"takes uint8 images \[batch, 1, 4, 4\], not") as error:
        model.run(images)
    assert str(images.dtype) in str(error.value)
    assert str(list(images.shape)) in str(error.value)


def test_threads_share_a_model(make_model):
    made = make_model(shape=(3, 32, 32))
    model = Model(made.path, threads=2)
    batches = [made.images(5, seed=seed) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda images: model.run(images)["probabilities"], batches))
    for images, probabilities in zip(batches, found, strict=True):
        np.testing.assert_allclose(probabilities, made.expected(images)["probabilities"], atol=1e-4)


def test_the_number_of_threads_is_what_was_asked_for(make_model):
    made = make_model()
    assert Model(made.path, threads=3)._session.get_session_options().intra_op_num_threads == 3
    assert Model(made.path)._session.get_session_options().intra_op_num_threads == cores()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty (0 bytes)"),
        (b"no model\n", "is no ONNX model but a text file"),
        (b"\x08\x0a", "or no ONNX model"),
        (bytes(1000), "is no ONNX model"),
        (np.random.default_rng(0).bytes(5000), "is no ONNX model (no protobuf message)"),
    ],
)
def test_a_file_that_is_no_model_is_refused(tmp_path, content, words):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    refused(path, words)


@pytest.mark.parametrize("part", [0.01, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_model_is_refused(make_model, part):
    path = make_model().path
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    refused(path)


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    refused(tmp_path, "cannot be read: Is a directory")
    refused(tmp_path / "no.onnx", "does not exist", kind=ModelNotFound)


def test_a_model_of_another_program_is_refused(make_model):
    refused(make_model(about=dict.clear).path, "another program", "ffexport")
    refused(make_model(about=lambda texts: texts.pop("format")).path, "another program")


@pytest.mark.parametrize(
    ("about", "words"),
    [
        (lambda texts: texts.update(format="2"), "has format 2, ffserve reads 1"),
        (lambda texts: texts.update(format="{"), "damaged metadata"),
        (lambda texts: texts.update(dataset="{'a': 1}"), "damaged metadata"),
        (lambda texts: texts.update(dataset="[" * 100_000), "damaged metadata"),
        (lambda texts: texts.pop("image"), "damaged metadata"),
        (lambda texts: texts.update(image="[1, 4, 4]"), "damaged metadata"),
        (changed("image", height="high"), "damaged metadata"),
        (changed("image", height=float("inf")), "damaged metadata"),
        (changed("image", height=5), "contradicts its metadata"),
        (changed("image", channels=3), "contradicts its metadata"),
        (lambda texts: texts.update(class_names="7"), "damaged metadata"),
        (lambda texts: texts.update(class_names='"abc"'), "class_names is no list of different names"),
        (lambda texts: texts.update(class_names='["a", "b", "a"]'), "class_names is no list of different names"),
        (lambda texts: texts.update(class_names='[{"a": 1}, "b", "c"]'), "class_names is no list of different names"),
        (lambda texts: texts.update(seed="NaN"), "damaged metadata (NaN is no number)"),
        (lambda texts: texts.update(class_names='["a", "b"]'), "2 class names, 3"),
        (lambda texts: texts.update(class_names='["a", "b", "c", "d"]'), "4 class names, 3"),
        (lambda texts: texts.update(class_names="[]"), "0 class names, 3"),
        (lambda texts: texts.pop("class_names"), "contradicts its metadata"),
        (lambda texts: texts.pop("golden"), "damaged golden image"),
        (lambda texts: texts.update(golden="3"), "damaged golden image"),
        (changed("golden", image="%%%"), "damaged golden image"),
        (changed("golden", image=base64.b64encode(bytes(15)).decode()), "damaged golden image"),
        (changed("golden", features=["a"]), "damaged golden image"),
        (changed("golden", image=base64.b64encode(bytes(16)).decode()), "computes other features"),
        (changed("golden", features=[0.5] * 16), "computes other features"),
        (changed("golden", probabilities=[0.3, 0.3, 0.4]), "computes other probabilities"),
        (changed("golden", probabilities=[float("nan")] * 3), "damaged metadata (NaN is no number)"),
        (changed("golden", tolerance="wide"), "damaged golden image"),
        (changed("golden", tolerance=None), "damaged golden image"),
        (changed("golden", features=[0.5] * 16, tolerance=1e9), "computes other features"),
        (lambda texts: texts.update(golden=json.dumps({"image": json.loads(texts["golden"])["image"]})), "golden"),
    ],
)
def test_broken_metadata_are_refused(make_model, about, words):
    refused(make_model(about=about).path, words)


@pytest.mark.parametrize(
    ("recorded", "away", "served"),
    [
        ({}, 0.005, True),
        ({}, 0.04, False),  # files of version 0.1 record none
        ({"tolerance": 0.05}, 0.04, True),
        ({"tolerance": 0.05}, 0.2, False),
        ({"tolerance": 1e-9}, 0.005, True),
        ({"tolerance": 1e9}, 0.05, True),
        ({"tolerance": 1e9}, 0.3, False),
    ],
)
def test_golden_values_may_differ_by_what_the_file_records_within_bounds(make_model, recorded, away, served):
    def moved(texts):
        golden = json.loads(texts["golden"])
        texts["golden"] = json.dumps({**golden, "features": [v + away for v in golden["features"]], **recorded})

    path = make_model(about=moved).path
    if served:
        Model(path)
    else:
        refused(path, "computes other features")


def scaled_weight(proto):
    weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "weight")
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * 1.5).tobytes()


def other_input_name(proto):
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "pixels_in"


def float_input(proto):
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def second_input(proto):
    proto.graph.input.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1]))


def fewer_outputs(proto):
    del proto.graph.output[1]


def fixed_batch(proto):
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


def one_number_of_features(proto):
    mean = onnx.helper.make_node("ReduceMean", ["unit"], ["features"], keepdims=0)
    proto.graph.node[2].output[0] = proto.graph.node[3].input[0] = "flat"
    proto.graph.node.append(mean)
    proto.graph.output[0].type.tensor_type.shape.ClearField("dim")


def more_probabilities(proto):
    proto.graph.node[-1].output[0] = "half"
    proto.graph.node.append(onnx.helper.make_node("Concat", ["half", "half"], ["probabilities"], axis=1))
    proto.graph.output[2].type.tensor_type.shape.dim[1].dim_value = 6


def unknown_operator(proto):
    proto.graph.node[0].op_type = "Nonsense"


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        (scaled_weight, "computes other probabilities"),
        (other_input_name, "contradicts its metadata"),
        (float_input, "contradicts its metadata"),
        (second_input, "contradicts its metadata"),
        (fewer_outputs, "contradicts its metadata"),
        (fixed_batch, "takes batches of 4 alone"),
        (one_number_of_features, "features"),
        (more_probabilities, "3 class names, 6 probabilities"),
        (unknown_operator, "is no ONNX model that can be loaded"),
    ],
)
def test_broken_graphs_are_refused(make_model, graph, words):
    refused(make_model(graph=graph).path, words)


@pytest.mark.parametrize("text", [b"dataset", b'"handmade"', b"images", b"logits", b"ffstudy.format", b"Softmax"])
def test_text_that_is_not_utf_8_is_refused(make_model, capfd, text):
    path = make_model().path
    path.write_bytes(path.read_bytes().replace(text, b"\xff" * len(text)))
    refused(path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("location", ["weight.bin", "../weight.bin", "{folder}/weight.bin", "no.bin"])
def test_data_outside_the_file_are_refused(make_model, tmp_path, monkeypatch, location):
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")

    def outside(proto):
        weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "weight")
        for folder in (tmp_path, tmp_path / "run"):
            (folder / "weight.bin").write_bytes(weight.raw_data)
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=location.format(folder=tmp_path))

    refused(make_model("run/model.onnx", graph=outside).path, "is no ONNX model that can be loaded")


def test_find_model_takes_the_one_that_is_named_then_the_environment_then_the_one_that_ships(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FFSERVE_MODEL", raising=False)
    files = {}
    for name in ("runs/new", "elsewhere", "from-environment", "ships"):
        files[name] = tmp_path / name / "export" / "model.onnx"
        files[name].parent.mkdir(parents=True)
        files[name].touch()
    monkeypatch.setattr(session, "BUNDLED", files["ships"])
    assert find_model() == files["ships"]
    monkeypatch.setenv("FFSERVE_MODEL", str(files["from-environment"]))
    assert find_model() == files["from-environment"]
    monkeypatch.setenv("FFSERVE_MODEL", str(tmp_path / "from-environment"))
    assert find_model() == files["from-environment"]
    assert find_model(files["elsewhere"]) == files["elsewhere"]
    assert find_model(str(tmp_path / "elsewhere")) == files["elsewhere"]
    assert find_model(tmp_path / "elsewhere" / "export") == files["elsewhere"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_model("~/elsewhere") == files["elsewhere"]


@pytest.mark.parametrize(
    ("given", "variable", "words"),
    [
        (None, None, ["the model that ships is missing", "model/none.onnx", "install ffstudy again", "FFSERVE_MODEL"]),
        (None, "", ["the model that ships is missing"]),
        (None, "no.onnx", ["FFSERVE_MODEL no.onnx does not exist"]),
        (None, "empty", ["FFSERVE_MODEL empty is a folder without", "ffexport empty"]),
        ("no.onnx", "there.onnx", ["--model no.onnx does not exist"]),
        ("empty", "there.onnx", ["--model empty is a folder without", "ffexport empty"]),
        ("~nobody-of-this-name/a.onnx", None, ["--model ~nobody-of-this-name/a.onnx does not exist"]),
    ],
)
def test_find_model_says_what_is_missing(tmp_path, monkeypatch, given, variable, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "BUNDLED", tmp_path / "ffserve" / "model" / "none.onnx")
    monkeypatch.delenv("FFSERVE_MODEL", raising=False)
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.onnx").touch()
    if variable is not None:
        monkeypatch.setenv("FFSERVE_MODEL", variable)
    with pytest.raises(ModelNotFound) as error:
        find_model(given)
    assert len(str(error.value).splitlines()) == 1
    for word in words:
        assert word in str(error.value)


def test_a_frozen_program_without_the_model_that_ships_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(session, "BUNDLED", tmp_path / "ffserve" / "model" / "none.onnx")
    monkeypatch.delenv("FFSERVE_MODEL", raising=False)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(ModelNotFound, match=r"ffserve/model/none\.onnx\): collect ffserve's data into the frozen"):
        find_model()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
            "a Git LFS pointer, not the file itself: run `git",
        ),
        (b"<!DOCTYPE html><html><body>404", "an HTML page, as a download leaves that failed: download the file itself"),
        (b"\x1f\x8b\x08\0" + bytes(50), "a gzip archive: unpack it with gunzip"),
        (b"PK\x03\x04" + bytes(50), "a ZIP archive, as .ts, .pt2 and .npz files are: name an .onnx file of `ffexport`"),
        (bytes(4) + b"ORTM" + bytes(50), "an ORT model: name the .onnx file that it was made from"),
    ],
)
def test_a_file_that_is_something_else_is_called_what_it_is(tmp_path, content, words):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError) as error:
        Model(tmp_path / "model.onnx")
    assert f"model.onnx is no ONNX model but {words}" in str(error.value)


def test_a_caller_can_catch_every_error_as_one():
    assert issubclass(ModelNotFound, ModelError)
    assert issubclass(ModelError, FFStudyError)
