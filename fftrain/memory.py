"""Memory that is looked at before it is taken: a system that has none left ends a process without a word."""

from __future__ import annotations

from collections.abc import Sequence

import psutil

from ffcore.machine import memory_left
from ffmodels.backbones.base import size

# What a batch of images may take as float32, in bytes, and how many images at most.
BYTES, ROWS = 2**25, 4096


def rows_of(*shapes: Sequence[int]) -> int:
    """Returns how many images are worked on at once, each of which takes numbers of these shapes."""
    return max(1, min(ROWS, BYTES // (4 * sum(map(size, shapes)))))


def free_memory() -> int:
    """Returns how many bytes can be had without swapping, and without the end of a container."""
    free: int = psutil.virtual_memory().available
    left = memory_left()
    return free if left is None else min(free, left)


def check_memory(needed: int, what: str) -> None:
    """Raises MemoryError where so many bytes are not free.

    Args:
        needed: bytes.
        what: they are taken by.
    """
    if needed > (free := free_memory()):
        raise MemoryError(f"{what} take {needed / 2**30:.3g} GiB, and {free / 2**30:.3g} GiB are free")
