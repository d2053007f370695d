from __future__ import annotations

import pytest
import torch

from ffmodels.draws import Draws
from fftrain.geometry import warp
from fftrain.parts import VIEWS


def spots(count=200, size=28):
    """Images with a spot of 4x4 pixels in the middle."""
    images = torch.zeros(count, 1, size, size, dtype=torch.uint8)
    images[:, :, size // 2 - 2 : size // 2 + 2, size // 2 - 2 : size // 2 + 2] = 255
    return images


def seen(images, **settings):
    count = len(images)
    view = VIEWS.load("two-shifts")(**settings)
    return view(images, torch.zeros(count, dtype=torch.int64), Draws(0, 1, torch.arange(count)))[0]


def middles(x):
    """Where the brightness of each image lies, in pixels from the middle: right and down."""
    mass, places = x.sum((1, 2, 3)), torch.arange(x.shape[2]) - (x.shape[2] - 1) / 2
    return torch.stack([(x.sum((1, 2)) * places).sum(1) / mass, (x.sum((1, 3)) * places).sum(1) / mass], 1)


def test_shifts_are_uniform_up_to_the_largest_each_view_by_itself():
    one, other = (middles(x) for x in seen(spots(2000), rotate=0.0, scale=0.0, shift=0.25))
    for found in (one, other):
        assert found.abs().max() <= 7.01
        assert found.abs().max() > 6.8
        assert found.std(0).tolist() == pytest.approx([7 / 3**0.5] * 2, rel=0.05)
    assert (one * other).mean(0).abs().max() < 2


def test_sizes_are_within_the_scale():
    for x in seen(spots(), rotate=0.0, shift=0.0, scale=0.2):
        area = x.sum((1, 2, 3)) / 16
        assert area.min() > 0.8**2 - 0.1
        assert area.max() < 1.2**2 + 0.1
        assert area.max() - area.min() > 0.5


def test_rotations_are_within_the_angle():
    images = torch.zeros(300, 1, 28, 28, dtype=torch.uint8)
    images[:, :, 13:15, 2:26] = 255  # a line across
    for x in seen(images, shift=0.0, scale=0.0, rotate=30.0):
        places = torch.arange(28) - 13.5
        down, right = torch.meshgrid(places, places, indexing="ij")
        slopes = torch.rad2deg(torch.atan2((x[:, 0] * down * right).sum((1, 2)), (x[:, 0] * right**2).sum((1, 2))))
        assert slopes.abs().max() < 31
        assert slopes.abs().max() > 27
        assert slopes.mean().abs() < 3


def test_without_any_change_both_are_the_image():
    images = spots(3)
    for x in seen(images, shift=0.0, rotate=0.0, scale=0.0):
        torch.testing.assert_close(x, images / 255)
        torch.testing.assert_close(
            x, warp(images, (torch.ones(3), *[torch.zeros(3)] * 2), (torch.zeros(3), torch.ones(3), torch.zeros(3)))
        )
