from __future__ import annotations

import torch

from ffmodels.parts import BACKBONES, METHODS
from ffmodels.units import make_units

# A method that reads lengths takes no network that leaves them.
SMALL = {"between": "rms"}


def test_its_features_are_the_pixels():
    net = BACKBONES.load("pixels")().build((3, 4, 5), seed=0)
    images = torch.rand(2, 3, 4, 5)
    [activation] = net(images)
    assert torch.equal(net.features(activation), images.flatten(1))
    assert [(block.dim, block.shape) for block in net.info] == [(60, (3, 4, 5))]
    assert not [*net.parameters()]


def test_they_are_normalised_where_that_is_asked_for():
    net = BACKBONES.load("pixels")(between="rms").build((1, 4, 5), seed=0)
    images = torch.rand(2, 1, 4, 5) / 100
    [activation] = net(images)
    torch.testing.assert_close(net.features(activation).square().mean(1), torch.ones(2))


def test_a_head_on_pixels_is_all_that_is_trained():
    net = BACKBONES.load("pixels")().build((1, 4, 5), seed=0)
    [unit] = make_units(METHODS.load("cross-entropy")(), net, 3)
    assert {name for name, _ in unit.named_parameters()} == {"heads.0.linear.weight", "heads.0.linear.bias"}
