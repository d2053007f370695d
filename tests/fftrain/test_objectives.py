"""What a loss may reach: shown by perturbing, not by reading."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ffmodels.backbone import BackboneConfig
from fftrain.config import PretrainConfig
from fftrain.objectives import Batch
from fftrain.registry import METHODS

K = 4


def make(method, depth=3, **settings):
    config = PretrainConfig(method=method, width=16, depth=depth, threshold=16.0, **settings)
    backbone = BackboneConfig(shape=(1, 6, 6), width=16, depth=depth).build(seed=1)
    return METHODS.load(method)(backbone, K, config), backbone


def batch(rows=9):
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(K, size=rows))
    return Batch(torch.from_numpy(rng.random((rows, 1, 6, 6), dtype=np.float32)), labels, {"wrong": (labels + 1) % K})


def gradients(objective, backbone, data):
    backbone.zero_grad()
    for _, losses in objective.losses(data):
        losses.sum().backward()
    return [[p.grad.clone() for p in layer.parameters()] for layer in backbone.layers]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_no_gradient_crosses_a_layer_in_ff():
    objective, backbone = make("ff")
    before = gradients(objective, backbone, batch())
    with torch.no_grad():
        for p in backbone.layers[2].parameters():
            p.copy_(torch.randn(p.shape) * 10)
    after = gradients(objective, backbone, batch())
    assert same(before[0], after[0])
    assert same(before[1], after[1])
    assert not same(before[2], after[2])


def test_gradients_cross_every_layer_in_bp():
    objective, backbone = make("bp")
    before = gradients(objective, backbone, batch())
    with torch.no_grad():
        backbone.layers[2].linear.weight.add_(torch.randn(16, 16))
    after = gradients(objective, backbone, batch())
    assert not same(before[0], after[0])


def test_each_graph_is_gone_before_the_next_layer_begins():
    objective, _ = make("ff", depth=6)
    alive = []
    for _, losses in objective.losses(batch()):
        assert all(reference() is None or reference().grad_fn is None for reference in alive)
        losses.sum().backward()
        import weakref

        alive.append(weakref.ref(losses))
        del losses
    assert len(alive) == 6


@pytest.mark.parametrize("method", METHODS)
def test_losses_are_one_value_a_sample_and_no_sample_touches_another(method):
    objective, _ = make(method)
    data = batch()
    whole = dict(objective.losses(data))
    part = dict(objective.losses(Batch(data.images[:4], data.labels[:4], {"wrong": data.drawn["wrong"][:4]})))
    for name, losses in whole.items():
        assert losses.shape == (9,)
        torch.testing.assert_close(losses[:4], part[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_an_empty_share_gives_gradients_of_zero(method):
    objective, backbone = make(method)
    empty = Batch(
        torch.zeros(0, 1, 6, 6), torch.zeros(0, dtype=torch.int64), {"wrong": torch.zeros(0, dtype=torch.int64)}
    )
    assert all(not g.any() for layer in gradients(objective, backbone, empty) for g in layer)


def test_ff_scores_are_the_goodness_of_each_label_in_turn():
    objective, backbone = make("ff", depth=4)
    images = batch().images
    scores = objective.scores(images)
    assert list(scores) == ["layer1", "layer2", "layer3", "layer4", "layers2-4-mean"]
    for k in range(K):
        pixels = images.clone()
        pixels[:, 0, 0, :K] = torch.eye(K)[k]
        x = pixels.flatten(1)
        goodness = []
        for layer in backbone.layers:
            x = layer(x)
            goodness.append((x**2).sum(1))
        for i, g in enumerate(goodness, start=1):
            torch.testing.assert_close(scores[f"layer{i}"][:, k], g, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(scores["layers2-4-mean"][:, k], torch.stack(goodness[1:]).mean(0))


def test_bp_scores_are_the_logits_that_its_loss_reads():
    objective, _ = make("bp")
    data = batch()
    [(_, losses)] = objective.losses(data)
    expected = -objective.scores(data.images)["head"].log_softmax(-1)[torch.arange(9), data.labels]
    torch.testing.assert_close(losses, expected)
