"""A plain convolutional network: convolution, normalisation, activation and pooling in each block.

With channels 96, 384, 1536, kernels 5, 3, 3 and a window of 4 it is the network of SoftHebb (Journe et al. 2023, arXiv
2209.11883; activation=triangle) and of self-contrastive Forward-Forward (Chen et al. 2025, arXiv 2409.11593;
activation=linear, between=triangle, pool_first).
Letters: C channels, H W pixels.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from ffcore.errors import SettingError
from ffcore.settings import setting
from ffmodels.backbones.base import Backbone, Shape
from ffmodels.layers import LayerSettings

Size = Annotated[int, Field(ge=1, le=100_000)]


class ConvNet(LayerSettings):
    """Convolve, normalise, rectify and pool in each block."""

    channels: tuple[Size, ...] = setting((64, 128, 256), min_length=1, description="Channels of each block.")
    kernel: tuple[Literal[1, 3, 5, 7, 9, 11], ...] = setting(
        (3,), min_length=1, description="Pixels of each block's kernel; the last stands for those that follow."
    )
    pooling: tuple[Literal["max", "average", "none"], ...] = setting(
        ("max",), min_length=1, description="How each block halves its map; the last stands for those that follow."
    )
    window: Literal[2, 3, 4] = setting(2, description="Pixels of a pooling window, whose stride is 2.")
    pool_first: bool = setting(
        False,
        description="Pool where the next block begins: losses see a block's map whole, and the last keeps its own.",
    )
    keeps: int = setting(
        1, ge=1, le=16, description="Pixels a side of a map that features keep: 1 is the mean over space."
    )

    def make(self, shape: Shape) -> Backbone:
        """Returns a block for each number of channels. Maps are padded: images may have any size."""
        for name in ("kernel", "pooling"):
            if len(values := getattr(self, name)) > len(self.channels):
                raise SettingError(
                    f"backbone.{name} has {len(values)} values, and there are {len(self.channels)} blocks: give no more"
                )
        if {*self.pooling} == {"none"} and (self.pool_first or self.window != 2):
            raise SettingError("backbone.pooling is none: leave out backbone.window and backbone.pool_first")
        blocks: list[nn.Module] = []
        pools: list[nn.Module] = [nn.Identity()]
        for index, (inputs, outputs) in enumerate(pairwise([shape[0], *self.channels])):
            kernel = self.kernel[min(index, len(self.kernel) - 1)]
            pool = self._pool(self.pooling[min(index, len(self.pooling) - 1)])
            convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=self.biased)
            blocks.append(nn.Sequential(convolution, *self.activated(outputs), *([] if self.pool_first else [pool])))
            pools.append(nn.Sequential(*([pool] if self.pool_first else []), *self.dropped()))
        return Backbone(
            nn.Identity(),
            blocks,
            shape=shape,
            between=self.between,
            groups=self.groups,
            keeps=self.keeps,
            pools=pools[:-1],
        )

    def _pool(self, pooling: str) -> nn.Module:
        """Returns what halves a map, rounded up."""
        padding = (self.window - 1) // 2
        if pooling == "max":
            return nn.MaxPool2d(self.window, 2, padding, ceil_mode=True)
        if pooling == "average":
            return nn.AvgPool2d(self.window, 2, padding, ceil_mode=True, count_include_pad=False)
        return nn.Identity()
