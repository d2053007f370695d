"""The parts of a comparison: which models, children that fail, what times and outputs amount to, the chart."""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
import pytest
from PIL import Image

from ffcore.errors import ModelError, ModelNotFound, UsageError
from ffcore.ink import Ink
from ffserve.agreement import Agreement, choose_images
from ffserve.candidates import find_candidates
from ffserve.chart import draw_chart
from ffserve.compare_worker import peak_rss
from ffserve.timing import Child, ChildError, repeats_for, summary

READY = "print('{\"ready\": true}', flush=True); "


def child(code, limit=30.0):
    return Child([sys.executable, "-S", "-c", code], limit=limit)


def test_a_child_answers_line_by_line():
    echo = "print('noise'); print(json.dumps({'got': json.loads(line)}), flush=True)"
    code = f"{READY}import json, sys\nfor line in sys.stdin: {echo}"
    made = child(code)
    try:
        assert made.ready == {"ready": True}
        odd = {"path": os.fsdecode(b"\xff\n"), "number": 1}
        assert made.ask(odd) == {"got": odd}
        assert made.ask({}) == {"got": {}}
    finally:
        made.close()
    made.close()
    assert made._process.returncode == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise SystemExit('ffexport bench: error: it is damaged')", "^it is damaged$"),
        ("raise ValueError('oh no')", "^ValueError: oh no$"),
        ("import sys; sys.exit(7)", "^it ended with exit code 7 and said nothing$"),
        ("import os; os.kill(os.getpid(), 9)", r"^it ended with signal 9 \(out of memory\?\) and said nothing$"),
        ("print('{no json')", "^it answered with what is no JSON: {no json$"),
        ('print(\'{"error": "no such file"}\')', "^no such file$"),
    ],
)
def test_a_child_that_does_not_start_says_why(code, words):
    with pytest.raises(ChildError, match=words):
        child(code)


def test_a_child_that_hangs_is_killed():
    began = time.perf_counter()
    with pytest.raises(ChildError, match=r"did not load within 0.3 s \(--time-limit\)"):
        child("import time; time.sleep(60)", limit=0.3)
    made = child(READY + "import time; time.sleep(60)")
    made._limit = 0.1
    with pytest.raises(ChildError, match=r"did not answer within 0.1 s"):
        made.ask({})
    assert made._process.returncode is not None
    assert time.perf_counter() - began < 20


def test_a_child_that_has_died_meanwhile_says_why():
    made = child(READY + "raise SystemExit('gone')")
    made._process.wait()
    with pytest.raises(ChildError, match=r"^gone$"):
        made.ask({"batch": 1, "text": "x" * 100_000})


def test_summary_is_what_numpy_says():
    rng = np.random.default_rng(0)
    mine, theirs = rng.uniform(1, 2, (5, 21)), rng.uniform(2, 3, (5, 21))
    found = summary(mine.tolist(), 8, theirs.tolist())
    assert found["runs"] == 105
    assert found["p50_s"] == pytest.approx(np.median(np.median(mine, axis=1)))
    assert found["p95_s"] == pytest.approx(np.percentile(mine, 95))
    assert found["p99_s"] == pytest.approx(np.percentile(mine, 99))
    assert found["images_per_s"] == pytest.approx(8 / np.median(np.median(mine, axis=1)))
    ratios = np.median(theirs, axis=1) / np.median(mine, axis=1)
    assert found["speed"] == pytest.approx(np.median(ratios))
    assert found["speed_range"] == pytest.approx([ratios.min(), ratios.max()])
    assert "speed" not in summary(mine.tolist(), 8, None)


def test_a_request_takes_about_a_quarter_of_a_second_and_never_the_time_limit():
    assert [repeats_for(seconds, 120) for seconds in (0.0, 1e-4, 2e-3, 0.02, 1.0)] == [200, 200, 125, 12, 5]
    for seconds in (0.5, 2.0, 20.0, 500.0):
        assert 1 <= repeats_for(seconds, 120) <= max(1, 60 / seconds)


def test_peak_memory():
    resource = pytest.importorskip("resource")
    # The kernel adds up both now and then, by different clocks.
    assert 2**20 < peak_rss() <= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 * 1.2


