from __future__ import annotations

import pytest
import torch
from torchvision.models import resnet18, resnet34

from ffmodels.norm import BatchNorm
from ffmodels.units import cuts
from fftrain.parts import BACKBONES

SMALL = {"width": 0.0625, "unit": "stages"}


def make(shape=(3, 64, 64), **settings):
    return BACKBONES.load("resnet")(**settings).build(shape, seed=0)


@pytest.mark.parametrize(("layers", "theirs"), [(18, resnet18), (34, resnet34)])
@pytest.mark.parametrize("unit", ["blocks", "stages"])
def test_without_normalisation_between_it_is_torchvisions(layers, theirs, unit):
    ours = make(layers=layers, unit=unit, between="none").eval().double()
    reference = theirs(num_classes=2).eval().double()
    state = [value for name, value in reference.state_dict().items() if not name.startswith("fc")]
    assert [v.shape for v in ours.state_dict().values()] == [v.shape for v in state]
    ours.load_state_dict(dict(zip(ours.state_dict(), state, strict=True)))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    h, expected = images, []
    for name, module in list(reference.named_children())[:-2]:
        h = module(h)
        expected.append((name, h))
    activations = ours(images)
    ends = [i for i, b in enumerate(ours.info) if i + 1 == len(ours.info) or ours.info[i + 1].stage != b.stage]
    for end, (_, h) in zip(ends, expected[-4:], strict=True):
        torch.testing.assert_close(activations[end], h)


def test_weights_are_drawn_as_torchvision_draws_them():
    for name, value in make().state_dict().items():
        if value.ndim == 4:
            fan_out = value.shape[0] * value.shape[2] * value.shape[3]
            assert value.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), name


@pytest.mark.parametrize(("unit", "count", "units"), [("blocks", 8, [2, 2, 2, 2]), ("stages", 4, [1, 1, 1, 1])])
def test_cut_by_stages_comes_to_four_units_either_way(unit, count, units):
    net = make(width=0.0625, unit=unit)
    assert len(net.info) == count
    assert [len(blocks) for blocks in cuts(net.info, "stage")] == units


def test_small_images_have_the_small_stem_and_a_width_its_share_of_channels():
    assert make((1, 28, 28), width=0.25).info[0].shape == (16, 28, 28)
    assert make((1, 28, 28), width=0.25, stem="large").info[0].shape == (16, 7, 7)
    assert make((3, 64, 64), width=0.25).info[-1].shape == (128, 2, 2)


def test_its_statistics_are_those_of_all_processes():
    assert all(isinstance(m, BatchNorm) for m in make().modules() if isinstance(m, torch.nn.BatchNorm2d))


@pytest.mark.parametrize("width", [0.0625, 0.125, 0.25])  # 4, 8 and 16 channels of the first stage
def test_gradients_of_a_narrow_one_are_right(width):
    """oneDNN's of a strided 1x1 convolution are not where channels are last and fewer than a vector holds."""
    net = make((1, 14, 14), width=width, unit="stages").eval()
    exact = make((1, 14, 14), width=width, unit="stages").eval().double()
    images = torch.rand(48, 1, 14, 14, generator=torch.Generator().manual_seed(0))
    sum(h.square().mean() for h in exact(images.double())).backward()
    for _ in range(20):
        net.zero_grad()
        sum(h.square().mean() for h in net(images)).backward()
        for (name, ours), theirs in zip(net.named_parameters(), exact.parameters(), strict=True):
            assert (ours.grad - theirs.grad).norm() < 1e-3 * theirs.grad.norm(), name


@pytest.mark.parametrize(("width", "last"), [(0.0625, False), (0.1875, False), (0.25, True)])
def test_a_narrow_one_has_the_usual_layout(width, last):
    net = make((1, 14, 14), width=width)
    layouts = [h.is_contiguous(memory_format=torch.channels_last) for h in net(torch.rand(2, 1, 14, 14))[:-2]]
    assert layouts == [last] * len(layouts)
