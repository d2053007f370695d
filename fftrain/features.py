"""Features of a frozen encoder, computed once and cached: in memory, or where they do not fit in a mapped file.

Letters: N images, B batch, F features.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ffcore.errors import WriteError
from ffmodels.backbones.base import size
from ffmodels.encoder import Encoder
from ffmodels.linear import Standardisation, blocks_name, last_blocks
from fftrain.data import ImageData, Split
from fftrain.loader import scaled
from fftrain.memory import check_memory, free_memory, rows_of
from fftrain.progress import Reporter
from fftrain.rows import RowReader

ROWS = 2048


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
        """Returns the pixels of images in memory, beside which they take none."""
        splits = [split.images for split in (data.train, data.validation, data.test)]
        train, validation, test = (images.flatten(1) for images in splits if isinstance(images, Tensor))
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
            kept, each = self.train, self.train.element_size()
            starts_B = each * (int(kept.storage_offset()) + kept.stride(0) * index_B.numpy())
            part_BF = out_BF if kept.dtype == out_BF.dtype else torch.empty_like(out_BF, dtype=kept.dtype)
            self.reader.read(starts_B, part_BF.numpy())
            if part_BF is not out_BF:
                out_BF.copy_(part_BF)
        elif self.train.dtype == torch.uint8:
            out_BF.copy_(self.train[index_B])
        else:
            torch.index_select(self.train, 0, index_B, out=out_BF)
        return self._as_read_(out_BF)

    def on(self, device: torch.device) -> Tensor | None:
        """Returns the training split as it is read, float32 [N, F], on a CUDA device.

        None where it takes more than half of what is free there, and for other devices.
        """
        if device.type != "cuda" or 4 * self.train.numel() > torch.cuda.mem_get_info(device)[0] // 2:
            return None
        kept_NF, done = torch.empty(self.train.shape, device=device), 0
        for x_BF in self.chunks("train"):
            kept_NF[done : done + len(x_BF)] = x_BF.to(device)
            done += len(x_BF)
        return kept_NF

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
    width, at_once = sum(encoder.to(device).dims), rows_at_once(encoder)

    def read(images: Tensor, out: Tensor) -> None:
        torch.cat([x.cpu() for x in encoder(scaled(images.to(device)))], 1, out=out)

    with _filled(data, width, torch.float32, read, at_once, reporter, memory, folder) as features:
        yield features


@contextmanager
def copied(data: ImageData, reporter: Reporter, *, memory: float, folder: Path) -> Iterator[Features]:
    """Gives the pixels of images outside memory as features: a copy that lies where features do.

    Raises:
        MemoryError, RunError: as `extract` does.
    """

    def read(images: Tensor, out: Tensor) -> None:
        out.copy_(images.flatten(1))

    width, at_once = size(data.shape), rows_of(data.shape)
    with _filled(data, width, data.test.images[:1].dtype, read, at_once, reporter, memory, folder) as features:
        yield features


@contextmanager
def _filled(
    data: ImageData,
    width: int,
    dtype: torch.dtype,
    read: Callable[[Tensor, Tensor], object],
    at_once: int,
    reporter: Reporter,
    memory: float,
    folder: Path,
) -> Iterator[Features]:
    """Gives features [N, width] of all splits; `read` fills some of them from images."""
    splits: list[Split] = [data.train, data.validation, data.test]
    count = width * sum(map(len, splits))
    with allocate(count, folder if dtype.itemsize * count > memory else None, dtype) as (storage, reader):
        parts = [part.view(-1, width) for part in torch.split(storage, [width * len(split) for split in splits])]
        starts = [(i, start) for i, split in enumerate(splits) for start in range(0, len(split), at_once)]
        with torch.no_grad():
            for i, start in reporter.track(starts, len(starts), "extracting features"):
                read(splits[i].images[start : start + at_once], parts[i][start : start + at_once])
        yield Features(parts[0], parts[1], parts[2], reader)


@contextmanager
def allocate(
    count: int, folder: Path | None, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[Tensor, RowReader | None]]:
    """Gives a tensor [count], in memory or in a mapped file in `folder` with what reads its rows.

    Raises:
        MemoryError: where it does not fit into what is free.
        RunError: where the file does not fit on the disk.
    """
    if folder is None:
        check_memory(dtype.itemsize * count, "features")
        yield torch.empty(count, dtype=dtype), None
        return
    with _nameless(folder, dtype.itemsize * count) as file:
        storage = torch.from_numpy(np.memmap(file, np.uint8, "r+")).view(dtype)
        yield storage, RowReader(file, "raise --feature-memory") if hasattr(os, "preadv") else None  # not Windows


def _nameless(folder: Path, length: int) -> BinaryIO:
    """Returns a new file of this many bytes, all of them on the disk, that is gone when it is closed.

    Raises:
        RunError: where it cannot be had. A disk that is full only later would end the process without a word.
    """
    try:
        with ExitStack() as stack:
            file = cast(BinaryIO, stack.enter_context(tempfile.TemporaryFile(dir=folder)))
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, length)
            else:
                for start in range(0, length, 2**24):
                    file.write(bytes(min(2**24, length - start)))
                file.flush()
            stack.pop_all()
            return file
    except OSError as error:
        raise WriteError(
            f"{length / 2**30:.3g} GiB of features cannot be written to {folder} ({error.strerror or error}): "
            "free some space there, or raise --feature-memory"
        ) from error
