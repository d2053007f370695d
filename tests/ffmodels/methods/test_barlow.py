from __future__ import annotations

import numpy as np
import pytest
import torch

from ffcore.errors import SettingError
from ffmodels.methods.barlow import barlow_loss
from ffmodels.parts import BACKBONES, METHODS
from ffmodels.units import make_units
from tests.ffmodels.making import SHAPE, K, batch, losses_of, make, projections

SMALL = {"projector": 8}


def numpy_loss(one, other, redundancy):
    """The loss by its definition, written apart from the code under test."""
    one, other = ((p - p.mean(0)) / np.sqrt(p.var(0) + 1e-5) for p in (one, other))
    loss = 0.0
    for i in range(one.shape[1]):
        for j in range(one.shape[1]):
            c = (one[:, i] * other[:, j]).mean()
            loss += (1 - c) ** 2 if i == j else redundancy * c**2
    return loss


def test_the_loss_is_its_definition():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 12, 5)) * 3 + 1
    found = barlow_loss(torch.from_numpy(one), torch.from_numpy(other), 0.1)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, numpy_loss(one, other, 0.1), rtol=1e-12)


def test_it_is_least_where_views_agree_and_features_are_uncorrelated():
    p = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=(40, 6)))[0] * 100)
    p = torch.linalg.qr(p - p.mean(0))[0] * 100
    assert barlow_loss(p, p, 0.1) < 1e-6
    assert barlow_loss(p, p.roll(1, 0), 0.1) > 1
    repeated = p[:, [0, 0, 1, 1, 2, 2]]
    assert barlow_loss(repeated, repeated, 0.1).item() == pytest.approx(0.1 * 6, rel=1e-3)


def test_an_invariance_permuting_features_or_rows_changes_nothing():
    one, other = torch.randn(2, 9, 5, dtype=torch.float64)
    before = barlow_loss(one, other, 0.2)
    features, rows = torch.randperm(5), torch.randperm(9)
    torch.testing.assert_close(barlow_loss(one[:, features][rows], other[:, features][rows], 0.2), before)
    torch.testing.assert_close(barlow_loss(other, one, 0.2), before)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_features_that_never_change_give_a_loss_and_gradients_that_are_finite(value):
    p = torch.full((4, 3), value, requires_grad=True)
    loss = barlow_loss(p, p, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(3)
    assert torch.isfinite(p.grad).all()


def test_it_is_taken_in_float32_of_bfloat16():
    one, other = torch.randn(2, 64, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = barlow_loss(one, other, 0.1)
    torch.testing.assert_close(found, barlow_loss(one, other, 0.1))


def test_each_block_has_the_loss_of_its_own_projections_of_the_two_views():
    method, backbone, units = make("barlow", projector=8)
    data = batch(views=2)
    found = losses_of(method, units, data)
    for block, one, other in projections(backbone, units, data):
        assert found[block] == pytest.approx(numpy_loss(one, other, 0.0051), rel=1e-4)


@pytest.mark.parametrize("grid", [1, 2])
def test_on_a_map_the_projector_begins_with_a_convolution_and_keeps_as_much_space_as_is_asked_for(grid):
    method = METHODS.load("barlow")(projector=8, grid=grid)
    net = BACKBONES.load("convnet")(channels=(3, 4), pooling=("none",)).build(SHAPE, 0)
    for block, unit in zip(net.info, make_units(method, net, K), strict=True):
        [head] = unit.heads.values()
        assert head.projector[0].weight.shape == (8, block.shape[0], 1, 1)
        assert head.projector[5].weight.shape == (8, 8 * grid**2)
        assert head.projector(torch.rand(5, *block.shape)).shape == (5, 8)


def test_it_reads_no_label_and_takes_full_batches_of_two_views():
    method, _, _ = make("barlow", projector=8)
    needs = method.needs()
    assert (needs.labels, needs.views, needs.partner, needs.drop_last) == (False, 2, False, True)
    assert method.readout(None, None, {}, K) is None


@pytest.mark.parametrize("name", ["barlow", "vicreg", "info-nce"])
def test_space_is_not_kept_where_there_is_none(name):
    with pytest.raises(SettingError, match=r"^method\.grid is 8, and the activations of block 1 are no map: leave it"):
        make(name, grid=8)
