from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as theirs

from ffmodels.draws import Draws
from fftrain.parts import VIEWS
from fftrain.views import two_crops

NOTHING = {"smallest": 1.0, "mirror": 0.0, "jitter": 0.0, "gray": 0.0}


def seen(images, **settings):
    count = len(images)
    view = VIEWS.load("two-crops")(**settings)
    return view(images, torch.zeros(count, dtype=torch.int64), Draws(0, 1, torch.arange(count)))[0]


def colours(count, size=8):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def ramps(count, size=32):
    """Images whose red grows to the right and whose green grows downwards: a crop tells where it is from."""
    line = (torch.arange(size) + 0.5) / size
    image = torch.stack([line.expand(size, size), line[:, None].expand(size, size), torch.zeros(size, size)])
    return image.expand(count, 3, size, size)


def boxes(x):
    """Left, right, top and bottom of each crop of a ramp, as shares of the side."""
    size = x.shape[-1]
    red, green = x[:, 0, size // 2], x[:, 1, :, size // 2]
    inner = slice(size // 4, -size // 4)
    across, along = ((line[:, inner].diff(dim=1).mean(1) * size) for line in (red, green))
    return across, along, red[:, size // 2 - 1 : size // 2 + 1].mean(1), green[:, size // 2 - 1 : size // 2 + 1].mean(1)


def test_crops_keep_their_share_of_the_area_and_lie_inside():
    for x in seen(ramps(3000), **{**NOTHING, "smallest": 0.2}):
        across, along, middle, height = boxes(x)
        area = across * along
        assert area.min() > 0.19
        assert area.max() < 1.01
        theirs = [
            RandomResizedCrop.get_params(torch.zeros(1, 1000, 1000), (0.2, 1.0), two_crops.RATIOS) for _ in range(2000)
        ]
        assert area.mean().item() == pytest.approx(np.mean([h * w / 1e6 for *_, h, w in theirs]), abs=0.02)
        assert (across / along).min() > 0.74
        assert (across / along).max() < 1.35
        for length, place in ((across, middle), (along, height)):
            assert (place - length / 2).min() > -0.01
            assert (place + length / 2).max() < 1.01
    assert not torch.equal(*seen(ramps(5), **{**NOTHING, "smallest": 0.2}))


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.5, 900, 1100), (1.0, 2000, 2000)])
def test_crops_are_mirrored_as_often_as_is_said(share, least, most):
    for x in seen(ramps(2000), **{**NOTHING, "mirror": share}):
        assert least <= (boxes(x)[0] < 0).sum() <= most


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.2, 330, 470), (1.0, 2000, 2000)])
def test_colours_are_taken_away_as_often_as_is_said(share, least, most):
    for x in seen(colours(2000), **{**NOTHING, "gray": share}):
        alike = (x.amax(1) - x.amin(1)).amax((1, 2)) < 1e-6
        assert least <= alike.sum() <= most


def test_gray_brightness_contrast_and_saturation_are_torchvisions():
    x, share = colours(1), torch.tensor(1.3).view(1, 1, 1, 1)
    torch.testing.assert_close(two_crops._gray(x), theirs.rgb_to_grayscale(x), rtol=0, atol=1e-3)
    mean = two_crops._gray(x).mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(two_crops._blended(x, mean, share), theirs.adjust_contrast(x, 1.3), rtol=0, atol=1e-3)
    found = two_crops._blended(x, two_crops._gray(x), share)
    torch.testing.assert_close(found, theirs.adjust_saturation(x, 1.3), rtol=0, atol=1e-3)


@pytest.mark.parametrize("turn", [1 / 3, -1 / 3])
def test_a_third_of_the_colour_circle_exchanges_the_colours(turn):
    x = colours(2)
    found = two_crops._turned(x, torch.tensor(2 * math.pi * turn))
    torch.testing.assert_close(found, theirs.adjust_hue(x, turn), rtol=0, atol=1e-4)
    torch.testing.assert_close(two_crops._turned(x, torch.tensor(0.0)), x)


def test_a_blur_is_torchvisions_with_a_deviation_of_each_images_own():
    x, sigmas = colours(2, size=40), [0.4, 1.5]
    found = two_crops._blurred(x, torch.tensor(sigmas))
    for one, image, sigma in zip(found, x, sigmas, strict=True):
        expected = theirs.gaussian_blur(image, [5, 5], [sigma, sigma])
        torch.testing.assert_close(one[:, 4:-4, 4:-4], expected[:, 4:-4, 4:-4], rtol=0, atol=1e-5)


def test_gray_images_change_in_brightness_and_contrast_alone():
    images = colours(200)[:, :1]
    for x in seen(images, **{**NOTHING, "jitter": 1.0, "gray": 1.0, "blur": 1.0}):
        assert x.shape == images.shape
        assert x.min() >= 0
        assert x.max() <= 1
