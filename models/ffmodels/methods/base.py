"""What a method is: what it asks of a batch, what the stem reads, the loss of a block, and what answers in the end.

A new one is a file beside this. Letters: B images of a batch, R rows that a head reads, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ffcore.errors import SettingError
from ffcore.settings import Part
from ffmodels.backbones.base import Backbone, BlockInfo, Shape
from ffmodels.batch import Batch
from ffmodels.conditions import Condition


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a method asks for.

    Args:
        labels: whether it reads labels: the view's, or the data set's own.
        views: of each image.
        partner: whether another image comes with each.
        told: whether what the method's readout tells of each image comes with it.
        drop_last: whether a last batch that is not full is left out.
    """

    labels: bool = False
    views: int = 1
    partner: bool = False
    told: bool = False
    drop_last: bool = False


class Method(Part):
    """A loss, and what goes with it; its settings are what it is.

    All modules are made under the run's seed. Parameters of a head are trained with its block, by the block's unit.
    """

    trains: ClassVar[bool] = True
    """Whether anything is trained: a run of one that does not has no epochs."""

    reads_length: ClassVar[bool] = False
    """Whether its loss reads how large activations are: none may then be handed on as it is."""

    def needs(self) -> Needs:
        """Returns what it asks of data and views."""
        return Needs()

    def check(self, backbone: Backbone, classes: int) -> None:
        """Raises SettingError where it cannot train this network on labels of so many classes."""
        if self.reads_length and backbone.between == "none":
            raise SettingError(
                f"backbone.between is none, and {self.part_name} would read its goodness off the length of the block "
                "below: choose rms or layer"
            )

    def inputs(self, batch: Batch, classes: int) -> Tensor:
        """Returns what the stem reads, float32 [R, C, H, W]: by default the views, one below the other."""
        return torch.cat(batch.views)

    def enter(self, h: Tensor, batch: Batch, index: int) -> Tensor:
        """Returns what a block reads: by default, the activation below as it is normalised.

        Args:
            h: the normalised activation of the block below, of the stem for the first.
            batch: the process's share.
            index: of the block that reads, from 0.
        """
        return h

    @abstractmethod
    def head(self, block: BlockInfo, classes: int) -> nn.Module:
        """Returns the loss of a block: a module whose forward(h, batch) gives a scalar, the mean over its rows."""

    def condition(self, classes: int, shape: Shape) -> Condition:
        """Returns what the pixels carry beside the image: by default nothing. Raises SettingError where it can't."""
        return Condition()

    def readout(
        self, backbone: Backbone, condition: Condition, heads: Mapping[int, nn.Module], classes: int
    ) -> Readout | None:
        """Returns what tells the labels that it was trained on; None where there is nothing to tell.

        Args:
            backbone: the trained network.
            condition: what `condition` gave.
            heads: of each block that carries a loss.
            classes: K.
        """
        return None


class Readout(nn.Module, ABC):
    """Images -> scores of every class. What predicts stands last; others may stand before it, each by its name."""

    @abstractmethod
    def readers(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Returns scores, float32 [B, K], by each reader, of pixels in [0, 1]."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Returns the scores that predict, float32 [B, K]."""
        return [*self.readers(images_BCHW).values()][-1]


def with_mean(scores: dict[str, Tensor], blocks: Sequence[int]) -> dict[str, Tensor]:
    """Returns scores [B, K] by block, and last what predicts: their mean over some blocks, indices from 0."""
    numbers = [index + 1 for index in blocks]
    neighbours = numbers == [*range(numbers[0], numbers[-1] + 1)]
    called = f"{numbers[0]}-{numbers[-1]}" if neighbours else "+".join(map(str, numbers))
    name = f"block{numbers[0]}" if len(numbers) == 1 else f"blocks{called}-mean"
    mean = torch.stack([scores[f"block{number}"] for number in numbers]).mean(0)
    return {**{reader: of for reader, of in scores.items() if reader != name}, name: mean}


class Logits(Readout):
    """What each head tells by its own `logits`, of its block's activation; the last block's predicts."""

    def __init__(self, backbone: Backbone, heads: Mapping[int, nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict({str(index): head for index, head in heads.items()})

    def readers(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        """Returns the logits of each head, by its block's name."""
        activations = self.backbone(images_BCHW)
        return {f"block{int(i) + 1}": head.logits(activations[int(i)]) for i, head in self.heads.items()}  # type: ignore[operator]
