"""Training through the real commands: killed, on several processes, by a launcher."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from ffmodels.evaluated import evaluations
from fftrain.run import RunFolder
from fftrain.training import pretrain
from tests.fftrain.training import LOSSES, OPTIONS, SMALL, apart, epochs, launched, settings, weights
from tests.helpers import ROOT, one_line, python


def test_killed_in_mid_epoch_and_resumed_is_bit_identical(tmp_path):
    options = ["-m", "fftrain", "pretrain", *map(str, OPTIONS), "--epochs", "4", "--limit", "700"]
    whole = python(*options, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    run = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, *options, "--out", str(run)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (run / "checkpoint" / "epoch-00001").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert 1 <= len(epochs(run)) < 4
    assert not (run / "backbone.safetensors").exists()
    resumed = python("-m", "fftrain", "pretrain", "--resume", "--out", run)
    assert resumed.returncode == 0, resumed.stderr
    assert weights(run) == weights(tmp_path / "whole")
    assert epochs(run) == [1, 2, 3, 4]
    assert len(list((run / "checkpoint").iterdir())) == 1


@pytest.mark.slow
def test_two_processes_agree_with_one_within_1e_4(tmp_path):
    """Sums are added in another order: weights of up to 0.1 differ by up to 1e-5 after 3 epochs here."""
    options = [*OPTIONS, "--epochs", 3, "--batch-size", 50, "backbone.width=64", "--limit", 451]
    options += ["--eval-images", 1]  # fewer than processes; and the last batch has one row
    one = python("-m", "fftrain", "pretrain", *options, "--out", tmp_path / "one")
    assert one.returncode == 0, one.stderr
    two = launched("-m", "fftrain", "pretrain", *options, "--out", tmp_path / "two")
    assert two.returncode == 0, two.stderr
    assert "2 x cpu" in two.stderr
    assert two.stdout.splitlines()[1:] == one.stdout.splitlines()[1:]
    assert apart(tmp_path / "one", tmp_path / "two") < 1e-4


@pytest.mark.slow
def test_two_processes_agree_with_one_by_every_other_recipe(tmp_path):
    """One launch for all: to start processes takes longer than to train these."""
    program = tmp_path / "train.py"
    small = {**SMALL, "epochs": 3, "batch_size": 50, "limit": 451, "eval_images": 3, "lr": 1e-3}
    program.write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from fftrain import pretrain\n"
        "from tests.fftrain.training import settings\n"
        "for recipe in sys.argv[2:]:\n"
        f"    pretrain(settings(recipe, **{small}), Path(sys.argv[1]) / recipe)\n"
        "os._exit(0)  # gloo's threads may abort an interpreter that ends (pytorch #190489)\n"
    )
    others = [recipe for recipe in LOSSES if recipe != "ff"]
    two = launched(program, tmp_path / "two", *others)
    assert two.returncode == 0, two.stderr
    for recipe in others:
        pretrain(settings(recipe, **small), tmp_path / "one" / recipe)
        assert apart(tmp_path / "one" / recipe, tmp_path / "two" / recipe) < 1e-4
        one, other = (RunFolder(tmp_path / name / recipe) for name in ("one", "two"))
        assert [told.records for told in evaluations(one.path)] == [told.records for told in evaluations(other.path)]
        for a, b in zip(one.read_metrics(), other.read_metrics(), strict=True):
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
            assert b["validation"]["loss"] == pytest.approx(a["validation"]["loss"], rel=1e-4)
            told = [split["validation"].get("accuracy", 0.0) for split in (a, b)]
            assert told[1] == pytest.approx(told[0], abs=0.01)


def test_processes_that_do_not_join_are_refused(cli, monkeypatch, tmp_path):
    def leave(code):
        raise SystemExit(code)

    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(os, "_exit", leave)  # what a process of several does
    ended = cli("fftrain", "pretrain", "--dataset", "digits", "--out", tmp_path / "run")
    one_line(ended, 1, "started 2 processes but Accelerate joined 1", "ACCELERATE_USE_CPU")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_accelerate_launch_and_python_m_run_the_same_program(tmp_path):
    options = ["fftrain", "pretrain", *OPTIONS, "--epochs", 1, "backbone.width=40"]
    for name, launcher in (("python", []), ("launch", ["accelerate.commands.launch", "--cpu", "-m"])):
        ended = python("-m", *launcher, *options, "--out", tmp_path / name)
        assert ended.returncode == 0, ended.stderr
    assert weights(tmp_path / "python") == weights(tmp_path / "launch")


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "lr", "least"), [("ff", 1e-3, 0.96), ("bp", 3e-4, 0.98)])
def test_rotation_of_mnist_is_learned_in_six_epochs(real_mnist, tmp_path, recipe, lr, least):
    config = settings(recipe, lr=lr, epochs=6, mixed_precision="bf16", data_dir=str(real_mnist))
    [told] = pretrain(config, tmp_path / "run")
    assert told.value(measure="pretext accuracy") >= least


def test_the_curves_of_tensorboard_are_those_of_the_metrics_after_resuming_too(cli, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    small = ["--dataset", "digits", "backbone.width=16", "backbone.depth=2", "--limit", 80]
    for extra in ([*small, "--epochs", 2, "--track", "tensorboard"], ["--resume", "--epochs", 3]):
        ended = cli("fftrain", "pretrain", "--threads", 1, "--out", run, *extra)
        assert ended.code == 0, ended.err
    folder = run / "tensorboard"
    events = EventAccumulator(str(folder)).Reload()
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(records) == 3
    for record in records:
        expected = {f"loss/{name}": value for name, value in record["loss"].items()}
        expected |= {name: record[name] for name in ("seconds", "images_per_second")}
        for split in ("train", "validation"):
            expected |= {f"{split}/loss/{name}": value for name, value in record[split]["loss"].items()}
            expected[f"{split}/accuracy"] = record[split]["accuracy"]
        for tag, value in expected.items():
            [at_epoch] = [event.value for event in events.Scalars(tag) if event.step == record["epoch"]]
            assert at_epoch == pytest.approx(value, rel=1e-6), tag
