from __future__ import annotations

import numpy as np
import pytest
import torch

from ffcore.errors import RunError, SettingError
from ffmodels.evaluated import evaluations
from ffmodels.run import Run
from fftrain import evaluate_run
from fftrain.launcher import make_accelerator
from fftrain.run import RunFolder
from fftrain.training import pretrain
from tests.fftrain.training import SMALL as FEW
from tests.fftrain.training import data_of, evaluation, settings
from tests.helpers import one_line

READOUT = evaluation("readout")


def readout_of(run):
    [found] = [found for found in evaluations(run) if found.name == "readout"]
    return found


def test_evaluating_again_gives_what_training_recorded(run_copy):
    recorded = readout_of(run_copy)
    RunFolder(run_copy).forget_measurements()
    [again] = evaluate_run(run_copy, READOUT, accelerator=make_accelerator(2))
    assert (again.path, again.records) == (recorded.path, recorded.records)
    assert again.records == readout_of(run_copy).records


def test_what_is_told_is_told_by_hand_too(trained):
    """Every validation image in each of the four ways, one by one."""
    run = Run.load(trained / "bp")
    readout, data = run.readout(), data_of(settings("bp", dataset="digits"))
    right = [
        readout(torch.rot90(image[None].float() / 255, k, (2, 3))).argmax().item() == k
        for image in data.validation.images
        for k in range(4)
    ]
    recorded = readout_of(trained / "bp")
    assert recorded.value(measure="pretext accuracy", split="validation") == pytest.approx(np.mean(right), abs=0.01)
    assert {record["images"] for record in recorded.records} == {len(data.validation)}


def test_each_reader_has_its_accuracy_and_the_one_that_predicts_stands_alone(trained):
    recorded = readout_of(trained / "ff")
    told, *by = recorded.records
    assert told["measure"] == "pretext accuracy"
    assert "blocks" not in told
    assert {record["measure"] for record in by} == {"pretext accuracy by reader"}
    of_reader = {record["blocks"]: record["value"] for record in by}
    assert {*of_reader} == {"block1", "block2", "block3", "block4", "blocks2-4-mean"}
    assert told["value"] == of_reader["blocks2-4-mean"]
    assert {record["source"] for record in recorded.records} == {"ff"}


def test_a_method_that_tells_nothing_has_no_accuracy(cli, tmp_path):
    run = tmp_path / "run"
    assert pretrain(settings("ff-unsupervised", view="plain", **FEW), run) == []
    assert evaluations(run) == []
    with pytest.raises(RunError, match=r"has nothing that tells labels \(hybrid-forward-forward\): name what"):
        evaluate_run(run, READOUT)
    one_line(cli("fftrain", "evaluate", run, "--threads", 1), 1, "has nothing that tells labels")
    assert evaluations(run) == []


def test_another_split_is_refused():
    with pytest.raises(SettingError, match=r"readout\.split is 'train': choose one of validation, test"):
        evaluation("readout", split="train")


def test_images_that_it_was_not_trained_on_are_refused(run_copy, tmp_path):
    data = data_of(settings("ff", dataset="digits"))
    other = type(data)(**{**vars(data), "name": "other", "test": data.validation})
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=r"was trained on digits, and other is not that: .*name what it was trained on"):
        evaluate_run(run_copy, evaluation("readout", split="test"), data=other)
    assert {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()} == before
