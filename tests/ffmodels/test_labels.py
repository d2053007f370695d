from __future__ import annotations

import pytest
import torch

from ffcore.errors import SettingError
from ffmodels.labels import check_slot, embed_label, fill


@pytest.mark.parametrize("classes", [2, 4, 10, 24, 36])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_label_takes_the_first_pixels_of_the_first_channel_and_no_other(classes, channels):
    images = torch.rand(classes, channels, 6, 6)
    before = images.clone()
    found = embed_label(images, torch.arange(classes), classes)
    assert torch.equal(images, before)
    assert torch.equal(found[:, 0].flatten(1)[:, :classes], torch.eye(classes))
    assert torch.equal(found[:, 0].flatten(1)[:, classes:], images[:, 0].flatten(1)[:, classes:])
    assert torch.equal(found[:, 1:], images[:, 1:])


@pytest.mark.parametrize(("slot", "value"), [("neutral", 0.25), ("zeros", 0.0)])
def test_slots_fill_the_label_pixels(slot, value):
    images = torch.rand(3, 1, 4, 4) + 0.5
    found = fill(images, 4, slot)
    assert torch.equal(found[:, 0, 0], torch.full((3, 4), value))
    assert torch.equal(found[:, :, 1:], images[:, :, 1:])


def test_slot_pixels_leaves_the_image():
    images = torch.rand(3, 1, 4, 4)
    assert torch.equal(fill(images, 4, "pixels"), images)


def test_unknown_slot_and_a_label_that_does_not_fit():
    with pytest.raises(SettingError, match="'ones' is unknown: choose one of neutral, zeros, pixels"):
        fill(torch.rand(1, 1, 4, 4), 4, "ones")
    check_slot((1, 4, 6), 24)
    with pytest.raises(SettingError, match="24 classes does not fit into the 4x5"):
        check_slot((3, 4, 5), 24)