def make_export(folder, *names, **more):
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"files": {name: {} for name in names}, **more}))
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_a_folder_stands_for_its_manifest(tmp_path):
    names = ["model.readout.onnx", "model.int8.onnx", "model.pt2", "model.ts", "model.fp16.onnx", "model.onnx"]
    export = make_export(tmp_path / "run" / "export", *names, probe="mnist-neutral/block1")
    for given in (export, export.parent):
        found = find_candidates([given], None)
        assert [c.name for c in found] == [
            *("model.onnx", "model.fp16.onnx", "model.int8.onnx", "model.ts", "model.pt2", "model.readout.onnx")
        ]
    assert [c.kind for c in found] == ["onnx"] * 3 + ["torchscript", "pt2", "onnx"]
    assert [c.precision for c in found] == ["fp32", "fp16", "int8", "fp32", "fp32", "fp32"]
    assert [c.head for c in found] == ["probe"] * 5 + ["readout"]
    assert [c.needs_torch for c in found] == [False] * 3 + [True, True, False]
    twice = find_candidates([export / "model.onnx", export.parent, export / "../export/model.onnx"], None)
    assert [c.name for c in twice] == [c.name for c in found]


def test_the_eager_model_has_the_head_and_the_probe_of_the_files(tmp_path):
    export = make_export(tmp_path / "run" / "export", "model.onnx", "model.readout.onnx", probe="mnist-neutral/block1")
    run = export.parent
    with pytest.raises(ModelNotFound, match="no run folder"):
        find_candidates([], run)
    (run / "config.json").write_text("{}")

    def options(*files):
        eager = find_candidates([export / file for file in files], run)[0]
        assert (eager.name, eager.kind, eager.head) == ("eager", "eager", "probe")
        assert eager.command(3)[1:7] == ["-P", "-m", "ffexport", "bench", str(run), "--kind"]
        assert eager.command(3)[-2:] == ["--threads", "3"]
        return eager.options

    assert options("model.onnx") == ("--probe", "mnist-neutral/block1")
    assert options("model.readout.onnx") == ("--head", "readout")
    assert options("model.onnx", "model.readout.onnx") == ("--probe", "mnist-neutral/block1")
    assert [c.name for c in find_candidates([], run)] == ["eager", "model.onnx", "model.readout.onnx"]


def test_files_of_several_folders_are_told_apart(tmp_path):
    for name in ("a", "b"):
        make_export(tmp_path / name / "export", "model.onnx")
    found = find_candidates([tmp_path / "a", tmp_path / "b"], None)
    assert [c.name for c in found] == ["a/export/model.onnx", "b/export/model.onnx"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": ["model.onnx"]}', '{"files": {"../model.onnx": {}}}'])
def test_a_damaged_manifest_is_one_line(tmp_path, text):
    make_export(tmp_path / "export")
    (tmp_path / "export" / "manifest.json").write_text(text)
    with pytest.raises(ModelError, match=r"manifest.json .*: export again with `ffexport`"):
        find_candidates([tmp_path], None)


def test_a_manifest_that_is_another_file_is_called_so(tmp_path):
    (tmp_path / "manifest.json").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(
        ModelError, match=r"manifest.json is a Git LFS pointer, not the file itself: run `git lfs pull`"
    ):
        find_candidates([tmp_path], None)


def test_images_come_from_class_folders_else_samples_else_chance(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (300, 1, 5, 4), dtype=np.uint8)
    for i, image in enumerate(images):
        path = tmp_path / "images" / ("one" if i % 3 else "zero") / "deep" / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path)
    Image.fromarray(images[0, 0]).save(tmp_path / "images" / "loose.png")
    (tmp_path / "images" / "one" / "bad.png").write_bytes(b"bad")
    (tmp_path / "images" / "no images here").mkdir()
    told = []
    found = choose_images(tmp_path / "images", [], (1, 5, 4), report=told.append)
    assert found.classes == {"zero", "one"}
    chunks = list(found)
    assert [len(pixels) for pixels, _ in chunks] == [255, 46]
    every = np.concatenate([pixels for pixels, _ in chunks])
    labels = [label for _, names in chunks for label in names]
    assert labels == [None] + ["one"] * 200 + ["zero"] * 100
    np.testing.assert_array_equal(every[1:201], images[[i for i in range(300) if i % 3]])
    assert found.about()["count"] == 301
    assert found.about()["labelled"] == 300
    assert found.about()["unread"] == len(told) == 1
    found.check([None, ("zero", "one", "two")])
    with pytest.raises(UsageError, match="--images: one are no classes of a model, which knows zero"):
        found.check([("zero", "two"), None])

    white = choose_images(tmp_path / "images", [], (1, 5, 4), ink=Ink(ground=0.0, ink=255.0, close=127.0))
    bright = next(iter(white))[0].mean(dtype=float)
    assert bright != every[:256].mean(dtype=float)  # light borders on what is dark in training

    run = tmp_path / "run"
    make_export(run / "export", "model.onnx")
    np.savez(run / "samples.npz", images=images[:3], labels=np.array([1, 0, 1]))
    (run / "config.json").write_text(json.dumps({"data": {"class_names": ["zero", "one"]}}))
    for place in (run, run / "export", run / "export" / "model.onnx"):
        ((pixels, names),) = choose_images(None, [None, place], (1, 5, 4))
        np.testing.assert_array_equal(pixels, images[:3])
        assert names == ["one", "zero", "one"]
    ((pixels, names),) = choose_images(None, [run], (3, 5, 4))
    assert (pixels.shape, set(names)) == ((256, 3, 5, 4), {None})


