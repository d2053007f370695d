from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ffcore.errors import SettingError
from fftrain.parts import BACKBONES

SMALL = {"channels": [4, 6], "norm": "batch", "keeps": 2}  # of maps of 14 and 7 pixels


def make(shape=(3, 12, 12), **settings):
    return BACKBONES.load("convnet")(**{**SMALL, "keeps": 1, **settings}).build(shape, seed=0)


def test_a_block_is_a_convolution_a_norm_an_activation_and_a_pool():
    net = make(norm="none", kernel=[5, 3], window=4, between="none", activation="leaky").eval()
    images, expected = torch.rand(2, 3, 12, 12), None
    first, second = (block[0] for block in net.blocks)
    expected = functional.leaky_relu(functional.conv2d(images, first.weight, first.bias, padding=2))
    expected = functional.max_pool2d(expected, 4, 2, 1)
    torch.testing.assert_close(net(images)[0], expected)
    expected = functional.leaky_relu(functional.conv2d(expected, second.weight, second.bias, padding=1))
    torch.testing.assert_close(net(images)[1], functional.max_pool2d(expected, 4, 2, 1, ceil_mode=True))


@pytest.mark.parametrize("window", [2, 3, 4])
@pytest.mark.parametrize("pooling", [["max"], ["average"], ["max", "none"]])
@pytest.mark.parametrize("size", [(2, 2), (3, 5), (7, 7), (28, 28), (1, 9)])
def test_images_of_any_size_are_taken_and_maps_halved_rounding_up(window, pooling, size):
    net = make((1, *size), window=window, pooling=pooling)
    height, width = size
    for block, kind in zip(net.info, (pooling * 2)[:2] if len(pooling) == 1 else pooling, strict=True):
        if kind != "none":
            height, width = -(-height // 2), -(-width // 2)
        assert abs(block.shape[1] - height) <= 1
        assert block.shape[1:] != (0, 0)
        height, width = block.shape[1:]
    assert [block.dim for block in net.info] == [4, 6]


def test_features_keep_the_means_of_parts_of_a_map():
    net = make((3, 12, 12), keeps=2, between="none").eval()  # maps of 6 and 3 pixels
    h6, h3 = (h.detach().double().numpy() for h in net(torch.rand(2, 3, 12, 12)))
    parts = [h6[:, :, i : i + 3, j : j + 3].mean((2, 3)) for i in (0, 3) for j in (0, 3)]
    np.testing.assert_allclose(net.features(torch.from_numpy(h6)), np.stack(parts, 2).reshape(2, -1), rtol=1e-12)
    parts = [h3[:, :, i : i + 2, j : j + 2].mean((2, 3)) for i in (0, 1) for j in (0, 1)]  # which overlap
    np.testing.assert_allclose(net.features(torch.from_numpy(h3)), np.stack(parts, 2).reshape(2, -1), rtol=1e-12)
    assert [block.dim for block in net.info] == [16, 24]
    with pytest.raises(SettingError, match=r"backbone.keeps is 4, but the maps of block 2 are 3x3"):
        make((3, 12, 12), keeps=4)


def test_pools_may_stand_where_the_next_block_begins():
    first, behind = make(pool_first=True).eval(), make().eval()
    assert [block.shape for block in first.info] == [(4, 12, 12), (6, 6, 6)]
    behind.load_state_dict(dict(zip(behind.state_dict(), first.state_dict().values(), strict=True)))
    images = torch.rand(2, 3, 12, 12)
    torch.testing.assert_close(functional.max_pool2d(first(images)[0], 2), behind(images)[0])
    one = make(pool_first=True, between="none").eval()
    torch.testing.assert_close(one(images)[1], one.blocks[1](functional.max_pool2d(one(images)[0], 2)))


@pytest.mark.parametrize("between", ["rms", "layer", "triangle"])
def test_what_was_pooled_first_is_normalised_as_it_is_read(between):
    net = make(pool_first=True, between=between, activation="linear").eval()
    z = net(torch.rand(2, 3, 12, 12))[0]
    spoken = (z - z.mean(1, keepdim=True)).relu() if between == "triangle" else z
    read = net.read(1, z).flatten(1)
    pooled = functional.max_pool2d(spoken, 2).flatten(1)
    expected = pooled if between == "rms" else pooled - pooled.mean(1, keepdim=True)
    torch.testing.assert_close(read, expected / expected.square().mean(1, keepdim=True).sqrt())


def test_settings_stand_for_the_blocks_that_follow():
    net = make(channels=[2, 3, 4], kernel=[5, 1], pooling=["max", "none"])
    assert [block[0].kernel_size for block in net.blocks] == [(5, 5), (1, 1), (1, 1)]
    assert [any(isinstance(part, nn.MaxPool2d) for part in block) for block in net.blocks] == [True, False, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": [3, 3, 5]}, "backbone.kernel has 3 values, and there are 2 blocks: give no more"),
        ({"pooling": ["max", "max", "none"]}, "backbone.pooling has 3 values, and there are 2 blocks: give no more"),
        ({"pooling": ["none"], "window": 4}, "backbone.pooling is none: leave out backbone.window"),
        ({"pooling": ["none"], "pool_first": True}, "backbone.pooling is none: leave out backbone.window"),
    ],
)
def test_settings_that_would_change_nothing_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        make(**settings)


@pytest.mark.parametrize("settings", [{"channels": []}, {"kernel": [2]}, {"pooling": ["min"]}, {"channels": [0]}])
def test_settings_that_are_not_legal_are_refused(settings):
    with pytest.raises(SettingError, match=next(iter(settings))):
        make(**settings)
