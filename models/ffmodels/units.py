"""Units: the blocks between two cuts, with their heads. One backward, one optimizer, one wrapper for each.

Letters: R rows, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ffcore.errors import SettingError
from ffmodels.backbones.base import Backbone, BlockInfo
from ffmodels.batch import Batch
from ffmodels.draws import key
from ffmodels.methods.base import Method
from ffmodels.norm import counting

At = Literal["all", "last"]
CUTS = "block, stage, never, or a number of blocks"


class Unit(nn.Module):
    """Blocks between two cuts, with the losses that train them.

    Args:
        method: what is trained.
        backbone: whose blocks they are.
        blocks: their indices.
        heads: the losses, by the index of the block that each belongs to.
    """

    def __init__(self, method: Method, backbone: Backbone, blocks: range, heads: dict[int, nn.Module]) -> None:
        super().__init__()
        self.method = method
        self.first = blocks.start
        self.stem = backbone.stem if blocks.start == 0 else nn.Identity()
        self.blocks = nn.ModuleList(backbone.blocks[i] for i in blocks)
        self.pools = nn.ModuleList(backbone.pools[i] for i in blocks)  # what `read` runs in training, or not
        self.heads = nn.ModuleDict({str(index): head for index, head in heads.items()})
        self.read = backbone.read
        self.frozen = False

    def freeze(self) -> None:
        """Leaves it as it is: it runs as in evaluation from now on, without losses."""
        self.frozen = True
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Unit:
        """Sets training mode, but where it is frozen."""
        return super().train(mode and not self.frozen)

    def forward(self, h: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Takes the unit below's activation, or images [R, C, H, W], through the unit.

        Returns:
            The last activation, detached, and the loss of each head by its block's name, float32 scalars; none where
            it is frozen.
        """
        losses = {}
        with counting(not batch.empty):
            h = self.stem(h)
            for index, block in enumerate(self.blocks, start=self.first):
                h = block(self.method.enter(self.read(index, h), batch, index))
                if str(index) in self.heads and not self.frozen:
                    losses[f"block{index + 1}"] = self.heads[str(index)](h, batch)
        return h.detach(), losses


def cuts(info: Sequence[BlockInfo], cut: str) -> list[range]:
    """Returns the blocks of each unit.

    Args:
        info: of the backbone's blocks.
        cut: where gradients stop: after each `block`, each `stage`, every K blocks, or `never`.

    Raises:
        SettingError: for another word.
    """
    count = len(info)
    if cut in ("block", "never") or (cut.isascii() and cut.isdigit() and int(cut) > 0):
        length = {"block": 1, "never": count}.get(cut) or int(cut)
        return [range(start, min(start + length, count)) for start in range(0, count, length)]
    if cut != "stage":
        raise SettingError(f"--cut is {cut!r}: choose one of {CUTS}")
    starts = [i for i in range(count) if i == 0 or info[i].stage != info[i - 1].stage]
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], count], strict=True)]


def make_units(
    method: Method, backbone: Backbone, classes: int, *, cut: str = "block", at: At = "all", seed: int = 0
) -> list[Unit]:
    """Returns the units of a network, their heads made under the seed: the same whatever was drawn before.

    Args:
        method: what trains them.
        backbone: the network.
        classes: K of the labels.
        cut: where gradients stop, as in `cuts`.
        at: which blocks of a unit carry a loss: all, or its last.
        seed: the run's.

    Raises:
        SettingError: where the method cannot train this network.
    """
    method.check(backbone, classes)
    units = []
    for blocks in cuts(backbone.info, cut):
        heads = {}
        for index in blocks if at == "all" else blocks[-1:]:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(key(seed, "head", index))
                info = backbone.info[index]
                last = BlockInfo(**{**vars(info), "last": index == blocks[-1]})
                heads[index] = method.head(last, classes)
        units.append(Unit(method, backbone, blocks, heads))
    return units


def shifted(units: Sequence[Unit], backbone: Backbone) -> list[Unit]:
    """Returns units of the same blocks and losses whose cuts lie a block higher: the first is the first block alone.

    Raises:
        SettingError: where there is no cut to shift, or a loss would be missing.
    """
    heads, count = heads_of(units), len(backbone.blocks)
    if len(units) in (1, count):
        said = f"--order overlap shifts cuts between units of several blocks, and here {len(units)} have {count}"
        raise SettingError(f"{said}: choose --cut 2" if count > 2 else f"{said}: give the network three blocks or more")
    if len(heads) < count:
        raise SettingError("--order overlap cuts behind other blocks in every other step: choose --at all")
    starts = [0, *(unit.first + 1 for unit in units if unit.first + 1 < count)]
    ranges = [range(start, stop) for start, stop in zip(starts, [*starts[1:], count], strict=True)]
    return [Unit(units[0].method, backbone, blocks, {i: heads[i] for i in blocks}) for blocks in ranges]


def heads_of(units: Sequence[Unit]) -> dict[int, nn.Module]:
    """Returns the losses of all units by the index of their block."""
    return {int(index): head for unit in units for index, head in unit.heads.items()}
