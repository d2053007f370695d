from __future__ import annotations

import pytest
import torch

from ffcore.errors import SettingError
from ffmodels.conditions import Condition, LabelSlot, with_label


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


@pytest.mark.parametrize("condition", [Condition(), LabelSlot(4, (1, 4, 4))])
def test_the_reading_pixels_leaves_the_image(condition):
    images = torch.rand(3, 1, 4, 4)
    assert torch.equal(condition(images, "pixels"), images)


def test_an_unknown_reading_and_a_label_that_does_not_fit():
    with pytest.raises(SettingError, match="'ones' is unknown here: choose one of neutral, zeros, pixels"):
        LabelSlot(4, (1, 4, 4))(torch.rand(1, 1, 4, 4), "ones")
    with pytest.raises(SettingError, match="'neutral' is unknown here: choose one of pixels"):
        Condition()(torch.rand(1, 1, 4, 4), "neutral")
    LabelSlot(24, (1, 4, 6))
    with pytest.raises(SettingError, match="24 classes does not fit into the 4x5"):
        LabelSlot(24, (3, 4, 5))
