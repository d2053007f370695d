"""Self-contrastive Forward-Forward (Chen et al. 2025, Nature Communications 16:5978, arXiv 2409.11593).

A positive is an image paired with itself, or with another view of it; a negative is the image paired with another
image. The paper sets a pair (a, b) side by side and multiplies both by the same weights, z = W a + W b + 2 bias: twice
the product of their mean, which is what a block reads here, of a and b each normalised. With y the mean over channels
of relu(z)^2 at each place; a block's activation is h = z / 2 where pairs are made, and z behind it,

    mean softplus(positive - y+) + mean softplus(y- - negative) + penalty * ||y+||.

The paper's blocks give linear z, of which triangle and standardisation are passed on: `backbone.activation=linear
backbone.between=triangle`. It trains them one after another, `--order greedy`; a single image stands for a pair with
itself when features are read.
Letters: B images, C channels.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ffcore.errors import SettingError
from ffcore.settings import setting
from ffmodels.backbones.base import Backbone, BlockInfo, as_it_is, mean
from ffmodels.batch import Batch
from ffmodels.methods.base import Method, Needs


class SelfContrastive(Method):
    """Goodness of images paired with themselves above a threshold, of pairs of two below one; no labels."""

    reads_length = True

    views: Literal[1, 2] = setting(1, description="Views of an image: 2 pairs it with another view of it.")
    positive: tuple[float, ...] = setting(
        (4.0, 1.0), min_length=1, description="Threshold of positives; the last stands for the blocks that follow."
    )
    negative: tuple[float, ...] = setting(
        (6.0, 1.0), min_length=1, description="Threshold of negatives; the last stands for the blocks that follow."
    )
    penalty: tuple[Annotated[float, Field(ge=0)], ...] = setting(
        (1e-4, 0.0), min_length=1, description="Weight of the positives' goodness; the last stands for what follows."
    )
    again: tuple[bool, ...] = setting(
        (False,),
        min_length=1,
        description="Whether a block's pairs are made again, of the positives, which stand for their images (for both "
        "views of two), and the other images; the last stands for the blocks that follow. The first's always are.",
    )

    def needs(self) -> Needs:
        """Returns that each image comes with another."""
        return Needs(partner=True, views=self.views)

    def check(self, backbone: Backbone, classes: int) -> None:
        """Raises SettingError, beside what every method refuses, for values of blocks that there are not."""
        super().check(backbone, classes)
        count = len(backbone.info)
        for name in ("positive", "negative", "penalty", "again"):
            value, usual = getattr(self, name), type(self).model_fields[name].default
            if len(value) > count and value != usual:
                raise SettingError(f"{name} has {len(value)} values, and there are {count} blocks: give no more")

    def inputs(self, batch: Batch, classes: int) -> Tensor:
        """Returns the views, then the other images: float32 [2B or 3B, C, H, W]."""
        assert batch.partner is not None
        return torch.cat([*batch.views, batch.partner])

    def enter(self, h: Tensor, batch: Batch, index: int) -> Tensor:
        """Returns positives and negatives, made of the images at the first block, and where they are made again."""
        B = batch.labels.shape[0]
        if not self._paired(index):
            return h
        rows = h.view(-1, B, *h.shape[1:])
        # Behind the first block positives stand for their images, and the other images follow the negatives.
        own, view, other = rows[0], rows[self.views - 1 if index == 0 else 0], rows[-1]
        pairs = [(own + view) / 2, (own + other) / 2]
        later = self.again[1:] or self.again  # the other images go along where a later block is paired with them
        return torch.cat([*pairs, other] if any(later) else pairs)

    def head(self, block: BlockInfo, classes: int) -> nn.Module:
        """Returns the loss of a block's activation."""
        positive, negative, penalty = (
            value[min(block.index, len(value) - 1)] for value in (self.positive, self.negative, self.penalty)
        )
        return _PairLoss(positive, negative, penalty, 2 if self._paired(block.index) else 1)

    def _paired(self, index: int) -> bool:
        """Whether a block reads pairs that are made for it."""
        return index == 0 or self.again[min(index, len(self.again) - 1)]


class _PairLoss(nn.Module):
    def __init__(self, positive: float, negative: float, penalty: float, factor: int) -> None:
        super().__init__()
        self.positive, self.negative, self.penalty, self.factor = positive, negative, penalty, factor

    def forward(self, h: Tensor, batch: Batch) -> Tensor:
        B = batch.labels.shape[0]
        means = mean(functional.relu(self.factor * as_it_is(h)).square(), [1])  # of images that follow too
        high, low = means[:B], means[B : 2 * B]
        loss: Tensor = (
            functional.softplus(self.positive - high).mean() + functional.softplus(low - self.negative).mean()
        )
        length: Tensor = torch.linalg.vector_norm(high.view(B, -1), dim=1)
        return loss + self.penalty * length.mean()
