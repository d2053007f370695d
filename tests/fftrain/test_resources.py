"""What is lacking is said in one line: room on the disk, memory, locks, and a folder that was taken away."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from ffcore.errors import WriteError
from ffcore.files import replacing
from ffmodels.evaluated import evaluations
from ffmodels.run import load_encoder, save_weights
from fftrain import evaluate_run
from fftrain.config import DataSettings
from fftrain.parts import EVALUATIONS
from fftrain.run import RunFolder
from fftrain.training import Training, pretrain
from tests.fftrain.training import SMALL, epochs, evaluation, settings, weights
from tests.helpers import ROOT, Ended, one_line, python

SMALLISH = ["--dataset", "digits", "backbone.width=256", "backbone.depth=2", "--lr", 1e-3, "--threads", 1]
FULL = "cannot be written (No space left on device): free some space there"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of which each checkpoint takes about 3 MiB."""
    run = tmp_path_factory.mktemp("finished") / "run"
    pretrain(settings(dataset="digits", width=256, depth=2, lr=1e-3, epochs=1, threads=1), run)
    evaluate_run(run, evaluation("linear", epochs=1))
    return run


def filled(disk, run, room):
    """A copy of a run on a file system with so many KiB left."""
    size = sum(file.stat().st_size for file in run.rglob("*") if file.is_file()) // 1024
    folder = disk(2 * size)
    copy = Path(shutil.copytree(run, folder / "run"))
    free = shutil.disk_usage(folder).free
    (folder / "fill").write_bytes(bytes(free - 1024 * room))
    return copy


@pytest.mark.parametrize("room", [8, 60, 1100, 3000, 3500, 5600])
def test_a_training_on_a_full_disk_ends_in_one_line_and_leaves_nothing_half_written(cli, disk, room):
    run = disk(room) / "run"
    ended = cli("fftrain", "pretrain", *SMALLISH, "--epochs", 2, "--out", run)
    one_line(ended, 1, str(run), FULL)
    assert not [*run.rglob("*.partial")]


@pytest.mark.parametrize("room", [8, 900, 2500])
def test_so_does_one_that_goes_on_and_it_still_can(cli, disk, finished, room):
    run = filled(disk, finished, room)
    one_line(cli("fftrain", "pretrain", "--resume", "--out", run, "--epochs", 2), 1, str(run), FULL)
    assert weights(run) == weights(finished)
    (run.parent / "fill").unlink()
    assert cli("fftrain", "pretrain", "--resume", "--out", run, "--epochs", 2).code == 0
    assert epochs(run) == [1, 2]


@pytest.mark.parametrize(
    "command",
    [
        ["fftrain", "evaluate", "linear", "linear.epochs=1", "--reading", "zeros", "--threads", 1],
        ["fftrain", "evaluate", "knn", "--threads", 1],
        ["fftrain", "evaluate", "few-labels", "few-labels.draws=2", "--threads", 1],
        ["fftrain", "evaluate", "decoder", "decoder.images=100", "--threads", 1],
        ["fftrain", "evaluate", "tsne", "tsne.points=100", "--threads", 1],
        ["fftrain", "evaluate", "similarity", "--threads", 1],
        ["fftrain", "evaluate", "readout.split=test", "--threads", 1],
        ["ffexport", "--format", "all"],
        ["ffexport", "--precision", "fp16"],
    ],
)
def test_so_does_every_command_that_measures_or_exports(cli, disk, finished, command):
    run = filled(disk, finished, 0)
    before = sorted(run.rglob("*"))
    program, *words = command
    command = [program, run, *words] if program == "ffexport" else [program, words[0], run, *words[1:]]
    one_line(cli(*command), 1, FULL)
    assert not [path for path in sorted(run.rglob("*")) if path not in before and path.name.endswith(".partial")]


