"""Hybrids against NumPy, and the loss on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ffmodels.draws import Draws
from ffmodels.methods.hybrid_forward_forward import masks
from ffmodels.units import heads_of
from tests.ffmodels.making import SHAPE, K, batch, gradients, losses_of, make, numpy_activations, same

SIZES = [(28, 28), (5, 7), (9, 4), (1, 6)]


def draws(count, seed=0):
    return Draws(seed, 1, torch.arange(count))


def bits_of(given, height, width):
    """The random bits of each mask, [N, H, W]."""
    words = given.bits("mask", -(-height * width // 64)).numpy()
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    return bits[:, : height * width].reshape(-1, height, width)


def blurred_reference(field, blurs):
    """The bits of one mask after so many blurs, by explicit convolution: float64 [H, W]."""
    field = field.astype(np.float64)
    for _ in range(blurs):
        rows = np.pad(field, ((1, 1), (0, 0)), mode="edge")
        field = rows[:-2] / 4 + rows[1:-1] / 2 + rows[2:] / 4
        columns = np.pad(field, ((0, 0), (1, 1)), mode="edge")
        field = columns[:, :-2] / 4 + columns[:, 1:-1] / 2 + columns[:, 2:] / 4
    return field


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_masks_are_blurred_bits_above_one_half(height, width):
    given = draws(60)
    result = masks(given, height, width)
    assert result.shape == (60, 1, height, width)
    assert result.dtype == torch.bool
    times = 6 + given.integers("blurs", 0, 5)
    fields = zip(bits_of(given, height, width), times.tolist(), strict=True)
    expected = np.stack([blurred_reference(field, blurs) for field, blurs in fields])
    clear = np.abs(expected - 0.5) > 1e-6  # float32 may round across the threshold
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(result[:, 0].numpy()[clear], (expected > 0.5)[clear])


def test_masks_have_large_regions_and_take_half_of_the_image():
    given = draws(400)
    result, bits = masks(given, 28, 28)[:, 0].numpy(), bits_of(given, 28, 28)

    def edges(fields):
        return np.mean(fields[:, 1:] != fields[:, :-1]) + np.mean(fields[:, :, 1:] != fields[:, :, :-1])

    assert edges(bits) == pytest.approx(1, abs=0.02)
    assert edges(result) < 0.35
    assert result.mean() == pytest.approx(0.5, abs=0.05)
    assert np.bincount(given.integers("blurs", 0, 5)).min() > 50


def test_a_hybrid_is_the_image_in_its_mask_and_its_partner_elsewhere_in_every_channel():
    method, *_ = make("hybrid-forward-forward")
    data = batch(50)
    images, hybrids = method.inputs(data, 0).chunk(2)
    assert torch.equal(images, data.views[0])
    mask = masks(data.draws, *SHAPE[1:]).expand_as(images)
    assert torch.equal(hybrids[mask], images[mask])
    assert torch.equal(hybrids[~mask], data.partner[~mask])
    assert 0.2 < mask.float().mean() < 0.8


def test_every_loss_matches_numpy():
    method, backbone, units = make("hybrid-forward-forward", threshold=16.0)
    data = batch()
    pixels = method.inputs(data, 0).flatten(1).double().numpy()
    found = losses_of(method, units, data)
    assert [*found] == ["block1", "block2", "block3"]
    for loss, (_, h) in zip(found.values(), numpy_activations(backbone, pixels), strict=True):
        positive, negative = np.split((h**2).sum(-1), 2)
        expected = (np.logaddexp(0, 16 - positive) + np.logaddexp(0, negative - 16)).mean()
        assert loss == pytest.approx(expected, rel=1e-5)


def test_no_gradient_crosses_a_cut():
    method, backbone, units = make("hybrid-forward-forward")
    before = gradients(method, backbone, units, batch())
    with torch.no_grad():
        for p in backbone.blocks[2].parameters():
            p.mul_(-3)
    after = gradients(method, backbone, units, batch())
    assert same(before[0], after[0])
    assert same(before[1], after[1])
    assert not same(before[2], after[2])


def test_it_reads_no_label_and_has_none_to_tell():
    method, backbone, units = make("hybrid-forward-forward")
    data = batch()
    other = replace(data, labels=(data.labels + 1) % K)
    assert losses_of(method, units, data) == losses_of(method, units, other)
    assert not method.needs().labels
    condition = method.condition(K, SHAPE)
    assert condition.readings == ("pixels",)
    assert method.readout(backbone, condition, heads_of(units), K) is None
