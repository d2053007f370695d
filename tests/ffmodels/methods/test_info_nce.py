from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ffmodels.methods.info_nce import nce_loss
from ffmodels.parts import METHODS
from tests.ffmodels.making import K, batch, losses_of, make, projections

SMALL = {"projector": 8}


def numpy_loss(one, other, labels, temperature):
    """The loss by its definition, written apart from the code under test."""
    z = np.concatenate([one, other])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    labels, losses = np.concatenate([labels, labels]), []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        total = sum(math.exp(z[i] @ z[j] / temperature) for j in others)
        shares = [math.exp(z[i] @ z[j] / temperature) / total for j in others if labels[j] == labels[i]]
        losses.append(-np.mean(np.log(shares)))
    return np.mean(losses)


@pytest.mark.parametrize("labels", [range(12), [0, 1, 2, 0, 1, 2, 0, 0, 0, 1, 3, 4]], ids=["views", "classes"])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_is_its_definition(labels, temperature):
    one, other = np.random.default_rng(0).normal(size=(2, 12, 5)) + 0.3
    labels = np.array([*labels])
    found = nce_loss(torch.from_numpy(one), torch.from_numpy(other), torch.from_numpy(labels), temperature)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, numpy_loss(one, other, labels, temperature), rtol=1e-12)


def test_it_is_least_where_views_agree_and_images_differ():
    p, own = torch.eye(6, dtype=torch.float64), torch.arange(6)
    assert nce_loss(p, p, own, 0.05) < 1e-6
    assert nce_loss(p, p.roll(1, 0), own, 0.05) > 10
    alike = torch.ones(6, 4)
    assert nce_loss(alike, alike, own, 0.2).item() == pytest.approx(math.log(11))  # told by chance alone


def test_an_invariance_permuting_images_turning_features_or_scaling_rows_changes_nothing():
    one, other = torch.randn(2, 9, 5, dtype=torch.float64)
    labels, rows = torch.arange(9) % 4, torch.randperm(9)
    before = nce_loss(one, other, labels, 0.2)
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    torch.testing.assert_close(nce_loss((one @ turn)[rows], (other @ turn)[rows], labels[rows], 0.2), before)
    torch.testing.assert_close(nce_loss(other * 7, one, labels, 0.2), before)


def test_rows_of_zeros_give_a_loss_and_gradients_that_are_finite():
    p = torch.zeros(4, 3, requires_grad=True)
    loss = nce_loss(p, p, torch.arange(4), 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(7))
    assert torch.isfinite(p.grad).all()


def test_it_is_taken_in_float32_of_bfloat16():
    one, other = torch.randn(2, 64, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = nce_loss(one, other, torch.arange(64), 0.2)
    torch.testing.assert_close(found, nce_loss(one, other, torch.arange(64), 0.2))


@pytest.mark.parametrize("supervised", [False, True])
def test_each_block_has_the_loss_of_its_own_projections_of_the_two_views(supervised):
    method, backbone, units = make("info-nce", projector=8, supervised=supervised, temperature=0.5)
    data = batch(views=2)
    found = losses_of(method, units, data)
    labels = data.labels.numpy() if supervised else np.arange(len(data.labels))
    for block, one, other in projections(backbone, units, data):
        assert found[block] == pytest.approx(numpy_loss(one, other, labels, 0.5), rel=1e-4)


@pytest.mark.parametrize("supervised", [False, True])
def test_it_takes_full_batches_of_two_views_and_labels_where_it_is_supervised(supervised):
    method = METHODS.load("info-nce")(supervised=supervised)
    needs = method.needs()
    assert (needs.labels, needs.views, needs.partner, needs.drop_last) == (supervised, 2, False, True)
    assert method.readout(None, None, {}, K) is None
