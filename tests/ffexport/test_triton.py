"""`ffexport --format triton`: what Triton's own ModelConfig reads is what the ONNX file is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from ffexport.export import export_run
from ffexport.triton import config
from tests.ffexport.checks import PROBE
from tests.helpers import one_line


def parsed(text):
    """Returns config.pbtxt as Triton's clients and server read it."""
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed", exc_type=ImportError)
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    return text_format.Parse(text, ModelConfig())


@pytest.mark.parametrize(("precision", "name"), [("fp32", "my run"), ("int8", "my run.int8")])
def test_the_repository_is_what_the_file_is(trained, traced, tmp_path, precision, name):
    run = shutil.copytree(trained / "ff", tmp_path / "my run")
    result = export_run(run, ["triton"], precision=precision, int8="static", probe=PROBE)
    folder = Path(result["triton"])
    assert folder == run / "export" / "triton" / name
    [file] = result["written"]
    assert (folder / "1" / "model.onnx").read_bytes() == (run / "export" / file).read_bytes()
    assert {place.name for place in folder.rglob("*") if place.is_file()} == {
        "config.pbtxt",
        "labels.txt",
        "model.onnx",
    }
    found = parsed((folder / "config.pbtxt").read_text(encoding="utf-8"))
    assert (found.name, found.platform, found.max_batch_size) == (name, "onnxruntime_onnx", 64)
    assert found.HasField("dynamic_batching")
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    [given], [taken] = session.get_inputs(), found.input
    assert given.type == "tensor(uint8)"
    assert (taken.name, taken.data_type, [*taken.dims]) == (given.name, 2, given.shape[1:])  # TYPE_UINT8
    ends = {end.name: ([*end.dims], end.data_type, end.label_filename) for end in found.output}
    assert ends == {
        end.name: (end.shape[1:], 11, "" if end.name == "features" else "labels.txt") for end in session.get_outputs()
    }  # TYPE_FP32
    labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert labels == result["files"][file]["class_names"]
    assert len(labels) == ends["logits"][0][0]
    assert [each.batch_size for each in found.model_warmup] == [1, 64]
    for each in found.model_warmup:
        warm = each.inputs["images"]
        assert warm.zero_data
        images = np.zeros((each.batch_size, *warm.dims), dtype=np.uint8)
        assert session.run(["logits"], {"images": images})[0].shape == (each.batch_size, len(labels))


def test_without_classes_or_with_ranges_of_a_batch():
    found = parsed(config('a "b"', (3, 32, 32), {"features": 12}, labels=False, dynamic=False))
    assert found.name == 'a "b"'
    assert [(end.name, end.label_filename) for end in found.output] == [("features", "")]
    assert not found.HasField("dynamic_batching")


def test_the_command(cli, run_copy, traced):
    ended = cli("ffexport", run_copy, "--format", "triton", "--probe", PROBE)
    assert ended.code == 0, ended.err
    assert f"{run_copy}/export/triton/run: for tritonserver --model-repository {run_copy}/export/triton" in ended.out
    one_line(cli("ffexport", run_copy, "--format", "tensorrt"), 2, "'tensorrt'", "onnx, torchscript, pt2, triton")
