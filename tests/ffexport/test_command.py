"""The commands `ffexport` and `ffexport bench`, as users type them."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from ffcore.errors import RunError, SettingError
from ffexport import bench
from ffexport.export import newest_run
from ffexport.formats import as_run
from ffexport.subject import load_subject
from ffmodels.run import Run
from tests.helpers import one_line, python


def test_the_command(cli, run_copy, tmp_path, monkeypatch):
    ended = cli("ffexport", run_copy, "--format", "torchscript", "--json")
    assert ended.code == 0
    assert ended.json["written"] == ["model.ts"]
    assert ended.json["files"].keys() == {"model.ts"}
    ended = cli("ffexport", run_copy, "--format", "torchscript", "--head", "readout", "--precision", "fp16")
    assert "model.readout.fp16.ts" in ended.out
    assert "model.ts" not in ended.out
    one_line(cli("ffexport", run_copy, "--format", "tflite"), 2, "'tflite'", "onnx, torchscript")
    one_line(cli("ffexport", run_copy, "--atol", "-1"), 2, "--atol")
    one_line(cli("ffexport", run_copy, "--precision", "int8", "--format", "pt2"), 2, "int8", "onnx", "pt2")
    one_line(cli("ffexport", run_copy, "--precision", "int8", "--images", tmp_path / "none"), 1, "--images", "none")
    one_line(cli("ffexport", tmp_path / "none"), 1, "is not a run folder")
    monkeypatch.chdir(tmp_path)
    one_line(cli("ffexport", "--format", "onnx"), 1, "no finished run under runs/")


def test_a_file_out_of_tolerance_is_an_error_of_one_line(cli, run_copy):
    arguments = ("--format", "torchscript", "--precision", "fp16", "--atol", "1e-9")
    one_line(cli("ffexport", run_copy, *arguments), 1, "--atol 1e-09", "nothing was written")
    assert not (run_copy / "export").exists()


def test_without_a_run_the_newest_is_taken_and_named(cli, trained, tmp_path, monkeypatch):
    shutil.copytree(trained / "bp", tmp_path / "runs" / "new")
    shutil.copytree(trained / "ff", tmp_path / "runs" / "old")
    os.utime(tmp_path / "runs" / "old" / "backbone.safetensors", (1, 1))
    monkeypatch.chdir(tmp_path)
    assert newest_run() == Path("runs/new")
    ended = cli("ffexport", "--format", "torchscript")
    assert ended.code == 0
    assert "exporting runs/new, the newest run under runs/" in ended.err
    assert (tmp_path / "runs" / "new" / "export" / "model.ts").is_file()


def test_bench_answers_line_by_line(trained, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 28, 28), dtype=np.uint8)
    np.save(tmp_path / "in.npy", images)
    model = load_subject(Run.load(trained / "ff")).model
    requests = [
        {"batch": 2, "repeats": 3},
        {"batch": 7, "repeats": 1, "warmup": 0, "images_npy": str(tmp_path / "in.npy")},
        {"run": str(tmp_path / "in.npy"), "out": str(tmp_path / "out.npz"), "batch": 2},
        {"batch": 0, "repeats": 1},
        {"repeats": 1},
        {"run": str(tmp_path / "none.npy"), "out": str(tmp_path / "out.npz")},
    ]
    text = "\n".join([*map(json.dumps, requests), "", "no JSON"])
    answers = io.StringIO()
    ready = {"ready": True, "shape": [1, 28, 28], "output_names": ["features", "logits", "probabilities"]}
    bench.serve(ready, as_run(model), io.StringIO(text), answers)
    first, two, seven, done, *errors = map(json.loads, answers.getvalue().splitlines())
    assert first == ready
    assert [len(two["seconds"]), len(seven["seconds"])] == [3, 1]
    assert all(value > 0 for value in two["seconds"])
    assert two["peak_rss"] > 1e6
    assert done == {"done": True, "images": 5}
    outputs = np.load(tmp_path / "out.npz")
    for name, expected in zip(ready["output_names"], as_run(model)(images), strict=True):
        np.testing.assert_allclose(outputs[name], expected, atol=1e-5)
    assert len(errors) == 4
    assert all(error.keys() == {"error"} for error in errors)


@pytest.mark.parametrize("kind", ["eager", "torchscript", "pt2", "onnx"])
def test_bench_loads_every_kind(trained, exported, monkeypatch, kind):
    monkeypatch.setattr("torch.set_num_interop_threads", lambda threads: None)  # once in a process
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)
    if kind == "eager":
        path, found = bench.place(trained / "ff", None)
    else:
        suffix = {"torchscript": ".ts", "pt2": ".pt2", "onnx": ".onnx"}[kind]
        path, found = bench.place(exported["ff"] / f"model{suffix}", None)
    assert found == kind
    ready, run = bench.load(path, kind, None, None, 1)
    assert ready["shape"] == [1, 28, 28]
    assert ready["bytes"] > 1e5
    assert ready["versions"].keys() >= {"python", "torch", "numpy"}
    assert len(run(np.zeros((2, 1, 28, 28), dtype=np.uint8))) == len(ready["output_names"]) == 3


def test_bench_says_what_it_cannot_load(cli, trained, tmp_path):
    with pytest.raises(RunError, match="does not exist: `ffexport` makes it"):
        bench.place(trained / "ff", "torchscript")
    with pytest.raises(SettingError, match="--kind eager needs a run folder"):
        bench.place(tmp_path / "model.ts", "eager")
    one_line(cli("ffexport", "bench", tmp_path / "model.txt"), 2, "model.txt", "eager, onnx, torchscript, pt2")
    (tmp_path / "model.pt2").write_bytes(b"bad")
    one_line(cli("ffexport", "bench", tmp_path / "model.pt2"), 1, "model.pt2")


def test_bench_is_a_process_that_ends_with_its_input(exported):
    path, request = exported["ff"] / "model.ts", '{"batch": 1, "repeats": 2}\n'
    ended = python("-m", "ffexport", "bench", path, "--threads", "1", input=request)
    assert ended.returncode == 0, ended.stderr
    ready, timed = map(json.loads, ended.stdout.splitlines())
    assert ready["ready"] is True
    assert ready["threads"] == 1
    assert ready["import_s"] > 0.1  # torch, which nothing before it has loaded
    assert len(timed["seconds"]) == 2
    assert ended.stderr == ""
