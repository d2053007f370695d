"""Images that lie outside memory, used as those that are in it: what is asked for is read, and nothing else.

Letters: N images, B of them, C channels, H W pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

T = TypeVar("T")
Index = npt.NDArray[np.int64]
Shape = tuple[int, int, int]


class Store(Protocol):
    """Where images lie, each under a number."""

    @property
    def shape(self) -> Shape:
        """C, H, W of each."""

    def read(self, rows_B: Index) -> Tensor:
        """Returns images uint8 [B, C, H, W], a copy of their own, on the CPU; several threads may ask."""

    def expect(self, rows_B: Index) -> None:
        """Is told which images are read soon."""


@dataclass(frozen=True)
class Stored:
    """Images uint8 [N, C, H, W] of a store: an index reads them, as one of a tensor does."""

    store: Store
    rows: Index
    """The number of each, int64 [N]."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, C, H, W."""
        return len(self.rows), *self.store.shape

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor | Index | slice) -> Tensor:
        return self.store.read(self.at(index).rows)

    def at(self, index: Tensor | Index | slice) -> Stored:
        """Returns some of them, unread; a tensor lies on the CPU."""
        return Stored(self.store, self.rows[index.numpy() if isinstance(index, Tensor) else index])

    def expect(self, index: Tensor) -> None:
        """Says which are read soon."""
        self.store.expect(self.at(index).rows)


Pictures = Tensor | Stored
"""Images uint8 [N, C, H, W]: in memory, or read as they are asked for."""


def ahead(items: Iterable[T], read: Callable[[T], Tensor]) -> Iterator[tuple[T, Tensor]]:
    """Yields items with what is read for them: for the next one in a thread, while one is used."""
    with ThreadPoolExecutor(1) as pool:
        reading = ((item, pool.submit(read, item)) for item in items)
        for now, _ in itertools.pairwise(itertools.chain(reading, (None,))):
            assert now is not None
            yield now[0], now[1].result()


def in_parts(images: Pictures, rows: int) -> Iterator[Tensor]:
    """Yields images in order, at most so many at once; of none, none once."""
    return (images[start : start + rows] for start in range(0, max(1, len(images)), rows))


def joined(parts: Sequence[Pictures]) -> Pictures:
    """Returns images one after another: those of one store stay there."""
    stored = [part for part in parts if isinstance(part, Stored)]
    if not stored:
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    assert len(stored) == len(parts), "images in memory and images of a store"
    assert all(part.store is stored[0].store for part in stored), "images of several stores"
    return Stored(stored[0].store, np.concatenate([part.rows for part in stored]))
