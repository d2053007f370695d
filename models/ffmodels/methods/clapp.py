"""CLAPP++ (2026, arXiv 2601.21683) at each block: the hinge of CLAPP (2021, arXiv 2010.08262) on two views.

Of a block's map, normalised as the next block reads it, means over G x G parts are one vector: z of one view of an
image, c of the other, z_n of another image of the batch, which is drawn at each step. With a matrix W of each block,

    L = mean relu(1 - z^T W c) + mean relu(1 + z_n^T W c),

the mean of both directions; nothing is trained through c, and one image alone has the first term only. The batch is
that of all processes. Letters: B images of a process, R of all, D numbers of a vector, G pixels a side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ffcore.settings import setting
from ffmodels.backbones.base import BlockInfo, size
from ffmodels.batch import Batch
from ffmodels.draws import Draws
from ffmodels.layers import Means
from ffmodels.methods.base import Method, Needs
from ffmodels.projector import in_full_precision


class CLAPP(Method):
    """CLAPP++: a view scores high with the other view of its image, low with one of another image; no labels."""

    grid: int = setting(
        2, ge=1, le=16, description="Pixels a side of the map that is compared; W has (channels x grid^2)^2 weights."
    )

    def needs(self) -> Needs:
        """Returns that it takes two views, in full batches."""
        return Needs(views=2, drop_last=True)

    def head(self, block: BlockInfo, classes: int) -> nn.Module:
        """Returns W and the loss."""
        return _Head(block, self.grid)


class _Head(nn.Module):
    def __init__(self, block: BlockInfo, grid: int) -> None:
        super().__init__()
        self.normalise = block.normalise
        channels, *space = block.shape
        kept = tuple(min(grid, side) for side in space)  # a smaller map would only be repeated
        self.pool = nn.Sequential(Means(kept), nn.Flatten()) if space else nn.Identity()
        D = size([channels, *kept])
        self.linear = nn.Linear(D, D, bias=False)

    def forward(self, h: Tensor, batch: Batch) -> Tensor:
        one, other = (batch.gather(z) for z in self.pool(self.normalise(h)).chunk(2))
        negatives = another(batch.draws.of(batch.gather(batch.draws.images)))
        losses = [clapp_loss(z, self.linear(c.detach()), negatives) for z, c in ((one, other), (other, one))]
        return torch.stack(losses).mean()


def another(draws: Draws) -> Tensor:
    """Returns another row for each, uniform over the R - 1 others, int64 [R]: the same image in whatever order."""
    R = len(draws.images)
    by_image = draws.images.argsort()
    return by_image[(by_image.argsort() + draws.integers("negative", 1, max(2, R))) % R]


def clapp_loss(z_RD: Tensor, wc_RD: Tensor, negatives_R: Tensor) -> Tensor:
    """Returns the loss of one direction, a scalar, at least float32.

    Args:
        z_RD: of one view.
        wc_RD: W c, of the other.
        negatives_R: the row of another image for each, int64; of one row there is none.
    """
    return in_full_precision(lambda z, wc: _loss(z, wc, negatives_R), z_RD, wc_RD)


def _loss(z_RD: Tensor, wc_RD: Tensor, negatives_R: Tensor) -> Tensor:
    loss = functional.relu(1 - (z_RD * wc_RD).sum(1)).mean()
    if len(z_RD) == 1:
        return loss
    return loss + functional.relu(1 + (z_RD[negatives_R] * wc_RD).sum(1)).mean()
