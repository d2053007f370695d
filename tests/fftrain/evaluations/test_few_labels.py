from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from ffcore.errors import SettingError
from fftrain.evaluations.few_labels import PENALTIES, FewLabels
from fftrain.features import Features
from tests.fftrain.evaluations.subjects import blobs, made, subject_of

SMALL = {"draws": 2, "per_class": 3}


@pytest.fixture
def few():
    splits = [blobs(n, seed, noise=0.5) for n, seed in ((300, 0), (80, 1), (90, 2))]
    return Features(*(x for x, _ in splits)), made([labels for _, labels in splits])


def reference(features, data, settings, penalty):
    """Accuracies on validation and test of each draw, by the normal equations in float64."""
    train = features.train.double().numpy()
    mean, deviation = train.mean(0), train.std(0)
    scale = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 1e-6)
    x, one, other = (
        (part.double().numpy() - mean) * scale for part in (features.train, features.validation, features.test)
    )
    found = []
    for index in settings.drawn(settings.per_class[0], data):
        of, targets = x[index], 2 * np.eye(3)[data.train.labels.numpy()[index]] - 1
        centre, middle = of.mean(0), targets.mean(0)
        gram = (of - centre).T @ (of - centre) + penalty * x.shape[1] * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, (of - centre).T @ (targets - middle))
        found.append(
            [
                float(np.mean(((held - centre) @ weights + middle).argmax(1) == labels.numpy()))
                for held, labels in ((one, data.validation.labels), (other, data.test.labels))
            ]
        )
    return np.array(found).T


def test_it_is_ridge_regression_on_the_classes_at_the_penalty_that_validation_chooses(few):
    settings = FewLabels(per_class=5, draws=6)
    validation, test = settings.measure(subject_of(*few))
    by = {penalty: reference(*few, settings, penalty) for penalty in PENALTIES}
    best = max(PENALTIES, key=lambda penalty: (by[penalty][0].mean(), penalty))
    assert validation["penalty"] == test["penalty"] == best
    for found, expected, labels in ((validation, by[best][0], 80), (test, by[best][1], 90)):
        np.testing.assert_allclose(found["draws"], expected, atol=1.1 / labels)  # a tie may fall either way
        assert found["value"] == pytest.approx(np.mean(found["draws"]))
        assert found["measure"] == "accuracy with 5 labels a class"


def test_the_interval_is_students_of_the_mean(few):
    for found in FewLabels(per_class=5, draws=6).measure(subject_of(*few)):
        values = found["draws"]
        expected = stats.t.interval(0.95, 5, loc=np.mean(values), scale=stats.sem(values))
        assert (found["low"], found["high"]) == pytest.approx(expected)


def test_every_source_is_asked_with_the_same_draws_of_as_many_of_each_class():
    labels = np.arange(90) % 3
    data = made([torch.from_numpy(labels)] * 3)
    one, other = (FewLabels(draws=5).drawn(4, data) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert len({tuple(sorted(draw)) for draw in one}) == 5
    for draw in one:
        assert len({*draw}) == 12
        assert np.bincount(labels[draw]).tolist() == [4, 4, 4]
    another = FewLabels(draws=5, seed=1).drawn(4, data)
    assert not all(np.array_equal(a, b) for a, b in zip(one, another, strict=True))


def test_the_test_split_has_no_say(few):
    features, data = few
    one, _ = FewLabels(per_class=5, draws=4).measure(subject_of(features, data))
    changed = Features(features.train, features.validation, torch.randn(features.test.shape))
    other, _ = FewLabels(per_class=5, draws=4).measure(subject_of(changed, data))
    assert one == other


def test_a_class_with_fewer_images_is_said(few):
    with pytest.raises(SettingError, match=r"few-labels.per_class is 500, and a class has \d+ training images"):
        [*FewLabels(per_class=500).measure(subject_of(*few))]


def test_a_class_without_images_is_said():
    data = made([torch.arange(9) % 2] * 3)
    with pytest.raises(SettingError, match=r"few-labels\.per_class is 1, and a class has 0 training images"):
        FewLabels(per_class=1).drawn(1, data)


def test_several_numbers_of_labels_are_each_what_it_is_alone(few):
    together = [*FewLabels(per_class=[1, 5], draws=3).measure(subject_of(*few))]
    alone = [record for n in (1, 5) for record in FewLabels(per_class=n, draws=3).measure(subject_of(*few))]
    assert together == alone
    assert [record["measure"] for record in together[::2]] == [
        f"accuracy with {n} a class" for n in ("1 label", "5 labels")
    ]
    with pytest.raises(SettingError, match=r"few-labels.per_class is 500, and a class has \d+ training images"):
        next(FewLabels(per_class=[1, 500]).measure(subject_of(*few)))  # before anything is measured


def test_numbers_of_labels_are_checked():
    assert FewLabels(per_class=3) == FewLabels(per_class=[3])
    for wrong in ((), 0, (1, 0), 1.5, "1,5"):
        with pytest.raises(SettingError, match="per_class"):
            FewLabels(per_class=wrong)
