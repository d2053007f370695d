"""What stands behind the product of a layer: batch statistics, an activation, dropout. Several networks share it.

Letters: B batch, C channels or units.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ffcore.settings import setting
from ffmodels.backbones.base import BackboneSettings, above_mean, parts
from ffmodels.norm import BatchNorm


class Means(nn.AdaptiveAvgPool2d):
    """`parts` as a layer."""

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Returns means over parts of the maps."""
        return parts(maps_BCHW, self.output_size)


class Triangle(nn.Module):
    """`above_mean` as a layer."""

    def forward(self, z: Tensor) -> Tensor:
        """Returns the activation of z [B, C, ...]."""
        return above_mean(z)


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky": nn.LeakyReLU,
    "triangle": Triangle,
    "linear": nn.Identity,
}


class LayerSettings(BackboneSettings):
    """Settings of a network whose blocks are one layer each."""

    norm: Literal["none", "batch"] = setting("none", description="What normalises a product before its activation.")
    activation: Literal["relu", "leaky", "triangle", "linear"] = setting(
        "relu",
        description="Activation; leaky lets 1 % of what is negative pass, triangle is relu(z - mean over units), "
        "linear is none: for between=triangle.",
    )
    dropout: float = setting(
        0.0, ge=0, lt=1, description="Share of what a block passes on that is dropped in training."
    )

    @property
    def biased(self) -> bool:
        """Whether a product has a bias: one before batch statistics is taken away again, and trained by rounding."""
        return self.norm == "none"

    def activated(self, channels: int) -> list[nn.Module]:
        """Returns what stands behind a product of so many channels."""
        norm = [BatchNorm(channels)] if self.norm == "batch" else []
        return [*norm, ACTIVATIONS[self.activation]()]

    def dropped(self) -> list[nn.Module]:
        """Returns what stands before the next block: the loss of this one sees its activation whole."""
        return [nn.Dropout(self.dropout)] if self.dropout else []
