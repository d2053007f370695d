"""Goodness by channel group (DeeperForward, ICLR 2025, openreview kOYnXVQCtA): each class has its share of channels.

A block's channels are shared out over the K classes in their order. The goodness of class k is the mean of the
activation over the k-th group and all space, and goodness is the logit of the class; the label is in no input.

    L = cross_entropy(g, y) + contrast * SupCon(z, y)

z are projections of what the block passes on, its activation normalised: SupCon (arXiv 2004.11362) trains what the
goodness does not see. That is HCL-FF (Yao, Chen & Kuo, CVPR 2026) without its hierarchy of classes. Letters: B images,
C channels, K classes, P width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional

from ffcore.errors import SettingError
from ffcore.settings import setting
from ffmodels.backbones.base import Backbone, BlockInfo, as_it_is, of_groups
from ffmodels.batch import Batch
from ffmodels.conditions import Condition
from ffmodels.contrast import nce_loss
from ffmodels.layers import Means
from ffmodels.methods.base import Logits, Method, Needs, Readout, with_mean
from ffmodels.norm import BatchNorm


class Channelwise(Method):
    """Mean goodness of a group of channels for each class, and SupCon on what is passed on where it is asked for."""

    reads_length = True

    contrast: float = setting(0.0, ge=0, description="Weight of SupCon on what a block passes on: 1 is HCL-FF's.")
    temperature: float = setting(0.2, gt=0, description="By which SupCon's cosines are divided.")
    projector: int = setting(128, ge=2, description="Width of what SupCon reads.")
    last: int | None = setting(
        None, ge=1, description="At most how many of the last blocks with a loss predict together. [default: all]"
    )

    @model_validator(mode="after")
    def _of_supcon(self) -> Self:
        """Raises SettingError for a setting of SupCon where it has no weight: it would change nothing."""
        for name in ("temperature", "projector"):
            value, usual = getattr(self, name), type(self).model_fields[name].default
            if not self.contrast and value != usual:
                raise SettingError(f"{name} is {value}, and contrast is 0: leave it out, or give contrast a weight")
        return self

    def needs(self) -> Needs:
        """Returns that it reads labels."""
        return Needs(labels=True)

    def check(self, backbone: Backbone, classes: int) -> None:
        """Raises SettingError, beside what every method refuses, where channels cannot be shared out."""
        super().check(backbone, classes)
        if backbone.between == "group" and backbone.groups != classes:
            raise SettingError(
                f"backbone.groups is {backbone.groups}, and goodness is of {classes} groups of channels, one for each "
                f"class: give backbone.groups={classes}"
            )
        for block in backbone.info:
            C = block.shape[0]
            if C % classes:
                raise SettingError(
                    f"block {block.index + 1} has {C} channels, which {classes} classes cannot share evenly: give each "
                    f"block a multiple of {classes}, here {-(-C // classes) * classes}"
                )

    def head(self, block: BlockInfo, classes: int) -> nn.Module:
        """Returns the loss of a block's goodness, and a projector for SupCon where it has a weight."""
        return _Head(block, classes, self.contrast, self.temperature, self.projector)

    def readout(
        self, backbone: Backbone, condition: Condition, heads: Mapping[int, nn.Module], classes: int
    ) -> Readout | None:
        """Returns the goodness of each class: of every block that carries a loss, and its mean over the last."""
        return _Goodness(backbone, heads, self.last)


class _Head(nn.Module):
    def __init__(self, block: BlockInfo, classes: int, contrast: float, temperature: float, width: int) -> None:
        super().__init__()
        self.classes = classes
        self.contrast, self.temperature = contrast, temperature
        if contrast:
            self.normalise, self.projector = block.normalise, _projector(block, width)

    def logits(self, h: Tensor) -> Tensor:
        return group_means(h, self.classes)

    def forward(self, h: Tensor, batch: Batch) -> Tensor:
        loss = functional.cross_entropy(self.logits(h), batch.labels)
        if self.contrast:
            z, labels = batch.gather(self.projector(self.normalise(h))), batch.gather(batch.labels)
            loss = loss + self.contrast * nce_loss(z, labels, self.temperature)
        return loss


class _Goodness(Logits):
    def __init__(self, backbone: Backbone, heads: Mapping[int, nn.Module], last: int | None) -> None:
        super().__init__(backbone, heads)
        self.blocks = [*heads][-(last or len(heads)) :]

    def readers(self, images_BCHW: Tensor) -> dict[str, Tensor]:
        return with_mean(super().readers(images_BCHW), self.blocks)


def group_means(h: Tensor, classes: int) -> Tensor:
    """Returns DeeperForward's goodness: the mean of each class's channels over all space, at least float32 [B, K].

    Args:
        h: an activation, float [B, C, ...]; K divides C, and the first C / K channels are those of class 0.
        classes: K.
    """
    return of_groups(as_it_is(h), classes)


def _projector(block: BlockInfo, width: int) -> nn.Sequential:
    """Returns HCL-FF's: means over 4x4 parts of a map, 2x2 above 100 channels, one above 400; then [R, P]."""
    C, on_map = block.shape[0], len(block.shape) > 1
    grid = (4 if C <= 100 else 2 if C <= 400 else 1) if on_map else 1
    means = [Means(grid), nn.Flatten()] if on_map else []
    return nn.Sequential(*means, nn.Linear(C * grid**2, width, bias=False), BatchNorm(width))
