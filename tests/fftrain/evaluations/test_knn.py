from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from ffcore.errors import SettingError
from fftrain.evaluations.knn import KNN
from fftrain.features import Features
from tests.fftrain.evaluations.subjects import blobs, made, subject_of


@pytest.mark.parametrize("temperature", [1e-4, 0.07, 1.0])
@pytest.mark.parametrize("count", [1, 3, 20])
def test_the_vote_is_that_of_scikit_learn(monkeypatch, count, temperature):
    monkeypatch.setattr("fftrain.features.ROWS", 37)  # several chunks of both sides
    splits = [blobs(n, seed, noise=0.9) for n, seed in ((200, 0), (80, 1), (90, 2))]
    features, data = Features(*(x for x, _ in splits)), made([labels for _, labels in splits])
    [validation, test] = KNN(neighbours=(count,), temperature=temperature).measure(subject_of(features, data))
    reference = KNeighborsClassifier(
        count,
        weights=lambda far: np.exp(-(far - far.min(1, keepdims=True)) / temperature),
        metric="cosine",
        algorithm="brute",
    ).fit(*(part.numpy() for part in splits[0]))
    for found, (x, labels), split in ((validation, splits[1], "validation"), (test, splits[2], "test")):
        expected = reference.score(x.numpy(), labels.numpy())
        assert (found["measure"], found["split"]) == ("knn accuracy", split)
        assert found["value"] == pytest.approx(expected, abs=1.1 / len(labels))  # a tie may fall either way


def test_validation_chooses_how_many_vote_and_the_test_split_has_no_say():
    splits = [blobs(n, seed, noise=0.9) for n, seed in ((200, 0), (80, 1), (90, 2))]
    data = made([labels for _, labels in splits])
    (train, _), (validation, _), (test, _) = splits
    [one, first] = KNN().measure(subject_of(Features(train, validation, test), data))
    [other, second] = KNN().measure(subject_of(Features(train, validation, torch.randn(test.shape)), data))
    assert one == other
    assert first["neighbours"] == second["neighbours"] == one["neighbours"]
    alone = {
        count: next(KNN(neighbours=(count,)).measure(subject_of(Features(train, validation, test), data)))["value"]
        for count in (1, 5, 20)
    }
    assert one["value"] == max(alone.values())


def test_fewer_training_images_than_neighbours_all_vote():
    splits = [blobs(n, seed) for n, seed in ((6, 0), (20, 1), (20, 2))]
    data = made([labels for _, labels in splits])
    records = [*KNN(neighbours=(500,)).measure(subject_of(Features(*(x for x, _ in splits)), data))]
    assert all(0 <= record["value"] <= 1 for record in records)


def test_neighbours_are_checked():
    for wrong in ((), (0,), (1.5,)):
        with pytest.raises(SettingError, match="neighbours"):
            KNN(neighbours=wrong)
