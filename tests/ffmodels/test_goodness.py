"""Goodness and the FF loss against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ffmodels.goodness import GOODNESS, ff_loss
from ffmodels.pairs import PairLoss

REFERENCE = {
    "sum_squares": lambda h: (h**2).sum(-1),
    "mean_squares": lambda h: (h**2).mean(-1),
    "norm": lambda h: np.sqrt((h**2).sum(-1)),
}


@pytest.mark.parametrize("name", GOODNESS)
@pytest.mark.parametrize("shape", [(6, 33), (6, 3, 2, 5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-13)])
def test_goodness_matches_its_formula_over_all_of_an_activation(name, shape, dtype, tolerance):
    h = np.random.default_rng(0).normal(size=shape).astype(dtype)
    found = GOODNESS[name].of(torch.from_numpy(h))
    assert found.numpy().dtype == dtype
    np.testing.assert_allclose(found, REFERENCE[name](h.astype(np.float64).reshape(6, -1)), rtol=tolerance)


@pytest.mark.parametrize("name", GOODNESS)
def test_the_default_threshold_is_the_goodness_at_a_mean_square_of_a_tenth(name):
    expected = REFERENCE[name](np.full((1, 50), np.sqrt(0.1)))[0]
    assert PairLoss(name, None, 50).threshold == pytest.approx(expected)
    assert PairLoss(name, 3.5, 50).threshold == 3.5


def test_goodness_of_bfloat16_activations_is_float32():
    h = torch.full((2, 2000), 1.0, dtype=torch.bfloat16)
    h[1, 0] = 2.0
    assert GOODNESS["sum_squares"].of(h).tolist() == [2000.0, 2003.0]  # bfloat16 would give 2000 twice


def test_norm_of_a_dead_block_has_gradient_zero():
    h = torch.zeros(3, 5, requires_grad=True)
    GOODNESS["norm"].of(h).sum().backward()
    assert torch.equal(h.grad, torch.zeros(3, 5))


def test_loss_matches_its_formula_and_saturates():
    positive, negative, theta = np.array([0.0, 3.0, 900.0]), np.array([5.0, 1.0, 0.0]), 2.5
    found = ff_loss(torch.tensor(positive), torch.tensor(negative), theta)
    expected = np.logaddexp(0, theta - positive) + np.logaddexp(0, negative - theta)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    assert ff_loss(torch.tensor([1e6]), torch.tensor([-1e6]), theta).item() == 0.0
