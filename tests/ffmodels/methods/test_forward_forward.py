"""FF's losses and every gradient against NumPy in float64, derived by hand; the ablations; how it predicts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ffcore.errors import SettingError
from ffmodels.batch import Batch
from ffmodels.conditions import LabelSlot
from ffmodels.draws import Draws
from ffmodels.goodness import GOODNESS
from ffmodels.parts import BACKBONES, METHODS
from ffmodels.units import heads_of, make_units
from tests.ffmodels.making import SHAPE, K, batch, gradients, losses_of, make, numpy_activations, same

THETA = 1.7
REFERENCE = {
    "sum_squares": (lambda h: (h**2).sum(-1), lambda h: 2 * h),
    "mean_squares": (lambda h: (h**2).mean(-1), lambda h: 2 * h / h.shape[-1]),
    "norm": (lambda h: np.sqrt((h**2).sum(-1)), lambda h: h / np.sqrt((h**2).sum(-1, keepdims=True))),
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def pairs(data):
    """The positives and the negatives, flattened: float64 [2B, P], and the wrong labels."""
    images = data.views[0].numpy().astype(np.float64).reshape(len(data.labels), -1)
    wrong = (data.labels + data.draws.integers("wrong", 1, K)) % K
    pixels = np.concatenate([images, images])
    pixels[:, :K] = np.eye(K)[np.concatenate([data.labels, wrong])]
    return pixels, wrong


def numpy_losses(backbone, data, goodness="sum_squares", between="rms", theta=THETA):
    """The mean FF loss of each block, float64."""
    found = []
    for _, h in numpy_activations(backbone, pairs(data)[0], between):
        positive, negative = np.split(REFERENCE[goodness][0](h), 2)
        found.append((np.logaddexp(0, theta - positive) + np.logaddexp(0, negative - theta)).mean())
    return found


@pytest.mark.parametrize("between", ["rms", "layer"])
@pytest.mark.parametrize("goodness", GOODNESS)
def test_every_loss_and_gradient_of_a_step(goodness, between):
    method, backbone, units = make("forward-forward", goodness=goodness, threshold=THETA, between=between)
    data = batch()
    losses = losses_of(method, units, data)
    assert [*losses] == ["block1", "block2", "block3"]
    np.testing.assert_allclose([*losses.values()], numpy_losses(backbone, data, goodness, between), rtol=1e-5)
    of, slope = REFERENCE[goodness]
    activations = numpy_activations(backbone, pairs(data)[0], between)
    for block, (x, h) in zip(backbone.blocks, activations, strict=True):
        g = of(h)
        g_slope = np.concatenate([-sigmoid(THETA - g[:9]), sigmoid(g[9:] - THETA)]) / 9
        with np.errstate(invalid="ignore"):
            delta = g_slope[:, None] * np.nan_to_num(slope(h)) * (h > 0)
        weight, bias = block.parameters()
        np.testing.assert_allclose(weight.grad, delta.T @ x, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(bias.grad, delta.sum(0), rtol=1e-4, atol=1e-6)


def test_a_negative_never_carries_the_right_label_and_each_wrong_one_alike():
    counts = np.zeros((K, K))
    for epoch in range(300):
        data = batch(40, seed=epoch)
        data = type(data)(data.views, data.labels, type(data.draws)(0, epoch, data.draws.images))
        method = METHODS.load("forward-forward")()
        positive, negative = method.inputs(data, K)[:, 0].flatten(1)[:, :K].chunk(2)
        assert torch.equal(positive.argmax(1), data.labels)
        np.add.at(counts, (data.labels.numpy(), negative.argmax(1).numpy()), 1)
    assert not counts[np.eye(K, dtype=bool)].any()
    shares = counts / counts.sum(1, keepdims=True)
    assert np.abs(shares[~np.eye(K, dtype=bool)] - 1 / (K - 1)).max() < 0.04


def drawn(told, labels, epoch=1, seed=0):
    """The wrong labels by what is told, [B, K] of as many images: int64 [B]."""
    images = torch.zeros(len(labels), *SHAPE)
    data = Batch((images,), labels, Draws(seed, epoch, torch.arange(len(labels))), told=told)
    method = METHODS.load("forward-forward")(wrong="goodness")
    assert method.needs().told
    positive, negative = method.inputs(data, told.shape[1]).flatten(1)[:, : told.shape[1]].chunk(2)
    assert torch.equal(positive.argmax(1), labels)
    assert torch.equal(negative.sum(1), torch.ones(len(labels)))
    return negative.argmax(1)


def numpy_shares(told, label):
    """How often each label is to be drawn, float64 [K]."""
    weights = np.sqrt(np.maximum(told.astype(np.float64), 0))
    weights[label] = 0
    weights = weights if weights.any() else np.arange(len(told)) != label
    return weights / weights.sum()


@pytest.mark.parametrize(
    "told",
    [
        [9.0, 4.0, 1.0, 16.0],
        [0.0, 0.0, 25.0, 1.0],
        [-3.0, 2.0, 8.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
        [-1.0, -2.0, -1.0, -9.0],
        [1e-30, 4e-30, 1e-30, 0.0],
        [1e30, 4e30, 1e30, 0.0],
    ],
    ids=str,
)
@pytest.mark.parametrize("label", range(K))
def test_a_wrong_label_is_drawn_in_proportion_to_the_root_of_its_goodness(told, label):
    count = 20_000
    found = drawn(torch.tensor(told).expand(count, K), torch.full((count,), label))
    expected = numpy_shares(np.array(told), label)
    shares = np.bincount(found, minlength=K) / count
    assert not shares[expected == 0].any()
    np.testing.assert_allclose(shares, expected, atol=4 * 0.5 / np.sqrt(count))


def test_a_wrong_label_is_that_in_whose_share_its_number_lies():
    """By the sums of the shares from the right label on, in float64."""
    rng = np.random.default_rng(0)
    told, labels = rng.random((500, 7)), rng.integers(7, size=500)
    found = drawn(torch.from_numpy(told).float(), torch.from_numpy(labels), seed=3)
    numbers = Draws(3, 1, torch.arange(500)).uniform("wrong").double().numpy()
    for of_image, label, number, k in zip(told, labels, numbers, found.tolist(), strict=True):
        order = (label + np.arange(7)) % 7
        sums = np.cumsum(numpy_shares(of_image, label)[order])
        if np.abs(sums - number).min() > 1e-5:
            assert k == order[np.searchsorted(sums, number, side="right")]


@pytest.mark.parametrize("classes", [2, 3, 30])
def test_a_label_drawn_by_goodness_is_one_that_is_wrong_and_is_drawn_afresh_each_epoch(classes):
    rng = np.random.default_rng(1)
    told = torch.from_numpy(rng.random((400, classes))).float() ** 4
    labels = torch.from_numpy(rng.integers(classes, size=400))
    one, again, other = (drawn(told, labels, epoch) for epoch in (1, 1, 2))
    assert not (one == labels).any()
    assert torch.equal(one, again)
    assert torch.equal(one, other) == (classes == 2)
    part = [*range(7)]
    assert torch.equal(drawn(told[part], labels[part]), one[part])  # whatever others are with it


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_told_of_a_network_that_is_lost_draws_a_wrong_label_still(bad):
    labels = torch.arange(K)
    for column in range(K):
        told = torch.ones(K, K)
        told[:, column] = bad
        assert not (drawn(told, labels) == labels).any()


def test_a_step_with_wrong_labels_by_what_the_readout_tells():
    method, backbone, units = make("forward-forward", loss="swish", goodness="mean_squares", wrong="goodness")
    data = batch()
    told = method.readout(backbone, method.condition(K, SHAPE), heads_of(units), K)
    with torch.no_grad():
        data = replace(data, told=told(data.views[0]))
    pixels = method.inputs(data, K).flatten(1).double().numpy()
    wrong = pixels[9:, :K].argmax(1)
    assert not (wrong == data.labels.numpy()).any()
    losses = losses_of(method, units, data)
    for loss, (_, h) in zip(losses.values(), numpy_activations(backbone, pixels), strict=True):
        positive, negative = np.split((h**2).mean(-1), 2)
        x = -6 * (positive - negative)
        assert loss == pytest.approx((x * sigmoid(x)).mean(), rel=1e-5)
    assert not METHODS.load("forward-forward")().needs().told


def test_softmax_is_cross_entropy_of_the_goodness_of_every_label():
    method, backbone, units = make("forward-forward", loss="softmax", goodness="mean_squares", alpha=2.5)
    data = batch()
    pixels = method.inputs(data, K).flatten(1).double().numpy()
    labels = pixels[:, :K].argmax(1).reshape(K, 9)
    assert (labels[0] == data.labels.numpy()).all()
    assert (np.sort(labels, axis=0) == np.arange(K)[:, None]).all()
    losses = losses_of(method, units, data)
    for loss, (_, h) in zip(losses.values(), numpy_activations(backbone, pixels), strict=True):
        logits = 2.5 * (h**2).mean(-1).reshape(K, 9)
        assert loss == pytest.approx((np.log(np.exp(logits).sum(0)) - logits[0]).mean(), rel=1e-5)
    with pytest.raises(SettingError, match="wrong is goodness, and loss softmax takes every wrong label: leave it out"):
        METHODS.load("forward-forward")(loss="softmax", wrong="goodness")


def test_the_pair_differs_in_the_slot_alone():
    data = batch()
    found = METHODS.load("forward-forward")().inputs(data, K)
    positive, negative = found.flatten(1).chunk(2)
    assert torch.equal(positive[:, K:], negative[:, K:])
    assert torch.equal(positive[:, K:], data.views[0].flatten(1)[:, K:])


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("at", ["all", "last"])
def test_losses_of_the_ablations_match_numpy(at, depth):
    method, backbone, units = make("forward-forward", cut="never", at=at, depth=depth, threshold=THETA)
    data = batch()
    assert len(units) == 1
    found, expected = losses_of(method, units, data), numpy_losses(backbone, data)
    names = [f"block{i}" for i in range(1, depth + 1)]
    wanted = dict(zip(names, expected, strict=True)) if at == "all" else {names[-1]: expected[-1]}
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("at", ["all", "last"])
def test_gradients_through_all_blocks_match_finite_differences_of_numpy(at):
    method, backbone, units = make("forward-forward", cut="never", at=at, threshold=THETA)
    data, step = batch(), 1e-4
    found = gradients(method, backbone, units, data)
    rng = np.random.default_rng(2)
    backbone.double()  # the difference of two losses of float32 parameters would drown in their rounding

    def loss():
        losses = numpy_losses(backbone, data)
        return losses[-1] if at == "last" else sum(losses)

    for block, expected in zip(backbone.blocks, found, strict=True):
        for p, gradient in zip(block.parameters(), expected, strict=True):
            direction = torch.from_numpy(rng.normal(size=p.shape))
            sides = []
            for sign in (1, -2):
                with torch.no_grad():
                    p.add_(direction, alpha=sign * step)
                sides.append(loss())
            with torch.no_grad():
                p.add_(direction, alpha=step)
            slope = (sides[0] - sides[1]) / (2 * step)
            assert (gradient.double() * direction).sum().item() == pytest.approx(slope, rel=2e-3, abs=1e-3)


def test_goodness_of_lower_blocks_is_in_the_loss_of_all_blocks_alone():
    """A block of twice the length passes on the same direction: its own goodness is all that changes."""
    change = {}
    for at in ("last", "all"):
        method, backbone, units = make("forward-forward", cut="never", at=at, threshold=THETA)
        before = sum(losses_of(method, units, batch()).values())
        with torch.no_grad():
            for p in backbone.blocks[0].parameters():
                p.mul_(2)
        change[at] = abs(sum(losses_of(method, units, batch()).values()) - before)
    assert change["last"] < 1e-4
    assert change["all"] > 0.1


def test_no_gradient_crosses_a_cut_and_every_one_where_there_is_none():
    for cut, crosses in (("block", False), ("never", True)):
        method, backbone, units = make("forward-forward", cut=cut, threshold=THETA)
        before = gradients(method, backbone, units, batch())
        with torch.no_grad():
            for p in backbone.blocks[2].parameters():
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
        after = gradients(method, backbone, units, batch())
        assert same(before[0], after[0]) != crosses
        assert same(before[1], after[1]) != crosses
        assert not same(before[2], after[2])


def readout(depth=4, **settings):
    method, backbone, units = make("forward-forward", depth=depth, **settings)
    return method.readout(backbone, method.condition(K, SHAPE), heads_of(units), K), backbone


@pytest.mark.parametrize(
    ("depth", "settings", "last"),
    [
        (1, {}, "block1"),
        (2, {}, "blocks1-2-mean"),
        (4, {}, "blocks2-4-mean"),
        (4, {"cut": "never"}, "blocks2-4-mean"),
        (4, {"cut": "never", "at": "last"}, "block4"),
        (5, {"cut": "2", "at": "last"}, "blocks2+4+5-mean"),
    ],
)
def test_scores_are_the_goodness_of_each_label_in_turn_and_what_predicts_stands_last(depth, settings, last):
    told, backbone = readout(depth, **settings)
    images = batch().views[0]
    scores = told.readers(images)
    assert [*scores][-1] == last
    assert {f"block{i}" for i in range(1, depth + 1)} <= {*scores}
    read = {"block1": [0], "block4": [3], "blocks2+4+5-mean": [1, 3, 4]}.get(last, range(max(0, depth - 3), depth))
    for k in range(K):
        pixels = images.numpy().astype(np.float64).reshape(9, -1).copy()
        pixels[:, :K] = np.eye(K)[k]
        goodness = [(h**2).sum(-1) for _, h in numpy_activations(backbone, pixels)]
        for i, expected in enumerate(goodness, start=1):
            if f"block{i}" != last:
                np.testing.assert_allclose(scores[f"block{i}"][:, k].detach(), expected, rtol=1e-4)
        np.testing.assert_allclose(scores[last][:, k].detach(), np.mean([goodness[i] for i in read], 0), rtol=1e-4)
    assert torch.equal(told(images), scores[last])


@pytest.mark.parametrize("index", [0, 1, 3])
def test_what_one_block_tells_predicts_wherever_it_stands(index):
    """Greedy training reads the blocks that have learned by then, of which the first is one alone."""
    method, backbone, units = make("forward-forward", depth=4)
    told = method.readout(backbone, method.condition(K, SHAPE), {index: heads_of(units)[index]}, K)
    images = batch().views[0]
    scores = told.readers(images)
    assert [*scores][-1] == f"block{index + 1}"
    assert {*scores} == {"block1", "block2", "block3", "block4"}
    assert torch.equal(told(images), scores[f"block{index + 1}"])
    every = method.readout(backbone, method.condition(K, SHAPE), heads_of(units), K).readers(images)
    assert torch.equal(told(images), every[f"block{index + 1}"])


def test_it_refuses_a_network_that_hands_its_length_on_and_labels_that_cannot_be_wrong():
    with pytest.raises(SettingError, match="between is none, and forward-forward would read its goodness off"):
        make("forward-forward", between="none")
    method = METHODS.load("forward-forward")()
    backbone = BACKBONES.load("mlp")(width=4, depth=1).build(SHAPE, 0)
    with pytest.raises(SettingError, match="needs two classes, and there is 1"):
        make_units(method, backbone, 1)


def test_it_has_the_label_slot():
    condition = METHODS.load("forward-forward")().condition(K, SHAPE)
    assert isinstance(condition, LabelSlot)
    assert condition.readings[0] == "neutral"
