from __future__ import annotations

import pytest
from torch import nn

from ffcore.errors import SettingError
from ffmodels.backbones.base import Backbone
from ffmodels.parts import METHODS
from ffmodels.units import cuts, heads_of, make_units
from tests.ffmodels.making import SHAPE, K, batch, make


def staged(stages):
    return Backbone(nn.Flatten(), [nn.Linear(32, 32) for _ in stages], shape=SHAPE, between="rms", stages=stages).info


@pytest.mark.parametrize(
    ("cut", "units"),
    [
        ("block", [[0], [1], [2], [3], [4]]),
        ("never", [[0, 1, 2, 3, 4]]),
        ("stage", [[0, 1], [2], [3, 4]]),
        ("1", [[0], [1], [2], [3], [4]]),
        ("2", [[0, 1], [2, 3], [4]]),
        ("9", [[0, 1, 2, 3, 4]]),
    ],
)
def test_where_gradients_are_cut(cut, units):
    assert [[*blocks] for blocks in cuts(staged([0, 0, 1, 2, 2]), cut)] == units


@pytest.mark.parametrize("cut", ["blocks", "0.5", "-1", "", "²"])
def test_another_word_for_a_cut_is_refused(cut):
    with pytest.raises(SettingError, match="choose one of block, stage, never, or a number of blocks"):
        cuts(staged([0]), cut)


def test_a_cut_after_no_block_is_refused():
    with pytest.raises(SettingError, match="--cut is '0'"):
        cuts(staged([0]), "0")


@pytest.mark.parametrize(
    ("cut", "at", "heads"),
    [("block", "all", [0, 1, 2]), ("block", "last", [0, 1, 2]), ("never", "all", [0, 1, 2]), ("2", "last", [1, 2])],
)
def test_which_blocks_carry_a_loss(cut, at, heads):
    _, _, units = make("cross-entropy", cut=cut, at=at)
    assert [*heads_of(units)] == heads


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("cut", ["block", "never"])
def test_units_hold_every_parameter_once(name, cut):
    """What is not in them would not be trained, nor saved in a checkpoint."""
    _, backbone, units = make(name, cut=cut)
    held = [id(p) for unit in units for p in unit.parameters()]
    wanted = [id(p) for module in (backbone, *heads_of(units).values()) for p in module.parameters()]
    assert sorted(held) == sorted(wanted)


def test_a_block_that_ends_a_unit_is_told_so():
    told = {}

    class Told(METHODS.load("cross-entropy")):
        def head(self, block, classes):
            told[block.index] = block.last
            return super().head(block, classes)

    _, backbone, _ = make("cross-entropy", depth=4)
    make_units(Told(), backbone, K, cut="2")
    assert told == {0: False, 1: True, 2: False, 3: True}


def test_what_a_unit_hands_on_carries_no_gradient():
    method, _, units = make("cross-entropy")
    data = batch()
    h, losses = units[0](method.inputs(data, K), data)
    assert not h.requires_grad
    assert losses["block1"].requires_grad
