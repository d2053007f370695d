"""Residual networks (He et al. 2016, arXiv 1512.03385) of torchvision's basic blocks, by stages or by blocks.

With `between=none`, `stem=large` and `width=1` it is torchvision's own. Letters: C channels, H W pixels.
"""

from __future__ import annotations

from typing import Literal

from torch import nn
from torchvision.models.resnet import BasicBlock, conv1x1

from ffcore.settings import setting
from ffmodels.backbones.base import Backbone, BackboneSettings, Shape
from ffmodels.norm import BatchNorm

# Blocks of each stage, and channels at width 1.
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
CHANNELS = (64, 128, 256, 512)
# Images with fewer pixels a side have the small stem.
SMALL = 64


class ResNet(BackboneSettings):
    """ResNet-18 or -34, a block for each residual block or for each stage."""

    layers: Literal[18, 34] = setting(18, description="Layers, as the network is called by.")
    unit: Literal["blocks", "stages"] = setting(
        "blocks", description="What one block is: a residual block, or a whole stage."
    )
    width: float = setting(1.0, gt=0, le=8, description="Share of the usual 64, 128, 256, 512 channels.")
    stem: Literal["small", "large"] | None = setting(
        None,
        description="small: a 3x3 convolution; large: 7x7 by 2, then max-pooling. [default: small below 64 px]",
    )

    def make(self, shape: Shape) -> Backbone:
        """Returns stem and blocks, initialised as torchvision's are."""
        channels = [max(1, round(self.width * count)) for count in CHANNELS]
        small = min(shape[1:]) < SMALL if self.stem is None else self.stem == "small"
        stem = nn.Sequential(
            nn.Conv2d(shape[0], channels[0], 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False),
            BatchNorm(channels[0]),
            nn.ReLU(inplace=True),
            *([] if small else [nn.MaxPool2d(3, 2, 1)]),
        )
        blocks: list[nn.Module] = []
        of: list[int] = []
        for stage, count in enumerate(DEPTHS[self.layers]):
            first, outputs = channels[max(0, stage - 1)], channels[stage]
            own = [_block(outputs if i else first, outputs, 2 if stage and not i else 1) for i in range(count)]
            blocks += own if self.unit == "blocks" else [nn.Sequential(*own)]
            of += [stage] * (len(blocks) - len(of))
        for module in nn.ModuleList([stem, *blocks]).modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return Backbone(stem, blocks, shape=shape, between=self.between, groups=self.groups, stages=of)


def _block(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Returns a residual block, whose short cut is a 1x1 convolution where the shape changes."""
    changes = stride != 1 or inputs != outputs
    down = nn.Sequential(conv1x1(inputs, outputs, stride), BatchNorm(outputs)) if changes else None
    block: nn.Module = BasicBlock(inputs, outputs, stride, down, norm_layer=BatchNorm)
    return block
