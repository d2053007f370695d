from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ffcore.errors import SettingError
from ffmodels.draws import Draws
from ffmodels.methods.clapp import another, clapp_loss
from ffmodels.parts import BACKBONES, METHODS
from ffmodels.units import make_units
from tests.ffmodels.making import SHAPE, K, batch, losses_of, make


def numpy_loss(one, other, weight, negatives):
    """The loss by its definition, written apart from the code under test, and its gradients: none through c."""
    losses, slopes = [], [np.zeros_like(one), np.zeros_like(other)]
    rows = len(one)
    for z, c, slope in ((one, other, slopes[0]), (other, one, slopes[1])):
        for i, n in enumerate(negatives):
            told = weight @ c[i]
            high, low = 1 - z[i] @ told, 1 + z[n] @ told
            losses.append(max(0, high))
            slope[i] -= (high > 0) * told / (2 * rows)
            if rows > 1:
                losses[-1] += max(0, low)
                slope[n] += (low > 0) * told / (2 * rows)
    return np.mean(losses), slopes


def head_of(shape, grid=2, between="rms", dtype=torch.float64):
    """The loss of a block of a network whose activation has a shape."""
    if len(shape) == 1:
        settings = BACKBONES.load("mlp")(width=shape[0], depth=1, between=between)
    else:
        settings = BACKBONES.load("convnet")(channels=shape[:1], pooling=("none",), between=between)
    net = settings.build(SHAPE, 0)
    [unit] = make_units(METHODS.load("clapp")(grid=grid), net, K)
    return unit.heads["0"].to(dtype)


@pytest.mark.parametrize("rows", [1, 2, 12])
def test_the_loss_and_its_gradients_are_their_definition(rows):
    data = batch(rows)
    head = head_of((5,), between="none")
    h = torch.randn(2 * rows, 5, dtype=torch.float64, requires_grad=True)
    found = head(h, data)
    found.backward()
    one, other = h.detach().numpy().reshape(2, rows, 5)
    weight = head.linear.weight.detach().numpy()
    expected, slopes = numpy_loss(one, other, weight, another(data.draws).tolist())
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.item(), expected, rtol=1e-12)
    np.testing.assert_allclose(h.grad, np.concatenate(slopes), rtol=1e-10, atol=1e-14)


def test_it_is_0_where_a_view_is_told_from_another_image_and_2_by_chance():
    z, negatives = torch.eye(4), torch.tensor([1, 2, 3, 0])
    assert clapp_loss(z, 2 * z - 1, negatives) == 0
    assert clapp_loss(z, 1 - 2 * z, negatives) == 4
    assert clapp_loss(z, 0 * z, negatives) == 2
    assert clapp_loss(z[:1], -z[:1], negatives[:1] * 0) == 2  # no other image: the first term alone


@pytest.mark.parametrize("rows", [2, 3, 50])
def test_another_row_is_never_the_own_and_the_same_image_in_whatever_order(rows):
    images, order = torch.arange(rows) * 7 + 3, torch.randperm(rows)
    found = another(Draws(0, 1, images))
    assert (found != torch.arange(rows)).all()
    again = another(Draws(0, 1, images[order]))
    assert torch.equal(images[order][again], images[found][order])


def test_another_row_is_any_of_the_others_as_often():
    found = torch.stack([another(Draws(0, epoch, torch.tensor([9, 2, 5, 7]))) for epoch in range(3000)])
    for row in range(4):
        shares = np.bincount(found[:, row], minlength=4) / 3000
        np.testing.assert_allclose(np.delete(shares, row), 1 / 3, atol=0.04)


def test_an_invariance_permuting_images_or_exchanging_views_changes_nothing():
    data, head, order = batch(), head_of((5,)), torch.randperm(9)
    h = torch.randn(2, 9, 5, dtype=torch.float64)
    before = head(h.flatten(0, 1), data)
    permuted = replace(data, labels=data.labels[order], draws=data.draws.of(order))
    torch.testing.assert_close(head(h[:, order].flatten(0, 1), permuted), before)
    torch.testing.assert_close(head(h.flip(0).flatten(0, 1), data), before)


@pytest.mark.parametrize("between", ["rms", "layer", "none"])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_activations_that_never_change_give_a_loss_and_gradients_that_are_finite(value, rows, between):
    head = head_of((3, 4, 4), between=between, dtype=torch.float32)
    h = torch.full((2 * rows, 3, 4, 4), value, requires_grad=True)
    loss = head(h, batch(rows))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(x.grad).all() for x in (h, head.linear.weight))


def test_it_is_taken_in_float32_of_bfloat16():
    z, wc = torch.randn(2, 64, 8)
    negatives = another(Draws(0, 1, torch.arange(64)))
    with torch.autocast("cpu", torch.bfloat16):
        found = clapp_loss(z, wc, negatives)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, clapp_loss(z, wc, negatives))


def test_each_block_has_the_loss_of_its_own_activation_of_the_two_views():
    method, backbone, units = make("clapp")
    data = batch(views=2)
    found = losses_of(method, units, data)
    negatives = another(data.draws).tolist()
    views = [backbone(view) for view in data.views]
    for index, unit in enumerate(units):
        one, other = (backbone.normalise(view[index]).detach().double().numpy() for view in views)
        weight = unit.heads[str(index)].linear.weight.detach().double().numpy()
        assert found[f"block{index + 1}"] == pytest.approx(numpy_loss(one, other, weight, negatives)[0], rel=1e-4)


@pytest.mark.parametrize(("grid", "kept"), [(1, 1), (2, 2), (4, 4), (5, 4)])
def test_as_much_of_a_map_is_compared_as_is_asked_for_and_there_is(grid, kept):
    head = head_of((3, 4, 4), grid, between="none", dtype=torch.float32)
    assert head.linear.weight.shape == (3 * kept**2, 3 * kept**2)
    h = torch.rand(5, 3, 4, 4)
    parts = h.numpy().reshape(5, 3, kept, 4 // kept, kept, 4 // kept).mean((3, 5))
    np.testing.assert_allclose(head.pool(h), parts.reshape(5, -1), rtol=1e-6)


def test_it_reads_no_label_and_takes_full_batches_of_two_views():
    method = METHODS.load("clapp")()
    needs = method.needs()
    assert (needs.labels, needs.views, needs.partner, needs.drop_last) == (False, 2, False, True)
    assert method.readout(None, None, {}, K) is None
    with pytest.raises(SettingError, match="grid"):
        METHODS.load("clapp")(grid=0)
