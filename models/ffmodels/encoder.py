"""The encoder: condition and backbone, frozen. The one thing that is measured and exported.

Letters: B batch, C channels, H W pixels, D features of a block.
"""

from __future__ import annotations

from torch import Tensor, nn

from ffmodels.backbones.base import Backbone
from ffmodels.conditions import Condition


class Encoder(nn.Module):
    """Images -> features of each block.

    Args:
        condition: what the pixels carry.
        backbone: the network.
        reading: how the pixels are filled; None means the condition's default.
    """

    def __init__(self, condition: Condition, backbone: Backbone, reading: str | None = None) -> None:
        super().__init__()
        self.condition = condition
        self.backbone = backbone
        self.reading = reading or condition.readings[0]

    @property
    def dims(self) -> tuple[int, ...]:
        """D of each block."""
        return tuple(block.dim for block in self.backbone.info)

    def activations(self, images_BCHW: Tensor) -> list[Tensor]:
        """Returns every block's activation as it leaves the block, of pixels in [0, 1]."""
        found: list[Tensor] = self.backbone(self.condition(images_BCHW, self.reading))
        return found

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        """Returns every block's features, normalised and pooled, float32 [B, D], of pixels in [0, 1]."""
        return [self.backbone.features(h) for h in self.activations(images_BCHW)]
