"""Features of a frozen encoder, computed once and cached: in memory, or where they do not fit in a mapped file.

Letters: N images, B batch, F features.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ffcore.errors import RunError, WriteError
from ffmodels.encoder import Encoder
from ffmodels.linear import Standardisation, blocks_name, last_blocks
from fftrain.data import ImageData, Split
from fftrain.loader import scaled
from fftrain.memory import check_memory, free_memory, rows_of
from fftrain.progress import Reporter

ROWS = 2048
READERS = 8


class RowReader:
    """Reads rows of a matrix that lies in a file, one request for each, several at once.

    Page faults at random places wait for one another and read more than was asked for: with 2.9 GB in 1 GiB of memory
    an epoch took 5 s so, and did not end in 70 s through the mapping.
    """

    def __init__(self, file: BinaryIO, pool: ThreadPoolExecutor) -> None:
        self.file = file
        self.pool = pool

    def read(self, features_NF: Tensor, index_B: Tensor, out_BF: Tensor) -> None:
        """Fills `out_BF` with rows of a view of the tensor that is mapped to the whole file."""
        start, step = 4 * int(features_NF.storage_offset()), 4 * features_NF.stride(0)
        index, out = index_B.numpy(), out_BF.numpy()

        def read(first: int) -> None:
            for i in range(first, len(index), READERS):
                if os.preadv(self.file.fileno(), [out[i]], start + step * int(index[i])) != out[i].nbytes:
                    raise RunError(f"row {index[i]} of the mapped features cannot be read: raise --feature-memory")

        list(self.pool.map(read, range(READERS)))


@dataclass(frozen=True)
class Features:
    """Features float32 [N, F] of the three splits, on the CPU; or pixels uint8, which are scaled as they are read.

    Args:
        train: of the training split.
        validation: of that.
        test: of that.
        reader: of features that lie in a mapped file.
        standard: by which they are standardised as they are read.
    """

    train: Tensor
    validation: Tensor
    test: Tensor
    reader: RowReader | None = None
    standard: Standardisation | None = None

    @classmethod
    def of_pixels(cls, data: ImageData) -> Features:
        """Returns the pixels, which take no memory beside the images."""
        train, validation, test = (split.images.flatten(1) for split in (data.train, data.validation, data.test))
        return cls(train, validation, test)

    def columns(self, columns: slice) -> Features:
        """Returns a view of some features."""
        train, validation, test = (split[:, columns] for split in (self.train, self.validation, self.test))
        found = self.standard and Standardisation(self.standard.mean_F[columns], self.standard.std_F[columns])
        return replace(self, train=train, validation=validation, test=test, standard=found)

    def rows(self, index: npt.NDArray[np.int64] | slice) -> Features:
        """Returns the features of some training images, and all others."""
        kept = self.train[index]
        return replace(self, train=kept, reader=self.reader if isinstance(index, slice) else None)

    def gather(self, index_B: Tensor, out_BF: Tensor) -> Tensor:
        """Fills `out_BF` with these rows of the training split and returns it."""
        if self.reader is not None:
            self.reader.read(self.train, index_B, out_BF)
        elif self.train.dtype == torch.uint8:
            out_BF.copy_(self.train[index_B])
        else:
            torch.index_select(self.train, 0, index_B, out=out_BF)
        return self._as_read_(out_BF)

    def gather_rows(self, index_B: npt.NDArray[np.int64]) -> Tensor:
        """Returns these rows of the training split, float32 [B, F]."""
        index = torch.from_numpy(index_B)
        return self.gather(index, torch.empty(len(index), self.train.shape[1]))

    def chunks(self, split: str) -> Iterator[Tensor]:
        """Yields the rows of `train`, `validation` or `test` in order, some at once."""
        kept: Tensor = getattr(self, split)
        for x_BF in torch.split(kept, min(ROWS, rows_of(kept.shape[1:]))):
            yield x_BF if self._as_it_is else self._as_read_(x_BF.to(torch.float32, copy=True))

    def standardised(self, *, together: bool = False) -> Features:
        """Returns the features as they are read when each is standardised by the training split.

        Args:
            together: divide all by one number, the root of their mean variance: what hardly varies then stays small.
        """
        found = Standardisation.of(self.train)
        if together:
            found = replace(found, std_F=found.std_F.square().mean().sqrt().expand_as(found.std_F).clone())
        if self.train.dtype == torch.uint8:
            found = Standardisation(found.mean_F / 255, found.std_F / 255)
        return replace(self, standard=found)

    @property
    def _as_it_is(self) -> bool:
        return self.standard is None and self.train.dtype != torch.uint8

    def _as_read_(self, x_BF: Tensor) -> Tensor:
        if self.train.dtype == torch.uint8:
            x_BF.div_(255)
        return x_BF if self.standard is None else self.standard.apply_(x_BF)


def name_of(blocks: Sequence[int]) -> str:
    """Names a choice of blocks; none of them means pixels."""
    return blocks_name(blocks) if blocks else "pixels"


def choices(encoder: Encoder | None) -> list[tuple[int, ...]]:
    """Returns the choices of blocks that are read: each by itself, and the last three together; of pixels, one."""
    return [()] if encoder is None else block_choices(len(encoder.dims))


def block_choices(count: int) -> list[tuple[int, ...]]:
    """Returns the choices among so many blocks."""
    single: list[tuple[int, ...]] = [(i,) for i in range(count)]
    return [*single, last_blocks(count)] if count > 1 else single


def columns_of(encoder: Encoder | None, blocks: Sequence[int]) -> slice:
    """Returns where the features of a choice of blocks stand among those of all; of pixels, everywhere."""
    if encoder is None:
        return slice(None)
    return slice(sum(encoder.dims[: blocks[0]]), sum(encoder.dims[: blocks[-1] + 1]))


def feature_memory(gib: float | None) -> float:
    """Returns how many bytes cached features may take: what is given in GiB, or half of what is free."""
    return free_memory() / 2 if gib is None else gib * 2**30


def rows_at_once(encoder: Encoder) -> int:
    """Returns how many images are read at once: as many as their activations leave memory for."""
    return rows_of(encoder.backbone.shape, *(block.shape for block in encoder.backbone.info))


@contextmanager
def extract(
    encoder: Encoder,
    data: ImageData,
    device: torch.device,
    reporter: Reporter,
    *,
    memory: float,
    folder: Path,
) -> Iterator[Features]:
    """Gives the features of all blocks side by side.

    Features that take more than `memory` bytes lie in a mapped file in `folder` that has no name, so that nothing is
    left of it however the process ends. What is computed from them is the same, bit for bit.

    Raises:
        MemoryError: where they do not fit into what is free.
        RunError: where that file does not fit on the disk.
    """
    at_once = rows_at_once(encoder)
    with ExitStack() as stack:
        splits: list[Split] = [data.train, data.validation, data.test]
        with torch.no_grad():
            width = sum(encoder.to(device).dims)
            count = width * sum(map(len, splits))
            storage, reader = stack.enter_context(allocate(count, folder if 4 * count > memory else None))
            parts = [part.view(-1, width) for part in torch.split(storage, [width * len(split) for split in splits])]
            starts = [(i, start) for i, split in enumerate(splits) for start in range(0, len(split), at_once)]
            for i, start in reporter.track(starts, len(starts), "extracting features"):
                part, images = (values[start : start + at_once] for values in (parts[i], splits[i].images))
                torch.cat([x.cpu() for x in encoder(scaled(images.to(device)))], 1, out=part)
        yield Features(parts[0], parts[1], parts[2], reader)


@contextmanager
def allocate(count: int, folder: Path | None) -> Iterator[tuple[Tensor, RowReader | None]]:
    """Gives float32 [count], in memory or in a mapped file in `folder` with what reads its rows.

    Raises:
        MemoryError: where it does not fit into what is free.
        RunError: where the file does not fit on the disk.
    """
    if folder is None:
        check_memory(4 * count, "features")
        yield torch.empty(count), None
        return
    with _nameless(folder, 4 * count) as file, ThreadPoolExecutor(READERS) as pool:
        storage = torch.from_numpy(np.memmap(file, np.float32, "r+", shape=(count,)))
        yield storage, RowReader(file, pool) if hasattr(os, "preadv") else None  # Windows has none


def _nameless(folder: Path, size: int) -> BinaryIO:
    """Returns a new file of this many bytes, all of them on the disk, that is gone when it is closed.

    Raises:
        RunError: where it cannot be had. A disk that is full only later would end the process without a word.
    """
    try:
        with ExitStack() as stack:
            file = cast(BinaryIO, stack.enter_context(tempfile.TemporaryFile(dir=folder)))
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                for start in range(0, size, 2**24):
                    file.write(bytes(min(2**24, size - start)))
                file.flush()
            stack.pop_all()
            return file
    except OSError as error:
        raise WriteError(
            f"{size / 2**30:.3g} GiB of features cannot be written to {folder} ({error.strerror or error}): "
            "free some space there, or raise --feature-memory"
        ) from error
