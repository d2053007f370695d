"""Random numbers without a state: each is a function of (seed, epoch, image, name).

They are computed on the device, and are the same for any batch, device and number of processes, so that there is
nothing to resume. The generator is splitmix64 (Steele, Lea & Flood 2014), on int64 tensors that wrap as uint64 do.

Letters: B images of a batch, N images of a data set.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Blocks of a shuffle by blocks whose images are mixed.
MIXED = 64
_GOLDEN, _ONE, _TWO = (
    value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)  # as int64 has them


def key(*what: object) -> int:
    """Returns a whole number of 63 bits that stands for some values, the same everywhere."""
    digest = hashlib.sha256("/".join(map(str, what)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def order(count: int, seed: int, epoch: int, device: torch.device, block: int | None = None) -> Tensor:
    """Returns the order of a data set's images in an epoch, int64 [N].

    Args:
        count: N.
        seed: the run's.
        epoch: from 1.
        device: where it is.
        block: images of a block, which are neighbours in the data set. Blocks come in a random order, the images of
            each MIXED of them in one: no image comes before one of an earlier group. None shuffles all together.
    """
    order_N = _shuffled(count, seed, epoch, "order", device)
    if block is None:
        return order_N
    order_K = _shuffled(-(-count // block), seed, epoch, "blocks", device)
    group_K = torch.empty_like(order_K).scatter_(0, order_K, torch.arange(len(order_K), device=device) // MIXED)
    return order_N[group_K[order_N // block].argsort(stable=True)]


def _shuffled(count: int, seed: int, epoch: int, name: str, device: torch.device) -> Tensor:
    return Draws(seed, epoch, torch.arange(count, device=device)).bits(name).flatten().argsort(stable=True)


@dataclass(frozen=True)
class Draws:
    """The random numbers of a batch.

    Args:
        seed: the run's.
        epoch: from 1; 0 for what is drawn once.
        images: the index of each image in its data set, int64 [B], on the device that the numbers shall be on.
    """

    seed: int
    epoch: int
    images: Tensor

    def bits(self, name: str, *shape: int) -> Tensor:
        """Returns 64 random bits for each image and place, int64 [B, *shape]; [B, 1] without a shape."""
        places = torch.arange(1, math.prod(shape) + 1, device=self.images.device)
        state_B = _mix(self.images * _GOLDEN + key(self.seed, self.epoch, name))
        return _mix(state_B[:, None] + places * _GOLDEN).view(-1, *(shape or (1,)))

    def uniform(self, name: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Returns float32 [B, *shape], [B] without a shape, uniform in [low, high)."""
        drawn = _right(self.bits(name, *shape), 40).float() * ((high - low) * 2.0**-24) + low
        return drawn if shape else drawn[:, 0]

    def normal(self, name: str, *shape: int) -> Tensor:
        """Returns float32 [B, *shape], [B] without a shape, of mean 0 and deviation 1, within 5.3 of 0."""
        return torch.erfinv(self.uniform(name, *shape, low=2.0**-24 - 1)) * math.sqrt(2)

    def integers(self, name: str, low: int, high: int, *shape: int) -> Tensor:
        """Returns int64 [B, *shape], [B] without a shape, uniform over low ... high - 1."""
        drawn = _right(self.bits(name, *shape), 1) % (high - low) + low
        return drawn if shape else drawn[:, 0]

    def others(self, name: str, count: int) -> Tensor:
        """Returns another image of the data set for each, uniform over the N - 1 others: indices, int64 [B]."""
        return (self.images + self.integers(name, 1, max(2, count))) % count

    def of(self, images_B: Tensor) -> Draws:
        """Returns the numbers of other images."""
        return Draws(self.seed, self.epoch, images_B)


def _right(x: Tensor, places: int) -> Tensor:
    """Shifts to the right as unsigned numbers are."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64."""
    x = (x ^ _right(x, 30)) * _ONE
    x = (x ^ _right(x, 27)) * _TWO
    return x ^ _right(x, 31)
