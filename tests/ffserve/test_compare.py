"""`ffserve compare` as it is typed: real children for ONNX files, fake ones for what needs torch."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffserve import compare, compare_cli
from ffserve.candidates import Candidate

FAKE = Path(__file__).with_name("fake_child.py")
WEIGHT = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)


@pytest.fixture
def command(cli):
    """Runs `ffserve compare` in this process: command("a.onnx", "--json") -> Ended."""
    return partial(cli, "ffserve", "compare")


@pytest.fixture
def fakes(monkeypatch, tmp_path):
    """Stands fake children in for those that need torch: fakes(slow="die") has `slow.ts` die. Returns their log."""
    log = tmp_path / "log"
    log.touch()
    np.save(f"{log}.weight.npy", WEIGHT)
    real = Candidate.command

    def use(**how):
        def made(self, threads):
            if not self.needs_torch:
                return real(self, threads)
            name = self.path.stem if self.kind != "eager" else "eager"
            return [sys.executable, str(FAKE), name, str(log), how.get(name, "well"), str(threads)]

        monkeypatch.setattr(Candidate, "command", made)
        monkeypatch.setattr(compare, "has_torch", lambda: True)
        return log

    return use


def make_run(folder, labels=(0, 1, 2, 0)):
    """Writes what compare reads of a run folder, and returns its images."""
    folder.mkdir()
    images = np.random.default_rng(5).integers(0, 256, (len(labels), 1, 4, 4), dtype=np.uint8)
    np.savez(folder / "samples.npz", images=images, labels=np.array(labels))
    (folder / "config.json").write_text(json.dumps({"data": {"class_names": ["zero", "one", "two"]}}))
    return images


def softmax(logits):
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def test_onnx_files_side_by_side(command, make_model, tmp_path):
    """Everything that is said of two ONNX files, held against NumPy; the picture; a peak that is the child's own."""
    first = make_model("a.onnx")
    noisy = first.weight + np.random.default_rng(3).normal(size=first.weight.shape)
    second = make_model("b.int8.onnx", weight=noisy, about=lambda texts: texts.update(precision='"int8"'))
    images = np.random.default_rng(4).integers(0, 256, (30, 1, 4, 4), dtype=np.uint8)
    labels = np.arange(30) % 3
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = tmp_path / "images" / first.classes[label] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
    (tmp_path / "images" / first.classes[0] / "notes.txt").write_text("none")
    ballast = np.ones(40_000_000)  # 305 MiB that are no child's
    ended = command(
        *(first.path, second.path, "--images", tmp_path / "images", "--batch-size", 1, "--batch-size", 8),
        *("--rounds", 1, "--threads", 1, "--json", "--chart", tmp_path / "chart.svg"),
    )
    del ballast
    assert ended.code == 0, ended.err
    assert ended.err.count("left out, no images: 1 (") == 1
    assert "notes.txt" in ended.err
    result = ended.json
    assert result["reference"] == "a.onnx"
    assert result["settings"] == {"threads": 1, "rounds": 1, "cold_starts": 1}
    assert result["images"]["count"] == result["images"]["labelled"] == 30
    assert {"ffstudy", "python", "onnxruntime", "numpy"} == set(result["versions"])
    assert result["machine"]["cpu"]
    assert [m["name"] for m in result["models"]] == ["a.onnx", "b.int8.onnx"]
    assert [m["precision"] for m in result["models"]] == ["fp32", "int8"]
    for found, made in zip(result["models"], (first, second), strict=True):
        mine, theirs = made.expected(images), first.expected(images)
        assert found["error"] is None
        assert found["bytes"] == made.path.stat().st_size
        assert 0 < found["load_s"] < found["cold_start_s"]
        assert found["cold_start"] == "ffserve predict"
        assert 20 * 2**20 < found["peak_memory_bytes"] < 250 * 2**20
        for name, difference in found["largest_difference"].items():
            assert difference == pytest.approx(np.abs(mine[name] - theirs[name]).max(), abs=1e-5), name
        best, reference = mine["logits"].argmax(-1), theirs["logits"].argmax(-1)
        assert found["same_class"] == pytest.approx((best == reference).mean())
        assert found["accuracy"] == pytest.approx((best == labels).mean())
        assert [speed["batch"] for speed in found["batches"]] == [1, 8]
        for speed in found["batches"]:
            assert 0 < speed["p50_s"] <= speed["p95_s"] <= speed["p99_s"]
            assert speed["images_per_s"] > 0
            assert speed["runs"] >= 5
    assert 0 < result["models"][1]["same_class"] < 1
    assert all(speed["speed"] == 1 for speed in result["models"][0]["batches"])
    text = (tmp_path / "chart.svg").read_text(encoding="utf-8")
    assert text.startswith("<?xml")
    assert not list(tmp_path.glob(".*partial"))


