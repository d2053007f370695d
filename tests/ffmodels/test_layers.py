from __future__ import annotations

import pytest
import torch
from torch import nn

from ffmodels.layers import Triangle
from ffmodels.norm import BatchNorm
from ffmodels.units import make_units
from fftrain.parts import BACKBONES, METHODS
from tests.ffmodels.making import batch


def make(**settings):
    return BACKBONES.load("mlp")(**{"width": 16, "depth": 3, **settings}).build((1, 4, 4), seed=0)


def test_by_default_a_block_multiplies_and_rectifies():
    assert [[type(part) for part in block] for block in make().blocks] == [[nn.Linear, nn.ReLU]] * 3


def test_norm_and_activation_stand_behind_the_product_and_dropout_before_the_next_block():
    backbone = make(norm="batch", activation="leaky", dropout=0.1)
    assert [type(part) for part in backbone.blocks[1]] == [nn.Linear, BatchNorm, nn.LeakyReLU]
    assert [[type(part) for part in pool] for pool in backbone.pools] == [[], [nn.Dropout], [nn.Dropout]]


@pytest.mark.parametrize("network", ["mlp", "convnet"])
def test_a_loss_sees_a_block_whole_and_the_next_block_what_dropout_leaves(network):
    small = {"mlp": {"width": 40, "depth": 2}, "convnet": {"channels": (8, 8)}}[network]
    backbone = BACKBONES.load(network)(**small, activation="linear", dropout=0.5, between="none").build((1, 4, 4), 0)
    first, last = make_units(METHODS.load("cross-entropy")(), backbone, 4)
    read = {}
    for name, unit in (("first", first), ("last", last)):
        head = next(iter(unit.heads.values()))
        head.register_forward_pre_hook(lambda _, inputs, name=name: read.update({name: inputs[0]}))
        unit.blocks[0].register_forward_pre_hook(lambda _, inputs, name=name: read.update({name + " reads": inputs[0]}))
    one = batch(rows=30)
    h, _ = first(torch.rand(30, 1, 4, 4) + 0.1, one)
    last(h, one)
    zeros = {name: (x == 0).double().mean().item() for name, x in read.items()}
    assert zeros["first"] == zeros["last"] == 0
    assert 0.4 < zeros["last reads"] < 0.6
    read.clear()
    last.freeze()
    last(h, one)
    assert torch.equal(read["last reads"], h)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 2, 3)])
def test_triangle_lets_pass_what_is_above_the_mean_of_the_units(shape):
    z = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = z.numpy() - z.numpy().mean(1, keepdims=True)
    torch.testing.assert_close(Triangle()(z), torch.from_numpy(expected.clip(min=0)))


def test_a_networks_weights_are_those_of_its_seed_whatever_its_activation_is():
    one, other = make(), make(activation="triangle")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
