"""Calibration against scikit-learn, and bins that are looked for one by one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import log_loss

from ffserve.calibration import BINS, Calibration
from tests.ffserve.test_evaluate import tree


def told(count=500, classes=4, seed=0, sharp=3.0):
    """Classes, and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)) + np.eye(classes)[labels]
    odds = np.exp(sharp * logits)
    return labels, (odds / odds.sum(1, keepdims=True)).astype(np.float32)


def summed(labels, probabilities, batch=64):
    found = Calibration.empty()
    for start in range(0, len(labels), batch):
        found.add(labels[start : start + batch], probabilities[start : start + batch])
    return found.summary()


def reference(labels, probabilities):
    """The expected calibration error, one bin after another: (low, high]."""
    sure, right = probabilities.max(1).astype(float), probabilities.argmax(1) == labels
    error, bins = 0.0, []
    for k in range(BINS):
        inside = (sure > k / BINS) & (sure <= (k + 1) / BINS)
        bins.append((int(inside.sum()), sure[inside], right[inside]))
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    return error, bins


@pytest.mark.parametrize("sharp", [0.2, 1.0, 3.0])
def test_figures_are_those_of_scikit_learn_and_of_bins_one_by_one(sharp):
    labels, probabilities = told(sharp=sharp)
    found = summed(labels, probabilities)
    exact = probabilities.astype(float)
    exact /= exact.sum(1, keepdims=True)  # float32 rounds the sum
    assert found["negative_log_likelihood"] == pytest.approx(log_loss(labels, exact), rel=1e-6)
    assert found["brier"] == pytest.approx(((exact - np.eye(4)[labels]) ** 2).sum(1).mean(), rel=1e-5)
    error, bins = reference(labels, probabilities)
    assert found["error"] == pytest.approx(error, rel=1e-9)
    assert found["confidence"] == pytest.approx(probabilities.max(1).mean(), rel=1e-5)
    assert sum(entry["images"] for entry in found["bins"]) == len(labels)
    for entry, (count, sure, right) in zip(found["bins"], bins, strict=True):
        assert entry["images"] == count
        expected = (sure.mean(), right.mean()) if count else (None, None)
        assert (entry["confidence"], entry["accuracy"]) == pytest.approx(expected)


def test_one_who_is_as_sure_as_right_has_no_error_and_one_who_is_never_right_has_all():
    labels = np.arange(300) % 3
    even = np.full((300, 3), 1 / 3)
    assert summed(labels, even)["error"] == pytest.approx(0, abs=1e-12)
    assert summed(labels, even)["negative_log_likelihood"] == pytest.approx(np.log(3))
    wrong = np.eye(3)[(labels + 1) % 3]
    found = summed(labels, wrong)
    assert (found["error"], found["confidence"], found["brier"]) == pytest.approx((1, 1, 2))
    assert found["bins"][-1]["images"] == 300
    assert 87 < found["negative_log_likelihood"] < 88  # a number, where -log 0 is none
    json.dumps(found, allow_nan=False)


def test_the_size_of_batches_changes_nothing():
    labels, probabilities = told()
    assert summed(labels, probabilities, 7)["error"] == pytest.approx(summed(labels, probabilities, 500)["error"])


def test_the_command_tells_it_of_the_models_own_probabilities(cli, make_model, tmp_path):
    made = make_model(weight=np.random.default_rng(4).normal(size=(16, 3)) * 2, bias=np.zeros(3))
    images = made.images(50)
    expected = made.expected(images)["probabilities"]
    labels = np.where(np.arange(50) % 3, expected.argmax(1), np.arange(50) % 3)
    tree(tmp_path / "in", images, labels, made.classes)
    (tmp_path / "in" / "one").mkdir(exist_ok=True)
    (tmp_path / "in" / "one" / "bad.png").write_bytes(b"")
    ended = cli("ffserve", "evaluate", tmp_path / "in", "--model", made.path, "--batch-size", 8, "--json")
    assert ended.code == 1  # for the image that is none, which is in no figure
    found = ended.json["calibration"]
    assert found["error"] == pytest.approx(reference(labels, expected)[0], abs=1e-5)
    assert found["negative_log_likelihood"] == pytest.approx(log_loss(labels, expected, labels=range(3)), rel=1e-4)
    assert sum(entry["images"] for entry in found["bins"]) == 50
