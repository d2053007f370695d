"""The encoder: condition and backbone, frozen. The one thing that is measured and exported.

Letters: B batch, C channels, H W pixels, D features of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ffmodels.backbones.base import Backbone, as_it_is
from ffmodels.conditions import Condition

# The reading of activations before they are normalised, of pixels as the method reads them by default.
ACTIVATIONS = "activations"


def readings(condition: Condition) -> tuple[str, ...]:
    """Returns the ways in which features are read; the first is the default."""
    return (*condition.readings, ACTIVATIONS)


class Encoder(nn.Module):
    """Images -> features of each block.

    Args:
        condition: what the pixels carry.
        backbone: the network.
        reading: how features are read, one of `readings`; None means the first.
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
        pixels = self.condition.readings[0] if self.reading == ACTIVATIONS else self.reading
        found: list[Tensor] = self.backbone(self.condition(images_BCHW, pixels))
        return found

    def read(self, h: Tensor) -> Tensor:
        """Returns an activation as it is read: but for one reading normalised, at least float32."""
        return as_it_is(h) if self.reading == ACTIVATIONS else self.backbone.normalise(h)

    def features(self, h: Tensor) -> Tensor:
        """Returns an activation as it is read, pooled: at least float32 [B, D]."""
        return self.backbone.pool(as_it_is(h)) if self.reading == ACTIVATIONS else self.backbone.features(h)

    def maps(self, images_BCHW: Tensor) -> list[Tensor]:
        """Returns every block's features by place, at least float32 [B, D, h, w], of pixels in [0, 1] of any size.

        Raises:
            SettingError: where an activation is no map.
        """
        return [self.backbone.grid(self.read(h)) for h in self.activations(images_BCHW)]

    def forward(self, images_BCHW: Tensor, blocks: Sequence[int] | None = None) -> list[Tensor]:
        """Returns the features of blocks, at least float32 [B, D] each, of pixels in [0, 1].

        Args:
            images_BCHW: the pixels.
            blocks: indices; None means every block.
        """
        activations = self.activations(images_BCHW)
        return [self.features(h) for h in (activations if blocks is None else [activations[i] for i in blocks])]
