"""Accuracies are measured on any number of processes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ffcore.errors import RunError, SettingError
from ffmodels.draws import Draws
from ffmodels.units import heads_of, make_units
from fftrain.evaluate import BYTES, ROWS, accuracy, evaluate_run, pretext_data, rows_of
from fftrain.launcher import make_accelerator
from fftrain.run import Run, RunFolder
from fftrain.training import pretrain
from tests.fftrain.training import SMALL, data_of, settings


@dataclass
class Share:
    """What tells one process of several which part is its own."""

    process_index: int
    num_processes: int
    device = torch.device("cpu")


def measured(config, images, share):
    data = data_of(config)
    split = data.validation.at(slice(images))
    classes = len(config.view.class_names(data.class_names))
    backbone = config.backbone.build(data.shape, 0)
    heads = heads_of(make_units(config.method, backbone, classes, cut=config.cut, at=config.at))
    condition = config.method.condition(classes, data.shape)
    readout = config.method.readout(backbone, condition, heads, classes).eval()
    return accuracy(readout, config.view, classes, split.images, split.labels, share)


@pytest.mark.parametrize(
    ("recipe", "view", "images"),
    [("ff", "jigsaw", 40), ("bp-goodness-last", "rotation", 5), ("bp", "plain", 143), ("bp", "plain", 5)],
)
def test_any_number_of_processes_measures_the_same(monkeypatch, recipe, view, images):
    monkeypatch.setattr("fftrain.evaluate.ROWS", 40)
    config = settings(recipe, view=view, **SMALL)
    alone = measured(config, images, Share(0, 1))
    parts = []

    def keep(values, accelerator):
        parts.append(values)
        return [1.0] * len(values)

    monkeypatch.setattr("fftrain.evaluate.over_processes", keep)
    for world in (1, 2, 3, 7):
        parts.clear()
        for rank in range(world):
            assert [*measured(config, images, Share(rank, world))] == [*alone]
        *hits, rows = np.sum(parts, axis=0)  # as many values of each process, else they would wait for ever
        assert rows == images * {"jigsaw": 24, "rotation": 4, "plain": 1}[view]
        assert [hit / rows for hit in hits] == [*alone.values()]


def test_evaluating_again_gives_what_training_recorded(trained):
    recorded = RunFolder(trained / "ff").read_results()["pretext"]["validation"]
    assert evaluate_run(trained / "ff", split="validation", accelerator=make_accelerator(2)) == recorded


def test_what_is_told_is_told_by_hand_too(trained):
    """Every validation image in each of the four ways, one by one."""
    run = Run.load(trained / "bp")
    readout, data = run.readout(), data_of(settings("bp", dataset="digits"))
    right = [
        readout(torch.rot90(image[None].float() / 255, k, (2, 3))).argmax().item() == k
        for image in data.validation.images
        for k in range(4)
    ]
    recorded = RunFolder(trained / "bp").read_results()["pretext"]["validation"]
    assert recorded["accuracy"] == pytest.approx(np.mean(right), abs=0.01)
    assert recorded["images"] == len(data.validation)


def test_a_method_that_tells_nothing_has_no_accuracy(tmp_path):
    assert pretrain(settings("ff-unsupervised", view="plain", **SMALL), tmp_path / "run") == {}
    with pytest.raises(RunError, match=r"was trained without labels .*it tells nothing"):
        evaluate_run(tmp_path / "run")
    with pytest.raises(SettingError, match="--split is 'train': choose one of validation, test"):
        evaluate_run(tmp_path / "run", split="train")


def test_images_are_worked_on_by_bytes():
    assert rows_of((1, 28, 28)) == ROWS
    assert rows_of((3, 224, 224)) == BYTES // (4 * 3 * 224 * 224) == 55
    assert rows_of((3, 224, 224), (64, 224, 224), (128,)) == 2
    assert rows_of((3, 10_000, 10_000)) == 1


def test_pretext_labels_are_drawn_once_and_say_what_was_done(trained, monkeypatch):
    run, data = Run.load(trained / "ff"), data_of(settings("ff", dataset="digits"))
    found = pretext_data(run, data)
    assert found.class_names == ("0", "90", "180", "270")
    for name in ("train", "validation", "test"):
        split, whole = found.split(name), data.split(name)
        turned = [torch.rot90(image, int(k), (1, 2)) for image, k in zip(whole.images, split.labels, strict=True)]
        assert torch.equal(split.images, torch.stack(turned))
    monkeypatch.setattr("fftrain.evaluate.BYTES", 4 * 28 * 28 * 7)  # seven images at once
    again = pretext_data(run, data)
    assert torch.equal(again.test.labels, found.test.labels)
    assert torch.equal(again.test.images, found.test.images)
    assert torch.equal(found.test.labels, Draws(0, 2, torch.arange(len(data.test))).integers("pretext", 0, 4))
