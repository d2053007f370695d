"""Goodness, loss and every gradient of an FF step against NumPy in float64, derived by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ffmodels.backbone import EPS, BackboneConfig
from ffmodels.goodness import ff_loss
from ffmodels.registry import GOODNESS
from fftrain.config import PretrainConfig
from fftrain.objectives import Batch, ForwardForward

REFERENCE = {
    "sum_squares": (lambda h: (h**2).sum(-1), lambda h: 2 * h),
    "mean_squares": (lambda h: (h**2).mean(-1), lambda h: 2 * h / h.shape[-1]),
    "norm": (lambda h: np.sqrt((h**2).sum(-1)), lambda h: h / np.sqrt((h**2).sum(-1, keepdims=True))),
}


def softplus(x):
    return np.logaddexp(0, x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("name", GOODNESS)
def test_goodness_matches_its_formula(name):
    h = np.random.default_rng(0).normal(size=(6, 33)).astype(np.float32)
    found = GOODNESS.load(name).of(torch.from_numpy(h))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, REFERENCE[name][0](h.astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("name", GOODNESS)
def test_goodness_of_float64_is_float64(name):
    h = np.random.default_rng(0).normal(size=(6, 33))
    found = GOODNESS.load(name).of(torch.from_numpy(h))
    np.testing.assert_allclose(found, REFERENCE[name][0](h), rtol=1e-13)


@pytest.mark.parametrize(
    ("name", "width", "threshold"), [("sum_squares", 2000, 2000), ("mean_squares", 9, 1), ("norm", 400, 20)]
)
def test_each_goodness_has_its_own_threshold(name, width, threshold):
    assert GOODNESS.load(name).threshold(width) == threshold


def test_goodness_of_bfloat16_activations_is_float32():
    h = torch.full((2, 2000), 1.0, dtype=torch.bfloat16)
    h[1, 0] = 2.0
    assert GOODNESS.load("sum_squares").of(h).tolist() == [2000.0, 2003.0]  # bfloat16 would give 2000 twice


def test_norm_of_a_dead_layer_has_gradient_zero():
    h = torch.zeros(3, 5, requires_grad=True)
    GOODNESS.load("norm").of(h).sum().backward()
    assert torch.equal(h.grad, torch.zeros(3, 5))


def test_loss_matches_its_formula_and_saturates():
    positive, negative, theta = np.array([0.0, 3.0, 900.0]), np.array([5.0, 1.0, 0.0]), 2.5
    found = ff_loss(torch.tensor(positive), torch.tensor(negative), theta)
    np.testing.assert_allclose(found, softplus(theta - positive) + softplus(negative - theta), rtol=1e-6, atol=1e-8)
    assert ff_loss(torch.tensor([1e6]), torch.tensor([-1e6]), theta).item() == 0.0


@pytest.mark.parametrize("normalisation", ["rms", "layer", "none"])
@pytest.mark.parametrize("name", GOODNESS)
def test_every_gradient_of_an_ff_step(name, normalisation):
    config = PretrainConfig(goodness=name, threshold=1.7, width=7, depth=3, normalisation=normalisation)
    backbone = BackboneConfig(shape=(2, 3, 3), width=7, depth=3, normalisation=normalisation).build(seed=3)
    rng = np.random.default_rng(1)
    images = rng.random((5, 2, 3, 3)).astype(np.float32)
    right, wrong = np.array([0, 1, 2, 3, 0]), np.array([1, 2, 0, 0, 3])
    batch = Batch(torch.from_numpy(images), torch.from_numpy(right), {"wrong": torch.from_numpy(wrong)})
    found = {}
    for loss_name, losses in ForwardForward(backbone, 4, config).losses(batch):
        losses.sum().backward()
        found[loss_name] = losses.detach().numpy()

    pixels = np.concatenate([images, images]).reshape(10, -1).astype(np.float64)
    pixels[:, :4] = np.eye(4)[np.concatenate([right, wrong])]
    x = pixels
    for i, layer in enumerate(backbone.layers, start=1):
        weight, bias = (p.detach().numpy().astype(np.float64) for p in (layer.linear.weight, layer.linear.bias))
        if normalisation == "layer":
            x = x - x.mean(-1, keepdims=True)
        if normalisation != "none":
            x = x / np.maximum(np.sqrt((x**2).mean(-1, keepdims=True)), EPS)
        before = x @ weight.T + bias
        h = np.maximum(before, 0)
        goodness, slope = REFERENCE[name]
        g = goodness(h)
        np.testing.assert_allclose(found[f"layer{i}"], softplus(1.7 - g[:5]) + softplus(g[5:] - 1.7), rtol=1e-5)
        g_slope = np.concatenate([-sigmoid(1.7 - g[:5]), sigmoid(g[5:] - 1.7)])
        with np.errstate(invalid="ignore"):
            delta = g_slope[:, None] * np.nan_to_num(slope(h)) * (before > 0)
        np.testing.assert_allclose(layer.linear.weight.grad, delta.T @ x, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(layer.linear.bias.grad, delta.sum(0), rtol=1e-4, atol=1e-6)
        x = h
