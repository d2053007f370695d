"""Features of a frozen backbone, computed once and cached: in memory, or where they do not fit in a mapped file.

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
import psutil
import torch
from torch import Tensor

from ffcore.errors import RunError, WriteError
from ffmodels.backbone import MLP, last_layers, layers_name
from ffmodels.heads import Standardisation
from ffmodels.labels import fill
from fftrain.data import ImageData, Split
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
    """Features float32 [N, F] of the three splits, on the CPU; `reader` where they lie in a mapped file."""

    train: Tensor
    validation: Tensor
    test: Tensor
    reader: RowReader | None = None

    def columns(self, start: int, stop: int) -> Features:
        """Returns a view of some features."""
        train, validation, test = (split[:, start:stop] for split in (self.train, self.validation, self.test))
        return Features(train, validation, test, self.reader)

    def gather(self, index_B: Tensor, out_BF: Tensor) -> Tensor:
        """Fills `out_BF` with these rows of the training split and returns it."""
        if self.reader is None:
            torch.index_select(self.train, 0, index_B, out=out_BF)
        else:
            self.reader.read(self.train, index_B, out_BF)
        return out_BF

    def standardise_(self, *, each: bool = True) -> Standardisation:
        """Standardises all splits in place by the training split; returns its statistics.

        Args:
            each: divide each feature by its own deviation; else all by one, their mean square's root.
        """
        standardisation = Standardisation.of(self.train)
        if not each:
            std_F = standardisation.std_F
            standardisation = replace(standardisation, std_F=std_F.square().mean().sqrt().expand_as(std_F))
        for split in (self.train, self.validation, self.test):
            for chunk in torch.split(split, ROWS):  # a mapped file is passed over once
                standardisation.apply_(chunk)
        return standardisation


def name_of(layers: Sequence[int]) -> str:
    """Names a choice of layers; none of them means pixels."""
    return layers_name(layers) if layers else "pixels"


def choices(depth: int) -> list[tuple[int, ...]]:
    """Returns the choices of layers that are probed: each by itself, and the last three together."""
    single: list[tuple[int, ...]] = [(i,) for i in range(depth)]
    return [*single, last_layers(depth)] if depth > 1 else single


def feature_memory(gib: float | None) -> float:
    """Returns how many bytes cached features may take: what is given in GiB, or half of what is free."""
    half: float = psutil.virtual_memory().available / 2
    return half if gib is None else gib * 2**30


@contextmanager
def extract(
    backbone: MLP | None,
    data: ImageData,
    slot: str,
    slot_classes: int,
    device: torch.device,
    reporter: Reporter,
    *,
    memory: float,
    folder: Path,
) -> Iterator[Features]:
    """Gives the normalised activations of all layers side by side, or the pixels where there is no backbone.

    Features that take more than `memory` bytes lie in a mapped file in `folder` that has no name, so that nothing is
    left of it however the process ends. What is computed from them is the same, bit for bit.

    Raises:
        RunError: where that file does not fit on the disk.
    """
    if backbone is not None:
        backbone.to(device)

    def rows(images_BCHW: Tensor) -> Tensor:
        images_BCHW = images_BCHW.to(device).float() / 255
        if backbone is None:
            return images_BCHW.flatten(1)
        return backbone.features(fill(images_BCHW, slot_classes, slot))

    with ExitStack() as stack:
        splits: list[Split] = [data.train, data.validation, data.test]
        with torch.no_grad():
            width = rows(data.train.images[:1]).shape[1]
            count = width * sum(map(len, splits))
            storage, reader = stack.enter_context(allocate(count, folder if 4 * count > memory else None))
            parts = [part.view(-1, width) for part in torch.split(storage, [width * len(split) for split in splits])]
            what = "reading pixels" if backbone is None else "extracting features"
            starts = [(i, start) for i, split in enumerate(splits) for start in range(0, len(split), ROWS)]
            for i, start in reporter.track(starts, len(starts), what):
                part = parts[i][start : start + ROWS]
                part.copy_(rows(splits[i].images[start : start + ROWS]))
        yield Features(parts[0], parts[1], parts[2], reader)


@contextmanager
def allocate(count: int, folder: Path | None) -> Iterator[tuple[Tensor, RowReader | None]]:
    """Gives float32 [count], in memory or in a mapped file in `folder` with what reads its rows.

    Raises:
        RunError: where the file does not fit on the disk.
    """
    if folder is None:
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
