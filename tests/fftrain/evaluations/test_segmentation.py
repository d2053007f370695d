from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score
from torch.nn import functional

from fftrain.data import ImageData, Split
from fftrain.evaluations.segmentation import GROUND, Segmentation, agreement
from fftrain.parts import EVALUATIONS
from fftrain.scenes import UNTOLD, Scenes
from tests.fftrain.evaluations.subjects import subject_of

SMALL = {"scenes": 9, "epochs": 1}


def scenes_of(classes):
    N, M = len(classes), 1
    images, labels = torch.zeros(N, 1, *classes.shape[1:]), torch.zeros(N, M)
    return Scenes(images, classes, torch.zeros(N, M, 4), labels, labels > 0)


def lines(count, seed):
    """Two classes: a line across and a line down."""
    labels = torch.from_numpy(np.random.default_rng(seed).integers(2, size=count))
    images = torch.zeros(count, 1, 12, 12, dtype=torch.uint8)
    images[labels == 0, :, 5:7, 1:11] = 255
    images[labels == 1, :, 1:11, 5:7] = 255
    return Split(images, labels)


@pytest.mark.parametrize("there", [[0, 1, 2, 3], [0, 2, 3], [1], [UNTOLD, 0, 1, 3]])
def test_scores_are_those_of_scikit_learn_where_the_truth_is_told(there):
    rng = np.random.default_rng(0)
    truth, told = rng.choice(there, size=(5, 6, 7)), rng.integers(4, size=(5, 6, 7))
    told[rng.random(told.shape) < 0.5] = truth[rng.random(told.shape) < 0.5][0]
    logits = functional.one_hot(torch.from_numpy(told), 4).movedim(-1, 1).float()
    scenes = scenes_of(torch.from_numpy(truth).to(torch.int16))
    found = Segmentation().scores(torch.split(logits, 2), scenes, 3)
    truth, told = truth[truth >= 0], told[truth >= 0]
    expected = jaccard_score(truth, told, labels=[k for k in there if k > 0], average="macro")
    assert found["mIoU"] == pytest.approx(expected)
    assert found["pixel accuracy"] == pytest.approx(accuracy_score(truth, told))


def test_the_ground_has_no_part_in_the_mean():
    assert agreement(torch.tensor([[90, 0], [10, 0]])) == {"mIoU": 0.0, "pixel accuracy": 0.9}
    assert agreement(torch.tensor([[90, 0], [0, 10]])) == {"mIoU": 1.0, "pixel accuracy": 1.0}
    assert agreement(torch.tensor([[90, 10], [0, 0]])) == {"mIoU": 0.0, "pixel accuracy": 0.9}  # no object at all


def test_the_loss_is_cross_entropy_in_which_the_ground_weighs_less():
    rng = np.random.default_rng(1)
    logits, truth = rng.normal(size=(2, 3, 4, 5)), rng.integers(UNTOLD, 3, size=(2, 4, 5))
    found = Segmentation().loss(torch.from_numpy(logits), scenes_of(torch.from_numpy(truth).to(torch.int16)))
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    right = np.take_along_axis(shares, truth.clip(min=0)[:, None], 1)[:, 0]
    weight = np.select([truth == UNTOLD, truth == 0], [0.0, GROUND], 1.0)
    assert found.item() == pytest.approx((-np.log(right) * weight).sum() / weight.sum())


def test_scenes_of_which_nothing_is_told_change_nothing():
    logits, scenes = torch.randn(2, 3, 4, 5, requires_grad=True), scenes_of(torch.full((2, 4, 5), UNTOLD).short())
    Segmentation().loss(logits, scenes).backward()
    assert not logits.grad.any()
    assert Segmentation().scores([logits], scenes, 2) == {"mIoU": 0.0, "pixel accuracy": 0.0}


def test_what_a_linear_filter_can_tell_is_told():
    data = ImageData(
        name="x", train=lines(40, 0), validation=lines(20, 1), test=lines(20, 2), class_names=("across", "down")
    )
    part = EVALUATIONS.load("segmentation")(scenes=90, objects=1, clutter=0, epochs=8, stride=2)
    records = [*part.measure(subject_of(None, data))]
    assert [(r["measure"], r["split"], r["blocks"]) for r in records] == [
        (measure, split, "pixels") for split in ("validation", "test") for measure in ("mIoU", "pixel accuracy")
    ]
    assert all(record["value"] > 0.6 for record in records)
    assert records == [*part.measure(subject_of(None, data))]
    blind = ImageData(
        name="x",
        train=Split(data.train.images, data.train.labels.roll(1)),
        validation=data.validation,
        test=data.test,
        class_names=data.class_names,
    )
    assert next(part.measure(subject_of(None, blind)))["value"] < records[0]["value"] - 0.1
