"""How well a backbone answers, measured on any number of processes."""

from __future__ import annotations

import numpy as np
import pytest

from fftrain.config import PretrainConfig
from fftrain.evaluate import evaluate_run, mean_losses, pretext_accuracy
from fftrain.launcher import make_accelerator
from fftrain.run import RunFolder
from tests.fftrain.training import (
    SMALL,
    data_of,
    made,
    share_of,
    split_threshold,
)


@pytest.mark.parametrize(
    ("method", "task", "images"),
    [
        ("ff-unsupervised", "hybrid", 143),
        ("ff-unsupervised", "hybrid", 5),
        ("ff", "jigsaw", 40),
        ("bp-goodness-last", "rotation", 5),
        ("bp", "supervised", 143),
    ],
)
def test_any_number_of_processes_measures_the_same(monkeypatch, method, task, images):
    monkeypatch.setattr("fftrain.evaluate.ROWS", 40)
    config = PretrainConfig(method=method, task=task, **SMALL)
    objective, pretext = made(config)
    split = data_of(config).validation.at(slice(images))
    if task == "hybrid":
        split_threshold(objective, split)
    accuracy = pretext_accuracy(objective, pretext, split, share_of(0, 1))
    losses = mean_losses(objective, pretext, split, 0, share_of(0, 1))
    parts = []

    def keep(values, accelerator):
        parts.append(values)
        return [1.0] * len(values)

    monkeypatch.setattr("fftrain.evaluate._over_processes", keep)
    for world in (1, 2, 3, 7):
        parts.clear()
        for rank in range(world):
            assert [*pretext_accuracy(objective, pretext, split, share_of(rank, world))] == [*accuracy]
        *hits, rows = np.sum(parts, axis=0)  # as many values of each process, else they would wait for ever
        assert rows == images * {"hybrid": 2, "jigsaw": 24, "rotation": 4, "supervised": 1}[task]
        assert [hit / rows for hit in hits] == [*accuracy.values()]
        parts.clear()
        for rank in range(world):
            assert [*mean_losses(objective, pretext, split, 0, share_of(rank, world))] == [*losses]
        assert np.sum(parts, axis=0) / images == pytest.approx([*losses.values()], rel=1e-5)


def test_hybrids_are_told_from_images_by_hand_as_by_the_measure():
    config = PretrainConfig(method="ff-unsupervised", **SMALL)
    objective, task = made(config)
    split = data_of(config).validation
    split_threshold(objective, split)
    right = []
    for images, labels in task.variants(split.images, split.labels):
        for image, label in zip(images, labels, strict=True):
            [score] = objective.scores(image[None] / 255)["layer1"]
            right.append(bool(score.argmax() == label))
    assert len(right) == 286
    assert pretext_accuracy(objective, task, split, share_of(0, 1))["layer1"] == pytest.approx(np.mean(right), abs=0.01)


def test_evaluating_again_gives_what_training_recorded(trained):
    recorded = RunFolder(trained / "ff").read_results()["pretext"]["validation"]
    assert evaluate_run(trained / "ff", split="validation", accelerator=make_accelerator(2)) == recorded