def test_a_tally_counts_what_can_be_compared():
    rng = np.random.default_rng(0)
    mine = {
        "features": rng.normal(size=(6, 4)).astype(np.float32),
        "logits": np.eye(3, dtype=np.float32)[[0, 1, 2] * 2],
    }
    theirs = {"features": mine["features"] + np.float32(0.5), "logits": np.eye(3, dtype=np.float32)[[0, 1, 1] * 2]}
    labels = ["a", "b", None, "b", "b", None]

    def figures(**changed):
        settings = {"names": "abc", "comparable": True, "same_names": True, "classes": frozenset("ab"), **changed}
        tally = Agreement(**settings)
        tally.add(mine, theirs, labels)
        tally.add(mine, mine, labels)
        return tally.figures()

    assert figures() == {
        "largest_difference": {"features": pytest.approx(0.5), "logits": 1.0},
        "same_class": pytest.approx(10 / 12),
        "accuracy": 0.75,
    }
    assert figures(comparable=False)["largest_difference"].keys() == {"features"}
    assert figures(same_names=False)["same_class"] is None
    assert figures(names=None)["accuracy"] is None
    assert figures(classes=frozenset("az"))["accuracy"] is None
    bad = {"features": np.full((6, 4), np.inf, dtype=np.float32)}
    with pytest.raises(ValueError, match="not finite"):
        Agreement(names=None, comparable=True, same_names=True, classes=frozenset()).add(bad, theirs, labels)


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_the_chart_takes_any_names_and_is_the_same_each_time(tmp_path, suffix):
    names = ["eager", os.fsdecode(b"\xff\n$x_1$") + "long" * 30, "一.onnx"]
    models = [
        {
            "name": name,
            "kind": kind,
            "precision": "fp32",
            "error": None if k else "it died",
            "bytes": 10**k if k else None,
            "cold_start_s": k or None,
            "peak_memory_bytes": None,
            "batches": [{"batch": 1, "p50_s": 0.1 * k}] if k else [],
        }
        for k, (name, kind) in enumerate(zip(names, ("eager", "pt2", "onnx"), strict=True))
    ]
    result = {"models": models, "machine": {"cpu": "a CPU"}, "settings": {"threads": 1, "rounds": 1}}
    for name in ("a", "b"):
        draw_chart(result, tmp_path / f"{name}{suffix}")
    content = (tmp_path / f"a{suffix}").read_bytes()
    assert content == (tmp_path / f"b{suffix}").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {f"a{suffix}", f"b{suffix}"}
    with pytest.raises(UsageError, match="must end in"):
        draw_chart(result, tmp_path / "a.txt")
