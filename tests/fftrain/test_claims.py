"""Two at once in one folder: one has it, and the other says so before anything is written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from ffcore.errors import InUse, RunError
from fftrain import evaluate_run, pretrain
from fftrain.launcher import make_accelerator
from fftrain.run import RunFolder
from fftrain.study import Shard, Study, run_study
from tests.fftrain.studies import planned, times
from tests.fftrain.training import SMALL, TINY, evaluation, launched, settings, weights
from tests.helpers import ROOT, Ended, holding, one_line


def together(*commands):
    """Starts commands at once; how each ended."""
    children = [
        subprocess.Popen(
            [sys.executable, "-m", *map(str, command)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    ended = [child.communicate() for child in children]
    return [Ended(child.returncode, *told) for child, told in zip(children, ended, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_of_two_trainings_started_at_once_one_has_the_folder(tmp_path, resume):
    run = tmp_path / "run"
    found = together(
        *(["fftrain", "pretrain", *TINY, "--epochs", 60, "--seed", s, "--out", run, *resume] for s in (0, 1))
    )
    assert sorted(ended.code for ended in found) == [0, 1], found
    [seed] = [seed for seed, ended in enumerate(found) if ended.code == 0]
    one_line(found[1 - seed], 1, f"{run} is in use by another process")
    assert "epoch" not in found[1 - seed].err
    assert json.loads((run / "config.json").read_text())["config"]["seed"] == seed
    assert len(RunFolder(run).read_metrics()) == 60
    small = {"dataset": "digits", "width": 24, "depth": 2, "limit": 80, "threads": 1, "epochs": 60, "seed": seed}
    pretrain(settings(**small), tmp_path / "alone")
    assert weights(tmp_path / "alone") == weights(run)


@pytest.mark.slow
def test_of_two_exports_one_has_the_folder(tmp_path, trained):
    """Both write the same: what one leaves is whole."""
    command = ["ffexport", trained / "bp", "--out", tmp_path / "export"]
    found = together(command, command)
    assert sorted(ended.code for ended in found) == [0, 1], found
    one_line(next(ended for ended in found if ended.code), 1, f"{tmp_path / 'export'} is in use")
    assert {*os.listdir(tmp_path / "export")} == {"model.onnx", "manifest.json", "card.md", ".lock"}


def test_every_command_that_writes_into_a_folder_leaves_it_to_who_has_it(cli, run_copy, tmp_path):
    with holding(run_copy):
        before = times(run_copy)
        for command in (
            ["fftrain", "pretrain", *TINY, "--out", run_copy],
            ["fftrain", "pretrain", "--resume", "--out", run_copy, "--epochs", 5],
            ["fftrain", "evaluate", run_copy],
            ["fftrain", "evaluate", run_copy, "linear"],
            ["fftrain", "evaluate", run_copy, "decoder", "tsne", "similarity"],
            ["ffexport", run_copy, "--out", run_copy],
        ):
            one_line(cli(*command), 1, f"{run_copy} is in use by another process")
        assert times(run_copy) == before
        assert cli("fftrain", "report", run_copy).code == 0  # which reads
    with holding(tmp_path / ".png.partial"):
        one_line(cli("fftrain", "dump-images", "digits", tmp_path / "png"), 1, "png is in use by another process")
    assert not (tmp_path / "png").exists()


def test_of_several_processes_that_work_together_one_says_it(tmp_path):
    with holding(tmp_path / "run"):
        ended = launched("-m", "fftrain", "pretrain", *TINY, "--epochs", 1, "--out", tmp_path / "run")
    assert ended.returncode
    [said] = [line for line in ended.stderr.splitlines() if "fftrain: error:" in line]
    assert f"{tmp_path / 'run'} is in use by another process" in said
    assert os.listdir(tmp_path / "run") == [".lock"]


def test_a_folder_whose_holder_was_killed_is_free(cli, run_copy, tmp_path):
    new = tmp_path / "new"
    for folder in (run_copy, new, tmp_path / ".png.partial"):
        with holding(folder) as other:
            other.kill()
            other.wait()
    assert cli("fftrain", "evaluate", run_copy, "--threads", 1).code == 0
    assert cli("fftrain", "pretrain", *TINY, "--epochs", 1, "--out", new).code == 0
    assert cli("fftrain", "dump-images", "digits", tmp_path / "png").code == 0
    assert not (tmp_path / ".png.partial").exists()


def test_the_functions_of_python_claim_too(run_copy):
    config = RunFolder(run_copy).read_config()
    with holding(run_copy):
        for call in (
            lambda: pretrain(settings(**SMALL), run_copy),
            lambda: pretrain(config, run_copy, resume=True),
            lambda: evaluate_run(run_copy, evaluation("readout", split="test"), accelerator=make_accelerator(1)),
            lambda: evaluate_run(run_copy, evaluation("linear", dataset="digits", epochs=1)),
            lambda: evaluate_run(run_copy, evaluation("decoder", images=100)),
        ):
            with pytest.raises(InUse, match="in use by another process"):
                call()


def test_a_folder_that_is_no_run_is_not_made_one(cli, tmp_path):
    for names in ([], ["linear"], ["decoder", "tsne", "similarity"]):
        one_line(cli("fftrain", "evaluate", tmp_path / "none", *names), 1, "none is not a run folder")
    with pytest.raises(RunError, match="none is not a run folder"):
        evaluate_run(tmp_path / "none", evaluation("linear"))
    one_line(cli("ffexport", tmp_path / "none"), 1, "none is not a run folder")
    assert os.listdir(tmp_path) == []


def test_a_start_that_was_killed_at_once_leaves_a_folder_that_can_be_used(tmp_path, cli):
    for name in ("run", "study"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".lock").touch()
    assert cli("fftrain", "pretrain", *TINY, "--epochs", 1, "--out", tmp_path / "run").code == 0
    Study(tmp_path / "study", planned()).create("test")


def test_a_cell_that_someone_works_in_is_tried_again(copy):
    found = Study(copy, planned())
    cell, other = found.spec.cells[:2]
    for each in (cell, other):
        shutil.rmtree(found.folder(each))
    with holding(found.folder(cell)):
        assert [*run_study(found, command="test", shard=Shard())] == [cell.name]
        assert found.state(cell).status == "failed"
        assert found.state(other).status == "done"
    assert run_study(found, command="test", shard=Shard()) == {}
    assert found.state(cell).status == "done"
    damaged = found.folder(cell) / "config.json"
    damaged.write_text("{")
    with holding(found.folder(cell)):
        assert run_study(found, command="test", shard=Shard(), redo_damaged=True) == {}
    assert damaged.read_text() == "{"
