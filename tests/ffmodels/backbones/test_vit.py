from __future__ import annotations

import pytest
import torch

from ffcore.errors import SettingError
from fftrain.parts import BACKBONES

SMALL = {"patch": 7, "width": 12, "heads": 2, "depth": 2, "hidden": 16}


def make(shape=(3, 14, 21), **settings):
    return BACKBONES.load("vit")(**{**SMALL, **settings}).build(shape, seed=0)


def test_a_block_is_torchvisions_encoder_block_over_the_tokens():
    net = make(between="none").eval()
    h = net.stem(torch.rand(2, 3, 14, 21))
    assert h.shape == (2, 12, 2, 3)
    tokens = h.flatten(2).transpose(1, 2)
    for block, found in zip(net.blocks, net(torch.rand(2, 3, 14, 21)), strict=True):
        assert found.shape == h.shape
        expected = block.encoder(tokens)
        torch.testing.assert_close(block(tokens.transpose(1, 2).unflatten(2, (2, 3))).flatten(2).mT, expected)
        tokens = expected


def test_features_are_the_mean_of_the_tokens_and_the_map_is_theirs():
    net = make().eval()
    h = net(torch.rand(2, 3, 14, 21))[-1]
    torch.testing.assert_close(net.features(h), net.normalise(h).flatten(2).mean(-1))
    assert net.grid(h).shape == (2, 12, 2, 3)
    assert [block.dim for block in net.info] == [12, 12]


def test_a_token_reads_the_others_and_its_place():
    net = make().eval()
    images = torch.rand(1, 3, 14, 21)
    changed = images.clone()
    changed[..., 14:] = 0
    assert (net(images)[0] - net(changed)[0]).abs().amin((0, 1)).min() > 0
    assert not torch.equal(net(images.flip(3))[0], net(images)[0].flip(3))


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"patch": 4}, "backbone.patch is 4, but images have 14x21 pixels"), ({"heads": 5}, "must divide backbone.width")],
)
def test_sizes_that_do_not_divide_are_refused(settings, words):
    with pytest.raises(SettingError, match=words):
        make(**settings)
