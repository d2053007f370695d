"""The study's backbone (arXiv 2309.11955): ReLU layers over flattened pixels, each normalising its input."""

from __future__ import annotations

from torch import nn

from ffcore.settings import setting
from ffmodels.backbones.base import Backbone, Shape, size
from ffmodels.layers import LayerSettings


class MLP(LayerSettings):
    """Normalise, multiply, rectify in each block, over flattened pixels."""

    width: int = setting(2000, ge=1, le=1_000_000, description="Units of a block.")
    depth: int = setting(4, ge=1, le=10_000, description="Number of blocks.")

    def make(self, shape: Shape) -> Backbone:
        """Returns `depth` blocks of `width` units."""
        inputs = [size(shape)] + [self.width] * (self.depth - 1)
        blocks = [
            nn.Sequential(nn.Linear(n, self.width, bias=self.biased), *self.activated(self.width)) for n in inputs
        ]
        pools = [nn.Sequential(*(self.dropped() if index else [])) for index in range(self.depth)]
        return Backbone(nn.Flatten(), blocks, shape=shape, between=self.between, groups=self.groups, pools=pools)
