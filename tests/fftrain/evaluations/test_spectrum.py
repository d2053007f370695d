from __future__ import annotations

import numpy as np
import pytest
import torch

from fftrain.data import drawn
from fftrain.evaluations.spectrum import Spectrum, spectrum
from fftrain.features import Features
from tests.fftrain.evaluations.subjects import made, subject_of

SMALL = {"images": 40}


def by_definition(x):
    s = np.linalg.svd(x - x.mean(0), compute_uv=False)
    p = s[s > 1e-6 * s[0]] / s[s > 1e-6 * s[0]].sum()
    return np.exp(-(p * np.log(p)).sum()), (s**2).sum() ** 2 / (s**4).sum()


@pytest.mark.parametrize("shape", [(60, 7), (7, 60), (30, 30)])
def test_both_are_those_of_the_singular_values(shape):
    x = np.random.default_rng(0).normal(size=shape) * np.linspace(0.01, 3, shape[1]) + 5
    found = spectrum(torch.from_numpy(x))
    np.testing.assert_allclose([*found.values()], by_definition(x), rtol=1e-6)


def test_a_line_is_one_direction_and_what_never_varies_none():
    line = torch.arange(9.0)[:, None] * torch.tensor([1.0, -2.0, 0.5]) + 1
    assert [*spectrum(line).values()] == pytest.approx([1, 1], abs=1e-6)
    assert [*spectrum(torch.ones(5, 3)).values()] == [0, 0]
    alike = torch.cat([torch.eye(6), -torch.eye(6)])
    assert [*spectrum(alike).values()] == pytest.approx([6, 6])
    assert spectrum(3 * alike + 7) == pytest.approx(spectrum(alike))


def test_as_many_validation_images_are_read_as_asked_for_of_each_class_its_share():
    x = torch.randn(50, 6)
    labels = [torch.arange(n) // (n // 5) for n in (5, 50, 5)]  # in their order, as folders have them
    data, features = made(labels), Features(torch.randn(5, 6), x, torch.randn(5, 6))
    shown = drawn(data.validation, 20)
    assert torch.bincount(labels[1][shown]).tolist() == [4] * 5
    for images, read in ((20, x[shown]), (500, x)):
        records = [*Spectrum(images=images).measure(subject_of(features, data))]
        assert {record["measure"]: record["value"] for record in records} == pytest.approx(spectrum(read))
        assert {(record["unit"], record["split"]) for record in records} == {("directions", "validation")}
