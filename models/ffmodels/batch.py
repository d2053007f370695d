"""What a method is given: the views of some images, their labels, their draws, and what other processes hold.

Letters: B images of a process, C channels, H W pixels, K classes, R rows of all processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ffmodels.draws import Draws

_alone = ContextVar("alone", default=False)


@dataclass(frozen=True)
class Batch:
    """One process's share of a batch.

    Args:
        views: float32 [B, C, H, W] each, in [0, 1].
        labels: int64 [B]; all 0 where a data set has no classes and the view makes none.
        draws: random numbers of these images.
        partner: another image for each, under draws of its own, float32 [B, C, H, W], where the method asks for one.
        told: what the method's readout tells of the first view under the present weights, float32 [B, K] without
            gradients, where the method asks for it.
        shares: rows of each process, where several take this step together; none where each has a batch of its own.
        empty: whether the one row stands for none: it was given so that all processes take the step, and counts 0.
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    draws: Draws
    partner: Tensor | None = None
    told: Tensor | None = None
    shares: tuple[int, ...] = ()
    empty: bool = False

    def gather(self, z: Tensor) -> Tensor:
        """Returns the rows of all processes, those of this one among them, [R, ...]; gradients flow to every process.

        For losses that couple the rows of a batch. On one process, and where each has a batch of its own, z itself.

        Args:
            z: a row for each image of this process: of several views, one at a time.

        Raises:
            ValueError: for other rows than these.
        """
        if len(self.shares) < 2:
            return z
        if len(z) != len(self.labels):
            raise ValueError(f"{len(z)} rows of {len(self.labels)} images cannot be gathered: give one view at a time")
        gathered: Tensor = _Gather.apply(z, self.shares)
        return gathered


@contextmanager
def alone() -> Iterator[None]:
    """Says in the block that this process trains something of its own: no statistic is shared."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def together() -> bool:
    """Whether several processes work together."""
    return not _alone.get() and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _Gather(torch.autograd.Function):
    """Rows of all processes; shares are padded to the largest, since uneven ones abort gloo, and cut again."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, shares: tuple[int, ...]) -> Tensor:
        rank = dist.get_rank()
        padded = z.new_zeros(max(shares), *z.shape[1:])
        padded[: shares[rank]] = z[: shares[rank]]
        parts = [torch.empty_like(padded) for _ in shares]
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
