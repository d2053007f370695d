from __future__ import annotations

import pytest
import torch

from ffcore.errors import SettingError
from ffmodels.parts import BACKBONES

SMALL = {"width": 16, "depth": 3}
MLP = BACKBONES.load("mlp")


def build(seed=0, **settings):
    return MLP(**{"width": 12, "depth": 3, **settings}).build((1, 4, 4), seed)


def features(backbone, images):
    return [backbone.features(h) for h in backbone(images)]


def test_only_the_direction_of_the_image_reaches_the_features():
    backbone, images = build(), torch.rand(3, 1, 4, 4) + 0.1
    for one, other in zip(features(backbone, images), features(backbone, 7 * images), strict=True):
        torch.testing.assert_close(one, other)


def test_permuting_the_units_of_a_block_permutes_its_features_alone():
    backbone, images = build(), torch.rand(5, 1, 4, 4)
    before = features(backbone, images)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in backbone.blocks[1].parameters():
            p.copy_(p[order])
        weight = backbone.blocks[2][0].weight
        weight.copy_(weight[:, order])
    after = features(backbone, images)
    torch.testing.assert_close(after[1], before[1][:, order])
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after[2], before[2])


def test_weights_are_a_function_of_the_seed_and_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = build(1), build(1), build(2)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.blocks[0][0].weight, other.blocks[0][0].weight)


def test_blocks_have_the_width_that_was_asked_for():
    backbone = build(width=7, depth=2)
    assert [info.shape for info in backbone.info] == [(7,), (7,)]
    assert [h.shape for h in backbone(torch.rand(3, 1, 4, 4))] == [(3, 7), (3, 7)]


@pytest.mark.parametrize("settings", [{"width": 0}, {"depth": 0}, {"between": "batch"}, {"width": 2.5}])
def test_settings_that_are_not_legal_name_their_value(settings):
    with pytest.raises(SettingError, match=str(*settings.values())):
        build(**settings)
