from __future__ import annotations

import pytest
import torch
from torch import nn

from ffmodels.layers import Triangle
from ffmodels.norm import BatchNorm
from fftrain.parts import BACKBONES


def make(**settings):
    return BACKBONES.load("mlp")(**{"width": 16, "depth": 3, **settings}).build((1, 4, 4), seed=0)


def test_by_default_a_block_multiplies_and_rectifies():
    assert [[type(part) for part in block] for block in make().blocks] == [[nn.Linear, nn.ReLU]] * 3


def test_norm_activation_and_dropout_stand_behind_the_product():
    block = make(norm="batch", activation="leaky", dropout=0.1).blocks[1]
    assert [type(part) for part in block] == [nn.Linear, BatchNorm, nn.LeakyReLU, nn.Dropout]


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 2, 3)])
def test_triangle_lets_pass_what_is_above_the_mean_of_the_units(shape):
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = z.numpy() - z.numpy().mean(1, keepdims=True)
    torch.testing.assert_close(Triangle()(z), torch.from_numpy(expected.clip(min=0)))


def test_a_networks_weights_are_those_of_its_seed_whatever_its_activation_is():
    one, other = make(), make(activation="triangle")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
