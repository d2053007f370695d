"""What a method is given: the views of some images, their labels, their draws, and what other processes hold.

Letters: B images of a process, C channels, H W pixels, R rows of all processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ffmodels.draws import Draws


@dataclass(frozen=True)
class Batch:
    """One process's share of a batch.

    Args:
        views: float32 [B, C, H, W] each, in [0, 1].
        labels: int64 [B]; all 0 where a data set has no classes and the view makes none.
        draws: random numbers of these images.
        partner: another image for each, under draws of its own, float32 [B, C, H, W], where the method asks for one.
        empty: whether the one row stands for none: it was given so that all processes take the step, and counts 0.
        alone: whether other processes have other batches now, or none: rows are not gathered then.
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    draws: Draws
    partner: Tensor | None = None
    empty: bool = False
    alone: bool = False

    def gather(self, z: Tensor) -> Tensor:
        """Returns the rows of all processes, those of this one among them, [R, ...]; gradients flow to every process.

        For losses that couple the rows of a batch: give one view at a time. On one process, z itself.
        """
        if self.alone or not together():
            return z
        rows = 0 if self.empty else len(z)
        gathered: Tensor = _Gather.apply(z, rows)
        return gathered


def together() -> bool:
    """Whether several processes work together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    """Rows of all processes; shares are padded to the largest, since uneven ones abort gloo, and cut again."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, rows: int) -> Tensor:
        world, rank = dist.get_world_size(), dist.get_rank()
        counts = torch.zeros(world, dtype=torch.int64, device=z.device)
        counts[rank] = rows
        dist.all_reduce(counts)
        shares: list[int] = counts.tolist()
        most = max(shares)
        padded = z.new_zeros(most, *z.shape[1:])
        padded[:rows] = z[:rows]
        parts = [torch.empty_like(padded) for _ in range(world)]
        dist.all_gather(parts, padded)
        ctx.own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
        ctx.given = len(z)
        return torch.cat([part[:count] for part, count in zip(parts, shares, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone()
        dist.all_reduce(total)
        own = total[ctx.own]
        return torch.cat([own, own.new_zeros(ctx.given - len(own), *own.shape[1:])]), None