def test_the_run_is_the_reference_and_rounds_are_interleaved(command, fakes, make_model, tmp_path):
    images = make_run(tmp_path / "run")
    for name in ("slow.ts", "quick.pt2"):
        (tmp_path / name).write_bytes(b"")
    made = make_model(weight=WEIGHT, bias=np.zeros(3))
    log = fakes()
    ended = command(
        *(tmp_path / "slow.ts", made.path, tmp_path / "quick.pt2", "--run", tmp_path / "run"),
        *("--batch-size", 2, "--rounds", 2, "--threads", 1, "--json"),
    )
    assert ended.code == 0, ended.err
    result = ended.json
    assert result["reference"] == "eager"
    assert result["images"]["what"] == "the 4 validation images in run/samples.npz"
    models = {m["name"]: m for m in result["models"]}
    assert [*models] == ["eager", "slow.ts", "model.onnx", "quick.pt2"]
    assert [m["kind"] for m in models.values()] == ["eager", "torchscript", "onnx", "pt2"]
    for name, seconds in {"eager": 0.004, "slow.ts": 0.008, "quick.pt2": 0.001}.items():
        (speed,) = models[name]["batches"]
        assert [speed[key] for key in ("p50_s", "p95_s", "p99_s")] == pytest.approx([2 * seconds] * 3)
        assert speed["images_per_s"] == pytest.approx(1 / seconds)
        assert speed["speed"] == pytest.approx(0.004 / seconds)
        assert (models[name]["peak_memory_bytes"], models[name]["bytes"]) == (5_000_000, 1234)
        assert models[name]["load_s"] == 0.5
        assert models[name]["cold_start"] == "first run"
    assert models["eager"]["largest_difference"] == {"features": 0, "logits": 0, "probabilities": 0}
    assert max(models["model.onnx"]["largest_difference"].values()) < 1e-5
    right = (softmax(images.reshape(4, 16) / 255 @ WEIGHT).argmax(-1) == [0, 1, 2, 0]).mean()
    assert {m["accuracy"] for m in models.values()} == {right}  # classes as the ONNX file names them
    assert {m["same_class"] for m in models.values()} == {1.0}
    asked = [line.partition(" ") for line in log.read_text().splitlines()]
    asked = [(name, json.loads(request)) for name, _, request in asked]
    order = [name for name, request in asked if request.get("warmup")]
    assert order == ["eager", "slow", "quick"] * 3  # once to see how long it takes
    repeats = [request["repeats"] for _, request in asked if request.get("warmup")]
    assert repeats[3:] == [31, 16, 125] * 2  # about a quarter of a second each
    starts = [name for name, request in asked if request.get("warmup") == 0]
    assert starts == ["eager", "slow", "quick"] * 2


