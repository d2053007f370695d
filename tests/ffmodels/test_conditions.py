from __future__ import annotations

import numpy as np
import pytest
import torch

from ffcore.errors import SettingError
from ffmodels.conditions import Condition, LabelSlot, drawn_labels, in_words, with_label
from tests.ffmodels.test_draws import MASK, chi_square, reference


@pytest.mark.parametrize("classes", [2, 4, 10, 24, 36])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_label_takes_the_first_pixels_of_the_first_channel_and_no_other(classes, channels):
    images = torch.rand(classes, channels, 6, 6)
    before = images.clone()
    found = with_label(images, torch.arange(classes), classes)
    assert torch.equal(images, before)
    assert torch.equal(found[:, 0].flatten(1)[:, :classes], torch.eye(classes))
    assert torch.equal(found[:, 0].flatten(1)[:, classes:], images[:, 0].flatten(1)[:, classes:])
    assert torch.equal(found[:, 1:], images[:, 1:])


@pytest.mark.parametrize(("reading", "value"), [("neutral", 0.25), ("zeros", 0.0)])
def test_readings_fill_the_label_pixels(reading, value):
    images = torch.rand(3, 1, 4, 4) + 0.5
    found = LabelSlot(4, (1, 4, 4))(images, reading)
    assert torch.equal(found[:, 0, 0], torch.full((3, 4), value))
    assert torch.equal(found[:, :, 1:], images[:, :, 1:])


@pytest.mark.parametrize("label", range(4))
def test_the_reading_of_a_label_gives_it_to_every_image(label):
    images = torch.rand(3, 2, 4, 4)
    found = LabelSlot(4, (2, 4, 4))(images, f"label:{label}").numpy()
    expected = images.numpy().copy()
    expected.reshape(3, -1)[:, :4] = np.arange(4) == label
    np.testing.assert_array_equal(found, expected)


def test_the_drawn_label_is_splitmix64_of_the_pixels_in_whole_numbers():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 2, 3, 4), dtype=np.uint8)
    pixels[0], pixels[1] = 0, 255
    factors = [reference(0, 0, place, "pixel", 0) for place in range(24)]
    keys = [sum(int(p) * f for p, f in zip(row, factors, strict=True)) & MASK for row in pixels.reshape(20, -1)]
    expected = [(reference(0, 0, key, "label", 0) >> 1) % 5 for key in keys]
    images = torch.from_numpy(pixels).float() / 255
    assert drawn_labels(images, 5).tolist() == expected
    found = LabelSlot(5, (2, 3, 4))(images, "random")
    assert torch.equal(found, with_label(images, torch.tensor(expected), 5))
    assert torch.equal(LabelSlot(5, (2, 3, 4))(images[7:9], "random"), found[7:9])  # whatever its batch


def test_drawn_labels_are_uniform_and_no_two_images_share_theirs_by_rule():
    images = torch.zeros(10_000, 1, 10, 10)
    images.view(10_000, -1)[range(10_000), torch.arange(10_000) % 100] = (1 + torch.arange(10_000) // 100) / 255
    counts = np.bincount(drawn_labels(images, 4), minlength=4)  # one pixel differs
    assert chi_square(counts) < 4 + 6 * np.sqrt(8)


@pytest.mark.parametrize("condition", [Condition(), LabelSlot(4, (1, 4, 4))])
def test_the_reading_pixels_leaves_the_image(condition):
    images = torch.rand(3, 1, 4, 4)
    assert torch.equal(condition(images, "pixels"), images)


def test_an_unknown_reading_and_a_label_that_does_not_fit():
    with pytest.raises(SettingError, match=r"'ones' is unknown here: choose one of neutral, .*, label:0 to label:3$"):
        LabelSlot(4, (1, 4, 4))(torch.rand(1, 1, 4, 4), "ones")
    for reading in ("label:4", "label:x", "label:-1", "label:", "label:01"):
        with pytest.raises(SettingError, match=r"to label:3$"):
            LabelSlot(4, (1, 4, 4))(torch.rand(1, 1, 4, 4), reading)
    assert in_words(LabelSlot(24, (1, 9, 9)).readings) == "neutral, zeros, pixels, random, label:0 to label:23"
    with pytest.raises(SettingError, match="'neutral' is unknown here: choose one of pixels"):
        Condition()(torch.rand(1, 1, 4, 4), "neutral")
    LabelSlot(24, (1, 4, 6))
    with pytest.raises(SettingError, match="24 classes does not fit into the 4x5"):
        LabelSlot(24, (3, 4, 5))
