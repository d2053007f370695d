"""What every backbone has, and that one which does not fit is refused when it is made."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from ffcore.errors import SettingError
from ffmodels.backbones.base import NORMALISE, Backbone, Between, group, mean
from ffmodels.parts import BACKBONES
from tests.parts import small


def chain(*blocks, between="rms", shape=(1, 4, 4), **more):
    return Backbone(nn.Flatten(), blocks, shape=shape, between=between, **more)


@pytest.mark.parametrize("shape", [(4, 50), (4, 2, 5, 5), (4, 10, 5)])
def test_rms_keeps_the_direction_of_an_image_and_sets_its_length(shape):
    x = np.random.default_rng(0).normal(size=shape) * np.array([1e-2, 1, 10, 1e4]).reshape(4, *[1] * (len(shape) - 1))
    found = NORMALISE["rms"](torch.from_numpy(x))
    expected = x.reshape(4, -1) / np.sqrt((x.reshape(4, -1) ** 2).mean(-1, keepdims=True))
    np.testing.assert_allclose(found.reshape(4, -1), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", [(50,), (2, 5, 5)])
def test_layer_is_layer_norm_without_parameters_over_all_of_an_image(shape):
    x = torch.randn(4, *shape, dtype=torch.float64)
    torch.testing.assert_close(NORMALISE["layer"](x), nn.functional.layer_norm(x, shape, eps=0.0))


@pytest.mark.parametrize("shape", [(20,), (20, 5, 5)])
def test_group_is_group_norm_without_parameters(shape):
    x = torch.randn(4, *shape, dtype=torch.float64)
    for groups in (1, 2, 5):  # of four numbers at least: two may be nearly alike
        torch.testing.assert_close(group(x, groups), nn.functional.group_norm(x, groups, eps=0.0))
    x = torch.zeros(2, 6, requires_grad=True)
    group(x, 3).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("between", get_args(Between))
def test_no_images_have_no_features(between):
    """Processes that share out images may have none of them."""
    blocks = [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 1)]
    backbone = Backbone(nn.Identity(), blocks, shape=(1, 4, 4), between=between, groups=2)
    assert [h.shape[0] for h in backbone(torch.zeros(0, 1, 4, 4))] == [0, 0]
    assert backbone.features(torch.zeros(0, 6, 2, 2)).shape == (0, 6)


@pytest.mark.parametrize("name", ["mlp", "convnet", "vit", "resnet"])
def test_every_network_can_be_normalised_by_groups(name):
    settings = {**small("backbone", name), "between": "group", "groups": 2}
    del settings["name"]
    backbone = BACKBONES.load(name)(**settings).build((1, 14, 14), 0).eval()
    images = torch.rand(3, 1, 14, 14)
    for h, read in zip(backbone(images), [block.normalise for block in backbone.info], strict=True):
        torch.testing.assert_close(read(h), group(h, 2))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mlp", {"width": 24}, "backbone.groups is 10, and block 1 has 24 channels: choose what divides them"),
        ("mlp", {"width": 10}, "backbone.groups is 10, and block 1 has 10 numbers: one by itself is nothing where"),
        ("convnet", {}, "backbone.groups is 10, and block 1 has 64 channels: choose what divides them"),
        ("convnet", {"channels": (20, 24)}, "backbone.groups is 10, and block 2 has 24 channels: choose what"),
    ],
)
def test_groups_that_do_not_share_out_a_block_are_refused(name, settings, message):
    with pytest.raises(SettingError, match=message):
        BACKBONES.load(name)(between="group", **settings).build((1, 14, 14), 0)
    BACKBONES.load("convnet")(between="group", channels=(10,)).build((1, 14, 14), 0)  # of pixels there are several


@pytest.mark.parametrize("between", ["rms", "layer", "triangle", "none"])
def test_groups_of_what_is_not_normalised_by_them_are_refused(between):
    with pytest.raises(SettingError, match=rf"^backbone\.groups is 7, and backbone\.between is {between}: choose"):
        BACKBONES.load("mlp")(between=between, groups=7, width=14).build((1, 14, 14), 0)


def test_triangle_is_of_activations_and_layer_of_images():
    z = torch.randn(3, 6, 4, 4, dtype=torch.float64)
    above = (z - z.mean(1, keepdim=True)).clamp(min=0)
    torch.testing.assert_close(NORMALISE["triangle"](z), nn.functional.layer_norm(above, (6, 4, 4), eps=0.0))
    images, blocks = torch.rand(3, 3, 4, 4), [nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1)]
    first, second = Backbone(nn.Identity(), blocks, shape=(3, 4, 4), between="triangle")(images)
    torch.testing.assert_close(first, blocks[0](NORMALISE["layer"](images)))
    torch.testing.assert_close(second, blocks[1](NORMALISE["triangle"](first)))


@pytest.mark.parametrize("name", ["rms", "layer"])
@pytest.mark.parametrize("shape", [(2, 8), (2, 2, 2, 2)])
def test_zeros_stay_zero_with_a_finite_gradient(name, shape):
    x = torch.zeros(shape, requires_grad=True)
    found = NORMALISE[name](x)
    found.sum().backward()
    assert torch.equal(found, torch.zeros(shape))
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("axes", [[1], [2, 3], [1, 2, 3]])
@pytest.mark.parametrize("keepdim", [False, True])
def test_a_mean_is_torchs_with_a_gradient_that_is_written_nowhere(axes, keepdim):
    h = torch.rand(2, 3, 4, 5, dtype=torch.float64)
    assert torch.equal(mean(h, axes, keepdim), h.mean(axes, keepdim))
    found = mean(h.requires_grad_(), axes, keepdim)
    torch.testing.assert_close(found, h.mean(axes, keepdim))
    weights = torch.rand_like(found)
    (gradient,) = torch.autograd.grad((found * weights).sum(), h)
    (expected,) = torch.autograd.grad((h.mean(axes, keepdim) * weights).sum(), h)
    torch.testing.assert_close(gradient, expected)
    assert all(gradient.stride(axis) == 0 for axis in axes)
    large = torch.full((1, 70000), 2.0, dtype=torch.half)
    assert mean(large, [1]).item() == mean(large.requires_grad_(), [1]).item() == 2  # whose sum is no half


class Volume(nn.Module):
    """A part of somebody's network whose weights have five axes."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv3d(1, 4, (3, 3, 3), padding=(0, 1, 1))

    def forward(self, h):
        return self.convolution(h[:, None])[:, :, 0]