@pytest.mark.parametrize(
    "form", ["onnx", *(pytest.param(form, marks=pytest.mark.slow) for form in ("torchscript", "pt2"))]
)
def test_a_full_folder_of_temporary_files_is_named(disk, finished, tmp_path, form):
    """In a process of its own: torch's writer ended it."""
    command = [sys.executable, "-m", "ffexport", finished, "--format", form, "--out", tmp_path / "out"]
    environment = {**os.environ, "TMPDIR": str(disk(300))}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=ROOT, env=environment)
    one_line(Ended(done.returncode, done.stdout, done.stderr), 1, "temporary files cannot be written to", "TMPDIR")
    assert not (tmp_path / "out").exists()


def test_what_a_writer_says_of_a_full_disk_in_an_error_of_its_own(tmp_path, monkeypatch):
    def refuse(*arguments, **more):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("ffmodels.run.save_file", refuse)
    with pytest.raises(WriteError, match=r"a\.safetensors cannot be written \(No space left on device\): free some"):
        save_weights(torch.nn.Linear(1, 1), tmp_path / "a.safetensors")
    said = r"b cannot be written \(unlucky\): name a place that can"
    with pytest.raises(WriteError, match=said), replacing(tmp_path / "b", RuntimeError):
        raise RuntimeError("unlucky")
    assert os.listdir(tmp_path) == []


def test_a_run_folder_that_is_taken_away_is_missed_at_once(tmp_path, monkeypatch):
    run, train_epoch = tmp_path / "run", Training.train_epoch

    def take_away(*arguments):
        shutil.rmtree(run)
        return train_epoch(*arguments)

    monkeypatch.setattr(Training, "train_epoch", take_away)
    with pytest.raises(WriteError, match="run was moved or deleted while it was written into"):
        pretrain(settings(**SMALL), run)


@pytest.mark.parametrize("name", ["linear", "tsne"])
def test_so_is_one_that_is_measured(run_copy, monkeypatch, name):
    measure = EVALUATIONS.load(name).measure

    def take_away(self, subject):
        yield from measure(self, subject)
        if subject.trained:
            shutil.rmtree(run_copy)

    monkeypatch.setattr(EVALUATIONS.load(name), "measure", take_away)
    with pytest.raises(WriteError, match="run was moved or deleted while it was written into"):
        evaluate_run(run_copy, evaluation(name, **({"epochs": 1} if name == "linear" else {"points": 10})))
    assert not run_copy.exists()


def limited(*command, gib):
    """Runs a command with so much address space."""

    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (gib * 2**30, gib * 2**30))

    words = [sys.executable, "-m", *map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, preexec_fn=limit)
    return Ended(done.returncode, done.stdout, done.stderr)


def test_a_lack_of_memory_is_one_line_with_what_mends_it(tmp_path):
    """NumPy has an error for it, torch another."""
    for option in (["backbone.width=60000"], ["--image-size", 3000]):
        ended = limited("fftrain", "pretrain", *SMALLISH[:2], *option, "--out", tmp_path / "run", gib=6)
        one_line(ended, 1, "there is not enough memory", "--image-size", "--limit", "--feature-memory")
        assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_does_not_fit_into_memory_is_not_called_damaged(run_copy, monkeypatch):
    from accelerate import Accelerator

    def refuse(*arguments):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 3600000000 bytes")

    monkeypatch.setattr(Accelerator, "load_state", refuse)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        pretrain(RunFolder(run_copy).read_config(), run_copy, resume=True)


