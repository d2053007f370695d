from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms.v2 import functional as theirs

from fftrain.geometry import warp
from tests.fftrain.views.seeing import images


def rows(*values):
    return tuple(torch.tensor([value] * 2) for value in values)


SAME = (rows(1.0, 0.0, 0.0), rows(0.0, 1.0, 0.0))


def test_the_identity_gives_the_images_as_float():
    x = images(2, channels=3)
    torch.testing.assert_close(warp(x, *SAME), x.float() / 255)


def test_whole_pixels_move_images_and_repeat_the_edge():
    x = images(2, channels=3)
    found = warp(x, rows(1.0, 0.0, 2.0), rows(0.0, 1.0, -1.0))
    expected = torch.cat([x[:, :, :1], x[:, :, :-1]], 2)
    expected = torch.cat([expected[..., 2:], expected[..., -1:], expected[..., -1:]], 3)
    torch.testing.assert_close(found, expected.float() / 255, rtol=0, atol=1e-5)


def test_a_negative_factor_mirrors():
    x = images(2)
    torch.testing.assert_close(warp(x, rows(-1.0, 0.0, 0.0), SAME[1]), x.flip(3) / 255, rtol=0, atol=1e-5)


@pytest.mark.parametrize("degrees", [90, 180])
def test_a_turn_by_right_angles_turns_the_image(degrees):
    x, angle = images(2), math.radians(degrees)
    c, s = math.cos(angle), math.sin(angle)
    found = warp(x, rows(c, s, 0.0), rows(-s, c, 0.0))
    torch.testing.assert_close(found, x.rot90(-degrees // 90, (2, 3)) / 255, rtol=0, atol=1e-5)


def test_it_is_torchvisions_affine_map_inside_the_image():
    x = torch.nn.functional.interpolate(images(2, size=4).float() / 255, (32, 32), mode="bicubic").clamp(0, 1)
    angle, scale, shift = 12.0, 1.1, (3, -2)
    expected = theirs.affine(x, angle, [*shift], scale, [0.0, 0.0], interpolation=theirs.InterpolationMode.BILINEAR)
    c, s = (f(math.radians(angle)) / scale for f in (math.cos, math.sin))
    right, down = (-(c * shift[0] + s * shift[1]), -(-s * shift[0] + c * shift[1]))
    found = warp(x, rows(c, s, right), rows(-s, c, down))
    torch.testing.assert_close(found[..., 8:-8, 8:-8], expected[..., 8:-8, 8:-8], rtol=0, atol=1e-4)
