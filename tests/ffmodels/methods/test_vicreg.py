from __future__ import annotations

import numpy as np
import pytest
import torch

from ffcore.errors import SettingError
from ffmodels.methods.vicreg import vicreg_loss
from ffmodels.parts import BACKBONES, METHODS
from ffmodels.units import make_units
from tests.ffmodels.making import SHAPE, K, batch, losses_of, make, projections

SMALL = {"projector": 8}
WEIGHTS = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}


def numpy_loss(one, other, invariance, variance, covariance):
    """The loss by its definition, written apart from the code under test."""
    loss = invariance * np.mean((one - other) ** 2)
    for p in (one, other):
        loss += variance * np.mean(np.maximum(0, 1 - np.sqrt(p.var(0, ddof=1) + 1e-4))) / 2
        c = np.cov(p.T)
        loss += covariance * (np.sum(c**2) - np.sum(np.diag(c) ** 2)) / p.shape[1]
    return loss


@pytest.mark.parametrize("weights", [WEIGHTS, {"invariance": 0.5, "variance": 2.0, "covariance": 3.0}])
def test_the_loss_is_its_definition(weights):
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 12, 5)) * 0.6 + 1
    found = vicreg_loss(torch.from_numpy(one), torch.from_numpy(other), **weights)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, numpy_loss(one, other, **weights), rtol=1e-12)


def test_it_is_0_where_views_agree_and_features_vary_enough_and_are_uncorrelated():
    p = torch.from_numpy(np.linalg.qr(np.random.default_rng(0).normal(size=(40, 6)))[0])
    p = torch.linalg.qr(p - p.mean(0))[0] * 40
    assert vicreg_loss(p, p, **WEIGHTS) < 1e-9
    assert vicreg_loss(p, p.roll(1, 0), **WEIGHTS) > 1
    assert vicreg_loss(p / 100, p / 100, **WEIGHTS) > 10


@pytest.mark.parametrize(("value", "rows"), [(0.0, 4), (1.0, 4), (1.0, 1)])
def test_features_that_never_change_give_gradients_that_are_finite(value, rows):
    p = torch.full((rows, 3), value, requires_grad=True)
    loss = vicreg_loss(p, p, **WEIGHTS)
    loss.backward()
    assert loss.item() == pytest.approx(25 * (1 - 0.01))
    assert torch.isfinite(p.grad).all()


def test_it_is_taken_in_float32_of_bfloat16():
    one, other = torch.randn(2, 64, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = vicreg_loss(one, other, **WEIGHTS)
    torch.testing.assert_close(found, vicreg_loss(one, other, **WEIGHTS))


def test_each_block_has_the_loss_of_its_own_projections_of_the_two_views():
    method, backbone, units = make("vicreg", projector=8)
    data = batch(views=2)
    found = losses_of(method, units, data)
    for block, one, other in projections(backbone, units, data):
        assert found[block] == pytest.approx(numpy_loss(one, other, **WEIGHTS), rel=1e-4)


@pytest.mark.parametrize("grid", [1, 2])
def test_a_projector_keeps_as_much_of_the_map_as_is_asked_for(grid):
    net = BACKBONES.load("convnet")(channels=(3, 4), pooling=("none",)).build(SHAPE, 0)
    units = make_units(METHODS.load("vicreg")(projector=8, grid=grid), net, K)
    for block, unit in zip(net.info, units, strict=True):
        [head] = unit.heads.values()
        assert head.projector[5].weight.shape == (8, 8 * grid**2)
        assert head.projector(torch.rand(5, *block.shape)).shape == (5, 8)


def test_it_reads_no_label_and_takes_full_batches_of_two_views():
    needs = METHODS.load("vicreg")().needs()
    assert (needs.labels, needs.views, needs.partner, needs.drop_last) == (False, 2, False, True)
    with pytest.raises(SettingError, match="variance"):
        METHODS.load("vicreg")(variance=-1.0)