MEASURED = """
import resource, sys
from fftrain import EvaluationConfig, evaluate_run
parts = {"readout": {"split": "test"}, "decoder": {}, "tsne": {"points": 5}, "similarity": {}, "knn": {}}
parts |= {"linear": {"epochs": 1, "batch_size": 16}, "few-labels": {"per_class": 2}}
for name, settings in parts.items():
    evaluate_run(sys.argv[1], EvaluationConfig(evaluation={"name": name, **settings}, threads=1))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_large_images_are_measured_in_chunks(tmp_path):
    """36 MB more of them: by rows they would take a gigabyte more, as float32 under each label."""
    peaks = []
    rng = np.random.default_rng(0)
    for count in (80, 320):
        images = rng.integers(256, size=(count + 24, 224, 224, 3), dtype=np.uint8)
        for i, image in enumerate(images):
            path = tmp_path / str(count) / ("train" if i < 24 else "test") / "ab"[i % 2] / f"{i}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
        run = tmp_path / f"run{count}"
        small = {"width": 16, "depth": 2, "epochs": 1, "batch_size": 8, "threads": 1}
        pretrain(settings(dataset=f"imagefolder:{tmp_path}/{count}", **small), run)
        ended = python("-c", MEASURED, run)
        assert ended.returncode == 0, ended.stderr
        peaks.append(int(ended.stdout))
    assert peaks[1] - peaks[0] < 36 + 100


NO_LOCKS = """
#include <errno.h>
int flock(int fd, int op) { errno = ENOLCK; return -1; }
int lockf(int fd, int cmd, long len) { errno = ENOLCK; return -1; }
"""


@pytest.fixture(scope="module")
def no_locks(tmp_path_factory):
    """The environment of a process whose file systems have no locks."""
    folder = tmp_path_factory.mktemp("locks")
    (folder / "nolock.c").write_text(NO_LOCKS)
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "nolock.so", folder / "nolock.c"], check=True)
    return {**os.environ, "LD_PRELOAD": str(folder / "nolock.so")}


@pytest.mark.slow
def test_where_a_file_system_has_no_locks_one_line_says_what_goes_on(cli, no_locks, tmp_path, run_copy, monkeypatch):
    new = ["fftrain", "pretrain", *SMALLISH, "--epochs", 1, "--limit", 100, "--out", tmp_path / "new"]
    said = "is on a file system without locks (No locks available)"
    ended = python("-m", *new, env=no_locks)
    one_line(Ended(ended.returncode, ended.stdout, ended.stderr), 1, said, "FFSTUDY_LOCKS=off", str(tmp_path))
    ended = python("-m", *new, env={**no_locks, "FFSTUDY_LOCKS": "off"})
    assert ended.returncode == 0, ended.stderr

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    commands = (
        ["fftrain", "evaluate", run_copy, "--threads", 1],
        ["fftrain", "study", "--preset", "smoke", "--only", "*-bp-s0-*", "--out", tmp_path / "study"],
        ["ffexport", run_copy],
        ["fftrain", "dump-images", "digits", tmp_path / "png"],
    )
    for command in commands:
        one_line(cli(*command), 1, said, "FFSTUDY_LOCKS=off", str(tmp_path))
    assert not (tmp_path / "png").exists()
    monkeypatch.setenv("FFSTUDY_LOCKS", "off")
    for command in (commands[0], commands[3]):
        assert cli(*command).code == 0


@pytest.mark.slow
def test_paths_may_be_text(tmp_path, trained):
    from ffexport import export_run, newest_run
    from fftrain import Study, compare_runs, plan, write_report
    from fftrain.dumping import dump_images

    out = str(tmp_path / "run")
    config = settings(**{**SMALL, "epochs": 1}, data_dir=tmp_path)
    pretrain(config, out)
    pretrain(config, out, resume=True)
    parts = [evaluation("linear", epochs=1), evaluation("readout", split="test", data_dir=tmp_path)]
    parts += [evaluation("similarity", images=50, against=str(trained / "bp")), evaluation("decoder", images=50)]
    found = evaluate_run(out, *parts, baselines=str(tmp_path / "baselines"))
    assert {one.path for one in found} < {one.path for one in evaluations(Path(out))}
    assert compare_runs(out, str(trained / "bp"), images=20)["images"] == 20
    assert newest_run(str(tmp_path)) == Path(out)
    manifest = export_run(out, out=str(tmp_path / "export"))
    assert manifest["out"] == str(tmp_path / "export")
    assert dump_images(DataSettings(dataset="digits"), "test", str(tmp_path / "png")) == 359
    export_run(out, images=str(tmp_path / "png"), out=str(tmp_path / "export"), precision="fp16")
    assert write_report(str(tmp_path))["page"] == str(tmp_path / "report.html")
    assert load_encoder(out).dims == (32, 32, 32)
    study = Study(str(tmp_path / "study"), plan({"dataset": ["digits"]}, "x"))
    assert study.check_plan() == {}
