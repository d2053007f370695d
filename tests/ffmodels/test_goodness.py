"""Goodness and the losses of pairs against NumPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ffmodels.goodness import GOODNESS, LOSSES, ff_loss

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
def test_a_goodness_knows_what_it_is_at_a_mean_square(name):
    expected = REFERENCE[name](np.full((1, 50), np.sqrt(0.1)))[0]
    assert GOODNESS[name].at(0.1, 50) == pytest.approx(expected)


def test_goodness_of_bfloat16_activations_is_float32():
    h = torch.full((2, 2000), 1.0, dtype=torch.bfloat16)
    h[1, 0] = 2.0
    assert GOODNESS["sum_squares"].of(h).tolist() == [2000.0, 2003.0]  # bfloat16 would give 2000 twice


def test_norm_of_a_dead_block_has_gradient_zero():
    h = torch.zeros(3, 5, requires_grad=True)
    GOODNESS["norm"].of(h).sum().backward()
    assert torch.equal(h.grad, torch.zeros(3, 5))


DIFFERENCE = {
    "symba": lambda d, alpha: np.logaddexp(0, -alpha * d),
    "swish": lambda d, alpha: -alpha * d * np.exp(-np.logaddexp(0, alpha * d)),
}


@pytest.mark.parametrize("alpha", [0.5, 4.0])
@pytest.mark.parametrize("name", DIFFERENCE)
def test_losses_of_a_difference_match_their_formulas_and_saturate(name, alpha):
    positive, negative = np.array([0.0, 3.0, 1.5, 900.0, 0.0]), np.array([5.0, 1.0, 1.5, 0.0, 900.0])
    found = LOSSES[name](torch.tensor(positive), torch.tensor(negative), alpha)
    np.testing.assert_allclose(found, DIFFERENCE[name](positive - negative, alpha), rtol=1e-12, atol=1e-100)
    g = torch.tensor([1e6, -1e6, 0.0], requires_grad=True)
    LOSSES[name](g, torch.zeros(3), alpha).sum().backward()
    np.testing.assert_allclose(g.grad, [0, -alpha, -alpha / 2], atol=1e-6)


def test_swish_is_least_where_its_page_says():
    d = torch.linspace(-3, 9, 120001, dtype=torch.float64)
    losses = LOSSES["swish"](d, torch.zeros_like(d), 2.0)
    assert losses.min().item() == pytest.approx(-0.278, abs=5e-4)
    assert 2 * d[losses.argmin()].item() == pytest.approx(1.278, abs=5e-4)


def test_loss_matches_its_formula_and_saturates():
    positive, negative, theta = np.array([0.0, 3.0, 900.0]), np.array([5.0, 1.0, 0.0]), 2.5
    found = ff_loss(torch.tensor(positive), torch.tensor(negative), theta)
    expected = np.logaddexp(0, theta - positive) + np.logaddexp(0, negative - theta)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    assert ff_loss(torch.tensor([1e6]), torch.tensor([-1e6]), theta).item() == 0.0