class Squared(Backbone):
    """Somebody's network whose features grow as squares do."""

    def pool(self, h):
        return h.square().mean((2, 3))


class Mixed(Backbone):
    """Somebody's network that takes the images of a batch together."""

    def pool(self, h):
        return h.mean((0, 2, 3))[None]


@pytest.mark.parametrize("between", get_args(Between))
def test_features_of_somebodys_own_are_normalised_then_pooled(between):
    made = {"shape": (3, 8, 8), "between": between, "groups": 2}
    network = Squared(nn.Identity(), [nn.Conv2d(3, 6, 3)], **made)
    (h,) = network(torch.rand(4, 3, 8, 8))
    torch.testing.assert_close(network.features(h), network.normalise(h).square().mean((2, 3)))
    with pytest.raises(SettingError, match=r"pool must make \[2, D\] of it"):
        Mixed(nn.Identity(), [nn.Conv2d(3, 6, 3)], **made)


def test_maps_of_convolutions_have_their_channels_last_and_the_values_of_any_layout():
    blocks = [Volume(), nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU())]
    backbone = Backbone(nn.Identity(), blocks, shape=(3, 8, 8), between="layer").double()
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    below, h = backbone(images)
    assert h.is_contiguous(memory_format=torch.channels_last)
    reads = nn.functional.layer_norm(below, below.shape[1:], eps=0.0)
    weight, bias = (value.contiguous() for value in blocks[1][0].parameters())
    torch.testing.assert_close(h, nn.functional.conv2d(reads, weight, bias).relu())


def test_half_precision_is_normalised_in_float32():
    for name, normalise in NORMALISE.items():
        assert normalise(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.float32, name


def test_what_is_known_of_blocks_is_read_off_their_activations():
    conv = nn.Sequential(nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 6, 3, padding=1))
    backbone = chain(nn.Linear(16, 16), conv, nn.Flatten(), nn.Linear(96, 5))
    assert [info.shape for info in backbone.info] == [(16,), (6, 4, 4), (96,), (5,)]
    assert [info.dim for info in backbone.info] == [16, 6, 96, 5]
    assert [info.last for info in backbone.info] == [False, False, False, True]
    assert [info.stage for info in backbone.info] == [0, 1, 2, 3]
    h = torch.rand(3, 6, 4, 4)
    torch.testing.assert_close(backbone.info[1].features(h), NORMALISE["rms"](h).mean((2, 3)))
    assert backbone.grid(h) is h
    with pytest.raises(SettingError, match=r"shape \[5\] are no map"):
        backbone.grid(torch.rand(3, 5))


class Pair(nn.Module):
    def forward(self, h):
        return h, h


class Summed(nn.Module):
    def forward(self, h):
        return h.sum(0)


@pytest.mark.parametrize(
    ("block", "said"),
    [(Pair(), "block 2 gives tuple"), (Summed(), r"block 2 gives \[16\]"), (nn.Flatten(0), r"block 2 gives \[32\]")],
)
def test_a_block_that_does_not_fit_is_refused_when_it_is_made(block, said):
    with pytest.raises(SettingError, match=said + " for 2 images: it must give one float tensor"):
        chain(nn.Linear(16, 16), block)


def test_a_backbone_without_blocks_or_with_stages_of_others_is_refused():
    with pytest.raises(SettingError, match="0 blocks"):
        chain()
    with pytest.raises(SettingError, match="1 blocks in 2 stages"):
        chain(nn.Linear(16, 16), stages=[0, 0])


def test_to_look_at_a_network_changes_nothing_of_it():
    norm = nn.BatchNorm1d(16)
    backbone = chain(nn.Sequential(norm, nn.Dropout(0.5)))
    assert backbone.training
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, torch.zeros(16))
