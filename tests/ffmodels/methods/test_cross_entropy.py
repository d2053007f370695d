"""Cross-entropy against NumPy, through all blocks and at each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ffmodels.units import heads_of
from tests.ffmodels.making import SHAPE, K, batch, gradients, losses_of, make, normalised, numpy_activations, same


def numpy_loss(head, h, labels):
    weight, bias = (p.detach().numpy().astype(np.float64) for p in head.parameters())
    logits = normalised(h, "rms") @ weight.T + bias
    return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels])


@pytest.mark.parametrize(("cut", "at"), [("never", "last"), ("never", "all"), ("block", "all")])
def test_every_loss_matches_numpy(cut, at):
    method, backbone, units = make("cross-entropy", cut=cut, at=at)
    data, heads = batch(), heads_of(units)
    found = losses_of(method, units, data)
    pixels = data.views[0].flatten(1).double().numpy()
    activations = numpy_activations(backbone, pixels)
    assert (
        [*found] == [f"block{i + 1}" for i in heads] == (["block3"] if at == "last" else ["block1", "block2", "block3"])
    )
    for (i, head), loss in zip(heads.items(), found.values(), strict=True):
        assert loss == pytest.approx(numpy_loss(head, activations[i][1], data.labels.numpy()), rel=1e-5)


def test_the_head_is_trained_by_the_mean_of_softmax_minus_one_hot():
    method, backbone, units = make("cross-entropy", cut="never", at="last")
    data = batch()
    losses_of(method, units, data)
    [head] = heads_of(units).values()
    features = normalised(numpy_activations(backbone, data.views[0].flatten(1).double().numpy())[-1][1], "rms")
    weight, bias = (p.detach().numpy().astype(np.float64) for p in head.parameters())
    logits = features @ weight.T + bias
    error = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(K)[data.labels]) / 9
    np.testing.assert_allclose(head.linear.weight.grad, error.T @ features, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(head.linear.bias.grad, error.sum(0), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("cut", "crosses"), [("never", True), ("block", False)])
def test_gradients_cross_where_nothing_is_cut(cut, crosses):
    method, backbone, units = make("cross-entropy", cut=cut)
    before = gradients(method, backbone, units, batch())
    with torch.no_grad():
        weight = backbone.blocks[2][0].weight
        weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    after = gradients(method, backbone, units, batch())
    assert same(before[0], after[0]) != crosses


def test_scores_are_the_logits_that_the_losses_read():
    method, backbone, units = make("cross-entropy")
    data = batch()
    found = losses_of(method, units, data)
    told = method.readout(backbone, method.condition(K, SHAPE), heads_of(units), K)
    scores = told.readers(data.views[0])
    assert [*scores] == [*found]
    for name, logits in scores.items():
        expected = -logits.log_softmax(-1)[torch.arange(9), data.labels].mean()
        assert found[name] == pytest.approx(expected.item(), rel=1e-5)
    assert torch.equal(told(data.views[0]), scores["block3"])


def test_heads_are_made_under_the_seed_whatever_was_drawn_before():
    made = []
    for drawn, seed in ((0, 1), (7, 1), (0, 2)):
        torch.rand(drawn)
        _, _, units = make("cross-entropy", seed=seed)
        made.append([p.clone() for head in heads_of(units).values() for p in head.parameters()])
    assert same(made[0], made[1])
    assert not same(made[0], made[2])
    first, second = made[0][0], made[0][2]
    assert not torch.equal(first, second)  # each block's head has a stream of its own
