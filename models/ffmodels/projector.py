"""What stands between a block and a loss on two views: a projector, thrown away when the block is trained.

Letters: R rows, C channels, G pixels a side of the map that is kept, P width.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from ffcore.errors import SettingError
from ffmodels.backbones.base import BlockInfo, as_it_is
from ffmodels.layers import Means
from ffmodels.norm import BatchNorm


def projector(block: BlockInfo, width: int, grid: int = 1) -> nn.Sequential:
    """Returns linear, batch statistics, ReLU, linear: an activation, normalised as the next block reads it, -> [R, P].

    On a map it begins with a 1x1 convolution, batch statistics and ReLU, and means over G x G parts of it.

    Args:
        block: whose activations it reads.
        width: P.
        grid: G: 1 keeps no space, 2 or 4 some (CLAPP++, arXiv 2601.21683).

    Raises:
        SettingError: where space is to be kept, and there is none.
    """
    inputs, first = block.dim, nn.Sequential()
    if grid > 1 and len(block.shape) == 1:
        raise SettingError(
            f"method.grid is {grid}, and the activations of block {block.index + 1} are no map: leave it out"
        )
    if len(block.shape) > 1:
        first = nn.Sequential(
            nn.Conv2d(block.shape[0], width, 1, bias=False),
            BatchNorm(width),
            nn.ReLU(),
            Means(grid),
            nn.Flatten(),
        )
        inputs = width * grid**2
    return nn.Sequential(
        *first,
        nn.Linear(inputs, width, bias=False),
        BatchNorm(width),
        nn.ReLU(),
        nn.Linear(width, width, bias=False),
    )


def in_full_precision(loss: Callable[..., Tensor], *projections: Tensor, **settings: float) -> Tensor:
    """Returns a loss of projections, taken in float32 at least whatever autocast says."""
    kind = projections[0].device.type
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        return loss(*map(as_it_is, projections), **settings)
