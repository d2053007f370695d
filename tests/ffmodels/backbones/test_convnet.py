from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from ffcore.errors import SettingError
from fftrain.parts import BACKBONES

SMALL = {"channels": [4, 6], "norm": "batch"}


def make(shape=(3, 12, 12), **settings):
    return BACKBONES.load("convnet")(**{**SMALL, **settings}).build(shape, seed=0)


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


def test_settings_stand_for_the_blocks_that_follow():
    net = make(channels=[2, 3, 4], kernel=[5, 1], pooling=["max", "none"])
    assert [block[0].kernel_size for block in net.blocks] == [(5, 5), (1, 1), (1, 1)]
    assert [any(isinstance(part, nn.MaxPool2d) for part in block) for block in net.blocks] == [True, False, False]


@pytest.mark.parametrize("settings", [{"channels": []}, {"kernel": [2]}, {"pooling": ["min"]}, {"channels": [0]}])
def test_settings_that_are_not_legal_are_refused(settings):
    with pytest.raises(SettingError, match=next(iter(settings))):
        make(**settings)
