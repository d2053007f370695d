"""Wrong labels and hybrids against NumPy in float64, and how they are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fftrain.negatives import draw_hybrids, hybrids, masks, wrong_labels

SIZES = [(28, 28), (5, 7), (9, 4), (1, 6)]


def drawn(count, height, width, seed=0):
    return draw_hybrids(count, height * width, np.random.default_rng(seed))


def blurred_reference(bits, blurs, height, width):
    """The bits of one mask after so many blurs, by explicit convolution: float64 [H, W]."""
    field = np.unpackbits(bits, bitorder="little")[: height * width].reshape(height, width).astype(np.float64)
    for _ in range(blurs):
        rows = np.pad(field, ((1, 1), (0, 0)), mode="edge")
        field = rows[:-2] / 4 + rows[1:-1] / 2 + rows[2:] / 4
        columns = np.pad(field, ((0, 0), (1, 1)), mode="edge")
        field = columns[:, :-2] / 4 + columns[:, 1:-1] / 2 + columns[:, 2:] / 4
    return field


def found_masks(found, height, width):
    return masks(torch.from_numpy(found["bits"]), torch.from_numpy(found["blurs"]), height, width)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_masks_are_blurred_bits_above_one_half(height, width):
    found = drawn(60, height, width)
    result = found_masks(found, height, width)
    assert result.shape == (60, 1, height, width)
    assert result.dtype == torch.bool
    expected = np.stack(
        [blurred_reference(*one, height, width) for one in zip(found["bits"], found["blurs"], strict=True)]
    )
    clear = np.abs(expected - 0.5) > 1e-6  # float32 may round across the threshold
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(result[:, 0].numpy()[clear], (expected > 0.5)[clear])


def test_bits_behind_the_last_pixel_change_nothing():
    found = drawn(20, 5, 7)
    before = found_masks(found, 5, 7)
    found["bits"][:, -1] ^= 0b11111000  # 35 pixels take 4 bytes and 3 bits
    assert torch.equal(found_masks(found, 5, 7), before)
    found["bits"][:, -1] ^= 0b00000111
    assert not torch.equal(found_masks(found, 5, 7), before)


def test_masks_have_large_regions_and_take_half_of_the_image():
    found = drawn(400, 28, 28)
    result = found_masks(found, 28, 28)[:, 0].numpy()
    bits = np.unpackbits(found["bits"], axis=1, bitorder="little").reshape(400, 28, 28).astype(bool)

    def edges(fields):
        return np.mean(fields[:, 1:] != fields[:, :-1]) + np.mean(fields[:, :, 1:] != fields[:, :, :-1])

    assert edges(bits) == pytest.approx(1, abs=0.02)
    assert edges(result) < 0.35
    assert result.mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_hybrid_is_the_image_in_its_mask_and_its_partner_elsewhere_in_every_channel(channels, height, width):
    found = drawn(50, height, width)
    rng = np.random.default_rng(1)
    images, partners = rng.random((2, 50, channels, height, width), dtype=np.float32)
    bits, blurs = torch.from_numpy(found["bits"]), torch.from_numpy(found["blurs"])
    result = hybrids(torch.from_numpy(images), torch.from_numpy(partners), bits, blurs).numpy()
    assert result.dtype == np.float32
    of_image = result == images
    np.testing.assert_array_equal(of_image, ~(result == partners))  # each pixel is of one of the two
    mask = found_masks(found, height, width).numpy()
    np.testing.assert_array_equal(of_image, np.broadcast_to(mask, of_image.shape))


def test_hybrids_of_an_empty_share_are_none():
    bits, blurs = torch.zeros(0, 5, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    assert hybrids(torch.zeros(0, 3, 6, 6), torch.zeros(0, 3, 6, 6), bits, blurs).shape == (0, 3, 6, 6)


@pytest.mark.parametrize("count", [2, 3, 1000])
def test_a_partner_is_never_the_image_itself(count):
    for seed in range(20):
        partner = drawn(count, 2, 3, seed)["partner"]
        assert partner.shape == (count,)
        assert not (partner == np.arange(count)).any()
        assert partner.min() >= 0
        assert partner.max() < count


def test_partners_are_uniform_over_the_others():
    counts = np.zeros((5, 5))
    for seed in range(4000):
        counts[np.arange(5), drawn(5, 1, 1, seed)["partner"]] += 1
    assert np.abs(counts[~np.eye(5, dtype=bool)] / 4000 - 1 / 4).max() < 0.04


@pytest.mark.parametrize("count", [0, 1])
def test_a_data_set_without_another_image_draws_what_is_there(count):
    found = drawn(count, 5, 7)
    assert found["partner"].tolist() == [0] * count
    assert found["bits"].shape == (count, 5)


def test_blurs_are_six_to_ten_alike_and_bits_are_even():
    found = drawn(50_000, 3, 5)
    assert np.unique(found["blurs"]).tolist() == [6, 7, 8, 9, 10]
    assert np.abs(np.bincount(found["blurs"])[6:] / 50_000 - 1 / 5).max() < 0.01
    assert (found["bits"].dtype, found["bits"].shape) == (np.uint8, (50_000, 2))
    assert np.abs(np.unpackbits(found["bits"], axis=1).mean(0) - 1 / 2).max() < 0.015


def test_hybrids_are_drawn_the_same_again_and_differently_from_another_seed():
    one, again, other = drawn(100, 4, 4, seed=1), drawn(100, 4, 4, seed=1), drawn(100, 4, 4, seed=2)
    for name, values in one.items():
        np.testing.assert_array_equal(values, again[name])
        assert (values != other[name]).any()


@pytest.mark.parametrize("classes", [2, 4, 10, 24])
def test_a_negative_never_carries_the_right_label_and_each_wrong_one_alike(classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(classes, size=100_000)
    wrong = wrong_labels(labels, classes, rng)
    assert not (wrong == labels).any()
    assert wrong.min() == 0
    assert wrong.max() == classes - 1
    pairs = np.zeros((classes, classes))
    np.add.at(pairs, (labels, wrong), 1)
    shares = pairs / pairs.sum(1, keepdims=True)
    off = ~np.eye(classes, dtype=bool)
    assert np.abs(shares[off] - 1 / (classes - 1)).max() < 0.02