def test_what_fails_is_a_row_with_the_reason_and_the_rest_is_measured(command, fakes, make_model, tmp_path, capsys):
    make_run(tmp_path / "run")
    why = {
        "die": "signal",
        "no start": "the run is damaged",
        "other shape": "it takes images of 1x2x2, model.onnx of 1x4x4",
        "nan": "its features are not finite",
        "error": "it cannot",
    }
    for name in why:
        (tmp_path / f"{name}.ts").write_bytes(b"")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    made = make_model()
    fakes(**{name: name for name in why}, eager="no start")
    ended = command(
        *(made.path, broken, *(tmp_path / f"{name}.ts" for name in why), "--run", tmp_path / "run"),
        *("--batch-size", 2, "--rounds", 1, "--threads", 1, "--json", "--chart", tmp_path / "chart.png"),
    )
    assert ended.code == 1
    assert "Traceback" not in ended.err
    errors = [line for line in ended.err.splitlines() if line.startswith("ffserve: error: ")]
    assert len(errors) == len(why) + 2
    assert [line.count("broken.onnx") for line in errors if "broken.onnx" in line] == [1]
    assert any(line.startswith("ffserve: error: other shape.ts: it takes images") for line in errors)
    result = ended.json
    assert result["reference"] == "model.onnx"
    models = {m["name"]: m for m in result["models"]}
    assert models["model.onnx"]["error"] is None
    assert models["model.onnx"]["accuracy"] is not None
    assert "no ONNX model" in models["broken.onnx"]["error"]
    assert "the run is damaged" in models["eager"]["error"]
    for name, words in why.items():
        assert words in models[f"{name}.ts"]["error"]
        measured = name in ("nan", "error")
        assert bool(models[f"{name}.ts"]["batches"]) is measured
        assert (models[f"{name}.ts"]["peak_memory_bytes"] is not None) is measured
    with Image.open(tmp_path / "chart.png") as chart:
        assert chart.size[0] > 1000
    compare_cli._print(result)
    shown = capsys.readouterr().out
    assert "what went wrong" in shown
    assert all(words in shown for words in why.values())
    assert "model.onnx is 1" in shown


def test_without_torch_the_rest_is_compared(command, make_model, monkeypatch, tmp_path):
    make_run(tmp_path / "run")
    monkeypatch.setattr(compare, "has_torch", lambda: False)
    made = make_model(classes=None)
    (tmp_path / "model.ts").write_bytes(b"")
    given = (tmp_path / "model.ts", "--run", tmp_path / "run", "--rounds", 1, "--batch-size", 1)
    ended = command(made.path, *given)
    assert ended.code == 0, ended.err
    assert "torch is not installed, left out: eager, model.ts\n" in ended.err
    assert "model.onnx" in ended.out
    assert "left out" in ended.out
    ended = command(*given)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.splitlines()[-1].startswith("ffserve: error: nothing is left to compare without torch")


def test_wrong_usage_is_one_line(command, make_model, tmp_path, monkeypatch):
    made = make_model()
    other = tmp_path / "model.txt"
    other.write_text("")
    (tmp_path / "images" / "seven").mkdir(parents=True)
    Image.new("L", (4, 4)).save(tmp_path / "images" / "seven" / "a.png")
    quick = ("--rounds", 1, "--batch-size", 1)

    def failed(code, words, *arguments):
        ended = command(*arguments)
        assert (ended.code, ended.out) == (code, ""), ended
        lines = [line for line in ended.err.splitlines() if not line.startswith("ffserve: start ")]
        assert len(lines) == 1, ended.err
        assert lines[0].startswith("ffserve: error: ")
        assert words in lines[0]

    failed(2, "name models")
    failed(2, "model.txt is no model", other)
    failed(2, "--batch-size", made.path, "--batch-size", 0)
    failed(2, "--rounds", made.path, "--rounds", 0)
    failed(2, "--time-limit", made.path, "--time-limit", -1)
    failed(2, "chart.txt", made.path, "--chart", tmp_path / "chart.txt")
    failed(1, "nothing.onnx does not exist", tmp_path / "nothing.onnx")
    failed(1, "has no config.json", made.path, "--run", tmp_path)
    failed(1, "without export/manifest.json", tmp_path)
    failed(2, "nowhere is no folder", made.path, "--images", tmp_path / "nowhere", *quick)
    failed(2, "seven are no classes of a model", made.path, "--images", tmp_path / "images", *quick)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    failed(1, "matplotlib is not installed: run pip install matplotlib", made.path, "--chart", "a.svg")


def test_the_help_teaches(command):
    ended = command("--help")
    assert ended.code == 0
    assert "--time-limit" in ended.out
