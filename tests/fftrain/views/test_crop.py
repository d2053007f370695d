from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as theirs

from ffcore.errors import SettingError
from ffmodels.draws import Draws
from fftrain.parts import VIEWS
from tests.fftrain.views.seeing import images


def seen(x, draws=None, **settings):
    labels = torch.arange(len(x)) % 3
    view = VIEWS.load("crop")(**settings)
    (found,), told = view(x, labels, draws or Draws(0, 1, torch.arange(len(x))))
    assert torch.equal(told, labels)
    return found


def crops(x, padding):
    """Every crop of images in a frame of zeros, each as it is and mirrored: [2 (2 padding + 1)^2, B, C, H, W]."""
    *_, height, width = x.shape
    framed = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    places = range(2 * padding + 1)
    found = np.stack([framed[..., y : y + height, x : x + width] for y in places for x in places])
    return np.concatenate([found, found[..., ::-1]])


@pytest.mark.parametrize(("channels", "padding", "mirror"), [(1, 2, 0.25), (3, 1, 0.5), (3, 3, 0.0), (1, 1, 1.0)])
def test_each_image_is_one_of_its_crops_to_the_pixel_and_all_are_drawn_alike(channels, padding, mirror):
    x = images(5000, channels=channels, size=6)[..., :5]  # higher than wide
    found = seen(x, padding=padding, mirror=mirror)
    assert found.dtype == torch.uint8
    same = (crops(x.numpy(), padding) == found.numpy()).all((2, 3, 4))
    assert (same.sum(0) == 1).all()
    counts = same.sum(1).reshape(2, -1)
    assert counts[1].sum() == pytest.approx(5000 * mirror, abs=4 * np.sqrt(5000 * mirror * (1 - mirror)))
    for of_way in counts[counts.sum(1) > 0]:
        expected = of_way.sum() / len(of_way)
        assert ((of_way - expected) ** 2 / expected).sum() < len(of_way) + 6 * np.sqrt(2 * len(of_way))


def test_without_any_change_it_is_the_image():
    assert torch.equal(seen(images(5), padding=0, mirror=0.0), images(5))


def test_floats_are_copied_too():
    x = images(5) / 255
    assert torch.equal(seen(x), seen(images(5)) / 255)


def test_a_rotated_image_is_torchvisions_in_a_frame_of_zeros():
    x = theirs.resize(images(40, size=4), [16, 16], antialias=True)
    draws = Draws(3, 2, torch.arange(40))
    found = seen(x, draws, padding=2, mirror=0.5, rotate=30.0).numpy()
    assert found.dtype == np.float32
    angles = 30 * draws.uniform("rotate", low=-1.0)
    framed = torch.nn.functional.pad(x / 255, [8] * 4)  # so wide that torchvision cuts no corner
    bilinear = theirs.InterpolationMode.BILINEAR
    turned = [theirs.rotate(one, -angle.item(), bilinear) for one, angle in zip(framed, angles, strict=True)]
    expected = crops(torch.stack(turned).numpy(), 2)[..., 8:-8, 8:-8]
    assert np.abs(expected - found).max((2, 3, 4)).min(0).max() < 1e-4
    assert angles.abs().max() > 25


def test_the_class_is_asked_of_images_as_they_are():
    labels = torch.arange(5) % 3
    view = VIEWS.load("crop")(rotate=10.0)
    assert view.class_names(("a", "b", "c")) == ("a", "b", "c")
    [(asked, of_asked)] = view.variants(images(5), labels)
    assert torch.equal(asked, images(5))
    assert torch.equal(of_asked, labels)


def test_a_frame_as_wide_as_the_image_is_refused():
    view = VIEWS.load("crop")(padding=6)
    view.check((3, 7, 8))
    with pytest.raises(SettingError, match=r"view\.padding is 6, but images are 8x6"):
        view.check((3, 8, 6))


def test_an_empty_share_of_a_batch_passes():
    assert seen(images(0)).shape == (0, 2, 6, 6)
