"""Model files that are wrong, hostile or not where they seem to be: one line each, and no more than their share."""

from __future__ import annotations

import hashlib
import json
import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from ffcore.errors import DeviceError, ModelError, ModelNotFound, UsageError
from ffserve import providers, session
from ffserve.session import Model, find_model
from tests.ffserve.limited import GIB, limited

INK = {"ground": 0, "ink": 255, "longest": 20, "centre": [14, 14], "mass": True, "stroke": 2.5}


def refused(path, *words, kind=ModelError, **how):
    """Checks that a file is refused in one line that names it."""
    with pytest.raises(kind) as error:
        Model(path, **how)
    text = str(error.value)
    assert len(text.splitlines()) == 1
    for word in (str(path), *words):
        assert word in text


def manifest(path, **files):
    (path.parent / "manifest.json").write_text(json.dumps({"files": files}))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def bomb(kind, side):
    """Returns what makes a model compute `side` x `side` floats, and add none of them."""

    def change(proto):
        graph = proto.graph
        constants = {
            "shape": np.array([side, side]),
            "times": np.array([1, side * side // 16]),
            "zero": np.zeros(1, np.float32),
        }
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
        value = numpy_helper.from_array(np.zeros(1, np.float32))
        made = {
            "constant": helper.make_node("ConstantOfShape", ["shape"], ["huge"], value=value),
            "expand": helper.make_node("Expand", ["zero", "shape"], ["huge"]),
            "tile": helper.make_node("Tile", ["features", "times"], ["huge"]),
        }[kind]
        more = [
            made,
            helper.make_node("ReduceMax", ["huge"], ["one"], keepdims=0),
            helper.make_node("Sub", ["one", "one"], ["none"]),
            helper.make_node("Add", ["product", "none"], ["sum"]),
        ]
        nodes = list(graph.node)
        place = next(i for i, node in enumerate(nodes) if node.op_type == "MatMul") + 1
        nodes[place].input[0] = "sum"
        del graph.node[:]
        graph.node.extend([*nodes[:place], *more, *nodes[place:]])

    return change


def endless(proto):
    """Makes a model count to 2^62 before it ends."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["still_on"]),
            helper.make_node("Add", ["carried", "carried"], ["carried_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried_on", TensorProto.FLOAT, None),
        ],
    )
    graph = proto.graph
    graph.initializer.append(numpy_helper.from_array(np.array(2**62), "many"))
    nodes = list(graph.node)
    place = next(i for i, node in enumerate(nodes) if node.op_type == "MatMul") + 1
    nodes[place].input[0] = "counted"
    del graph.node[:]
    loop = helper.make_node("Loop", ["many", "", "product"], ["counted"], body=body)
    graph.node.extend([*nodes[:place], loop, *nodes[place:]])


def test_a_file_is_held_against_the_manifest_beside_it(make_model):
    path = make_model("run/export/model.onnx").path
    manifest(path, **{"model.onnx": {"sha256": digest(path)}})
    assert Model(path).path == path
    assert Model(find_model(path.parents[1])).path == path
    manifest(path, **{"model.onnx": {"sha256": "0" * 64}})
    refused(path, digest(path)[:12], "manifest.json beside it says 000000000000", "copy or export it again")
    refused(find_model(path.parents[1]), "SHA-256")


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "3", '{"files": 3}', '{"files": {"other.onnx": {"sha256": "0"}}}', '{"files": {"model.onnx": 3}}'],
)
def test_a_manifest_that_does_not_list_the_file_says_nothing_of_it(make_model, text):
    path = make_model().path
    (path.parent / "manifest.json").write_text(text)
    assert Model(path).path == path


@pytest.mark.parametrize("content", [b"{", b"\xff", b"", b"[" * 100_000])
def test_a_damaged_manifest_is_refused(make_model, content):
    path = make_model().path
    (path.parent / "manifest.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"manifest\.json is damaged, so model\.onnx cannot be checked"):
        Model(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "a Git LFS pointer, .* cannot be checked: run `git lfs pull`",
        ),
        (b"<!-- x --><html>", "an HTML page, .*, so model.onnx cannot be checked: download the file itself"),
    ],
)
def test_a_manifest_that_is_another_file_is_called_so(make_model, content, words):
    path = make_model().path
    (path.parent / "manifest.json").write_bytes(content)
    with pytest.raises(ModelError, match=rf"manifest\.json is {words}"):
        Model(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x89PNG\r\n\x1a\n", "a PNG image"),
        (b"\xff\xd8\xff\xe0", "a JPEG image"),
        (b"\x80\x02}q\0", "a pickle"),
        ((9).to_bytes(8, "little") + b'{"a":{}}', "a safetensors file"),
        (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model"),
        ("größer\n".encode(), "a text file"),
    ],
)
def test_a_file_that_is_another_is_called_what_it_is(tmp_path, content, what):
    (tmp_path / "model.onnx").write_bytes(content)
    refused(tmp_path / "model.onnx", f"is no ONNX model but {what}", "name an .onnx file of `ffexport`")


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"head": '"none"'}, "contradicts itself: head 'none' with 3 class names"),
        ({"head": '"other"'}, "contradicts itself: head 'other'"),
        ({"head": "[]"}, "contradicts itself"),
        ({"border": "3"}, "damaged metadata"),
        ({"border": '{"mean": 3}'}, "damaged metadata"),
        ({"border": '{"mean": 256, "deviation": 0}'}, "damaged metadata"),
        ({"border": '{"mean": NaN, "deviation": 0}'}, "damaged metadata"),
        ({"border": '{"mean": 0, "deviation": -1}'}, "damaged metadata"),
        ({"border": '{"mean": 0, "deviation": 1, "means": []}'}, "damaged metadata"),
        ({"border": '{"mean": 0, "deviation": 1, "means": [300]}'}, "damaged metadata"),
        ({"ink": "3"}, "damaged metadata"),
        ({"ink": '{"ground": 0}'}, "damaged metadata"),
        ({"ink": json.dumps({**INK, "ink": 0})}, "damaged metadata"),
        ({"ink": json.dumps({**INK, "longest": -1})}, "damaged metadata"),
        ({"ink": json.dumps({**INK, "centre": [3]})}, "damaged metadata"),
        ({"ink": json.dumps({**INK, "stroke": "thin"})}, "damaged metadata"),
    ],
)
def test_metadata_that_contradict_themselves_are_refused(make_model, texts, words):
    refused(make_model(about=lambda found: found.update(texts)).path, words)


def test_metadata_of_older_files_may_lack_head_precision_and_border(make_model):
    about = Model(make_model().path).about
    assert (about.head, about.precision, about.border) == ("probe", "fp32", None)
    assert Model(make_model("bare.onnx", classes=None).path).about.head == "none"
    texts = {"head": '"readout"', "precision": '"int8"', "border": '{"mean": 3, "deviation": 0.5}'}
    about = Model(make_model("new.onnx", about=lambda found: found.update(texts)).path).about
    assert (about.head, about.precision, about.border) == ("readout", "int8", (3.0, 0.5))


def test_what_is_no_file_is_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "is a pipe or a device")
    with pytest.raises(ModelError, match="is a pipe or a device"):
        Model("/dev/zero")
    with open(tmp_path / "large.onnx", "wb") as file:
        file.truncate(2**31 + 1)
    refused(tmp_path / "large.onnx", "2,147,483,649 bytes", "at most 2,147,483,648")


@pytest.mark.parametrize("kind", ["constant", "expand", "tile"])
def test_a_small_file_that_asks_for_much_memory_is_refused(make_model, kind):
    path = make_model(graph=bomb(kind, 24_000)).path
    assert path.stat().st_size < 10_000
    ended, peak = limited("info", path, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"ffserve: error: {path} needs more memory for an image than ffserve gives it\n"
    assert peak < GIB


def test_a_batch_that_needs_too_much_memory_says_what_mends_it(make_model):
    made = make_model(graph=bomb("tile", 4000))  # 64 MB an image
    model = Model(made.path)
    assert len(model.run(made.images(2))["logits"]) == 2
    with pytest.raises(ModelError, match="needs more memory for 20 images than ffserve gives it: lower --batch-size"):
        model.run(made.images(20))
    assert len(model.run(made.images(2))["logits"]) == 2


def test_a_model_that_does_not_end_is_stopped(make_model, monkeypatch):
    monkeypatch.setattr(session, "_GOLDEN_SECONDS", 0.3)
    refused(make_model(graph=endless).path, "took more than 0.3 s for an image")


def test_a_failed_command_leaves_the_folder_as_it_was(cli, make_model, tmp_path, monkeypatch):
    path = make_model("work/model.onnx").path
    Image.new("L", (4, 4)).save(path.parent / "a.png")
    manifest(path, **{"model.onnx": {"sha256": "0" * 64}})
    monkeypatch.chdir(path.parent)
    before = sorted(os.listdir())
    for arguments in (["predict", "a.png"], ["predict", "a.png", "--json"], ["predict", ".", "--csv"], ["info"]):
        ended = cli("ffserve", *arguments, *(["--model"] if arguments[0] == "predict" else []), "model.onnx")
        assert (ended.code, ended.out) == (1, "")
        assert len(ended.err.splitlines()) == 1
    assert sorted(os.listdir()) == before


def test_cuda_that_does_not_work_is_an_error_and_auto_falls_back(make_model, monkeypatch, capfd):
    if providers.gpu_seen():
        pytest.skip("a GPU is here")
    path = make_model().path
    model = Model(path)
    assert (model.device, model.notice, model.providers) == ("cpu", None, ["CPUExecutionProvider"])
    assert Model(path, device="cpu").device == "cpu"
    with pytest.raises(DeviceError, match=r"--device cuda: .*`ffserve doctor`") as error:
        Model(path, device="cuda")
    assert len(str(error.value).splitlines()) == 1
    assert error.value.exit_code == 1
    wanted = Model(path, provider_options={"device_id": "0"})
    assert wanted.device == "cpu"
    assert wanted.notice is not None
    assert wanted.notice.startswith("runs on the CPU: ")
    monkeypatch.setattr(providers, "gpu_seen", lambda: True)
    assert Model(path).notice is not None
    monkeypatch.setattr(providers.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="built without CUDA"):
        Model(path, device="cuda")
    assert "built without CUDA" in str(Model(path).notice)
    assert capfd.readouterr() == ("", "")


def test_a_cuda_session_is_taken_where_it_is_one(make_model, monkeypatch):
    made = make_model()
    real = providers.onnxruntime.InferenceSession
    asked = []

    class Pretended:
        """A session that says it runs on CUDA."""

        def __init__(self, content, options, providers, enable_fallback):
            asked.append(providers[0])
            self._real = real(content, options, providers=["CPUExecutionProvider"])

        def get_providers(self):
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

        def __getattr__(self, name):
            return getattr(self._real, name)

    monkeypatch.setattr(providers.onnxruntime, "InferenceSession", Pretended)
    monkeypatch.setattr(
        providers.onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(providers.onnxruntime, "preload_dlls", lambda: None)
    model = Model(made.path, device="cuda", provider_options={"device_id": "1"})
    assert (model.device, model.notice) == ("cuda", None)
    assert asked == [("CUDAExecutionProvider", {"use_tf32": "0", "device_id": "1"})]


def test_device_and_provider_options_are_checked(make_model):
    path = make_model().path
    with pytest.raises(UsageError, match="--device is 'tpu': it must be one of auto, cpu, cuda"):
        Model(path, device="tpu")
    with pytest.raises(UsageError, match="--provider-option device_id is for CUDA"):
        Model(path, device="cpu", provider_options={"device_id": "0"})


def test_a_folder_with_one_model_of_any_name_is_that_model(make_model, tmp_path):
    path = make_model("run/export/model.int8.onnx").path
    assert find_model(tmp_path / "run") == path
    make_model("run/export/model.readout.onnx")
    with pytest.raises(ModelNotFound, match=r"has several models.*model\.int8\.onnx, model\.readout\.onnx"):
        find_model(tmp_path / "run")
    path = make_model("run/export/model.onnx").path
    assert find_model(tmp_path / "run") == find_model(tmp_path / "run" / "export") == path


def test_an_onnx_file_of_another_program_is_refused(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    opsets = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=opsets), tmp_path / "other.onnx")
    refused(tmp_path / "other.onnx", "is of another program", "ffexport")
