"""A cache of decoded images: uint8 [N, C, H, W] in one file, beside a journal of which of them are in it.

DIR/NAME-DIGEST/images.u8, a plain array that anything may map, and journal.jsonl: a first line of what the array is,
then one for each piece that lies on the disk. An image is in the cache where the journal has it, which is written once
its pixels are synced: what was stopped at any moment goes on there, and nothing half-written is ever read. The journal
has a checksum of each image, which is held against what is read. The digest is of the files (`Encoded.contents`) and of
how they are read. Letters: N images of all splits, B of them.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator
from rich.filesize import decimal
from torch import Tensor

from ffcore.errors import InUse, RunError, SettingError, WriteError
from ffcore.files import claimed, unwritten
from ffcore.layout import folder_name
from ffmodels.backbones.base import size
from fftrain.progress import Reporter, duration
from fftrain.rows import RowReader
from fftrain.sources import Numbered, Told
from fftrain.stored import Index, Shape

IMAGES, JOURNAL = "images.u8", "journal.jsonl"
# Bytes of images that are decoded, synced and journalled at once.
PIECE = 2**24
# Seconds between two looks at whether another process still decodes.
WAIT = 0.5


class CachedImages:
    """The images of a cache's file, read through the page cache and held against their checksums."""

    def __init__(self, path: Path, shape: Shape, checksums: npt.NDArray[np.uint32]) -> None:
        self._path, self._shape, self._bytes, self._checksums = path, shape, size(shape), checksums
        self._mapped = np.memmap(path, np.uint8, "r", shape=(len(checksums), *shape))
        self._mend = f"delete {path.parent}, and it is made again"
        file = path.open("rb")
        weakref.finalize(self, file.close)
        self._reader = RowReader(file, self._mend)

    @property
    def shape(self) -> Shape:
        """C, H, W."""
        return self._shape

    def read(self, rows_B: Index) -> Tensor:
        """Returns images uint8 [B, C, H, W]. Raises RunError where they are not what was written."""
        if hasattr(os, "preadv"):
            images_BCHW = np.empty((len(rows_B), *self._shape), np.uint8)
            self._reader.read(rows_B * self._bytes, images_BCHW)
        else:  # Windows has none
            images_BCHW = self._mapped[rows_B]
        if _checksums(images_BCHW) != self._checksums[rows_B].tolist():
            raise RunError(f"{self._path} holds other bytes than were written: {self._mend}")
        return torch.from_numpy(images_BCHW)

    def expect(self, rows_B: Index) -> None:
        """Has the system read these along the file."""
        self._reader.expect(rows_B * self._bytes, self._bytes)


class _First(BaseModel):
    """The journal's first line: what the array is, with the shape's own checksum."""

    layout: Literal[2] = 2
    dtype: Literal["uint8"] = "uint8"
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    crc32: int

    @classmethod
    def of(cls, shape: Shape) -> _First:
        """Returns the line of a shape."""
        return cls(shape=shape, crc32=zlib.crc32(str(shape).encode()))

    @model_validator(mode="after")
    def _whole(self) -> _First:
        if self.crc32 != zlib.crc32(str(self.shape).encode()):
            raise ValueError("another shape than was written")
        return self


class _Piece(BaseModel):
    """Each other line, by the numbers of images: the checksums of those that are there, and what is told of some."""

    crc32: dict[NonNegativeInt, Annotated[int, Field(ge=0, lt=2**32)]]
    told: dict[int, Told]


@dataclass
class _Journal:
    """What the journal says: the shape of an image, None where there is none; which are there, and what is told."""

    there: npt.NDArray[np.bool_]
    checksums: npt.NDArray[np.uint32]
    shape: Shape | None = None
    told: dict[int, Told] = field(default_factory=dict)
    end: int = 0
    """Bytes of its whole lines: one that was broken off, or is damaged, comes after them."""

    @classmethod
    def new(cls, count: int) -> _Journal:
        """Returns one that has none of so many images."""
        return cls(np.zeros(count, bool), np.zeros(count, np.uint32))

    def take(self, piece: _Piece) -> None:
        """Takes what a line says. Raises IndexError where it is of images that there are not."""
        rows = np.asarray([*piece.crc32], np.int64)
        self.checksums[rows] = [*piece.crc32.values()]
        self.there[rows] = True
        self.told |= piece.told

    @classmethod
    def read(cls, place: Path, count: int) -> _Journal:
        """Returns what is in a cache's folder; nothing where its array is not whole, or of another layout."""
        found = cls.new(count)
        try:
            written, length = (place / JOURNAL).read_bytes(), (place / IMAGES).stat().st_size
        except OSError:
            return found
        for line in written.splitlines(keepends=True):
            try:
                if not line.endswith(b"\n"):
                    break
                if found.shape is None:
                    found.shape = _First.model_validate_json(line).shape
                else:
                    found.take(_Piece.model_validate_json(line))
            except (ValidationError, IndexError):
                break
            found.end += len(line)
        return found if found.shape is not None and length == count * size(found.shape) else cls.new(count)


def cached(
    images: Numbered, rows: Index, find_shape: Callable[[], Shape], stamp: str, folder: Path, reporter: Reporter
) -> tuple[CachedImages, dict[int, Told]]:
    """Returns images from their cache in a folder, what it lacks decoded into it.

    Another process that decodes the same is waited for. A cache that is whole needs no room and no permission to write.

    Args:
        images: those of a source.
        rows: the numbers of those that are wanted.
        find_shape: looks for the shape of an image, where the cache does not know it.
        stamp: a digest of the images.
        folder: where caches are.
        reporter: what a person sees.

    Returns:
        The images, and what is told of some by their number.

    Raises:
        SettingError: where the folder is a file.
        WriteError: where it cannot be written; from an OSError that says why.
        DataError: where images are of mixed sizes.
    """
    if not os.path.isdir(next(path for path in (folder, *folder.parents) if os.path.lexists(path))):
        raise SettingError(f"--data-cache is {folder}, which is no folder, or in what is none: name a folder")
    place = folder / f"{folder_name(images.source.called)}-{stamp[:12]}"
    journal = _Journal.read(place, images.count)
    if not journal.there[rows].all():
        with _held(place, reporter):
            journal = _Journal.read(place, images.count)  # another may have written it by now
            if len(missing := np.sort(rows[~journal.there[rows]])):
                _fill(place, images, missing, journal, find_shape(), reporter)
    assert journal.shape is not None
    kept = decimal(len(rows) * size(journal.shape))
    reporter.note(f"images of {images.source.place}: {len(rows):,} in {place / IMAGES} ({kept})")
    return CachedImages(place / IMAGES, journal.shape, journal.checksums), journal.told


@contextmanager
def _held(place: Path, reporter: Reporter) -> Iterator[None]:
    """Holds a cache's folder in the block; waits where another process does."""
    with ExitStack() as held:
        for tried in itertools.count():
            try:
                held.enter_context(claimed(place))
                break
            except InUse:
                if not tried:
                    reporter.note(f"another process decodes into {place}: waiting for it")
                time.sleep(WAIT)
        yield


def _fill(place: Path, images: Numbered, rows: Index, journal: _Journal, shape: Shape, reporter: Reporter) -> None:
    """Decodes images into a cache, and into the journal that is given."""
    if journal.shape not in (None, shape):
        raise RunError(f"{place} holds images of shape {journal.shape}, not {shape}: delete it, and it is made again")
    needed, free, each = len(rows) * size(shape), shutil.disk_usage(place).free, size(shape)
    if needed > free:
        raise WriteError(
            f"{len(rows):,} decoded images take {decimal(needed)}, and {decimal(free)} are free in "
            f"{place.parent}: free some space, name another --data-cache, or decode at each use (--data-cache stream)"
        )
    there = f", {journal.there.sum():,} are there" if journal.there.any() else ""
    reporter.note(f"decoding {len(rows):,} images into {place} ({decimal(needed)}{there})")
    began, step = time.monotonic(), max(1, PIECE // each)
    try:
        for name in (IMAGES, JOURNAL):
            (place / name).touch()
        with (place / IMAGES).open("rb+") as array, (place / JOURNAL).open("rb+") as lines:
            array.truncate(images.count * each)
            lines.truncate(journal.end)
            lines.seek(journal.end)
            if journal.shape is None:
                _append(lines, _First.of(shape))
                journal.shape = shape
            starts = range(0, len(rows), step)
            for start in reporter.track(starts, len(starts), "decoding images"):
                piece = rows[start : start + step]
                pixels = np.empty((len(piece), *shape), np.uint8)
                told = images.decode(piece, pixels)
                ends = np.flatnonzero(np.diff(piece) != 1) + 1
                for first, end in zip([0, *ends], [*ends, len(piece)], strict=True):
                    array.seek(int(piece[first]) * each)
                    array.write(pixels[first:end].data)
                _sync(array)
                passing = {row: one for row, one in told.items() if one.passing}  # tried again at the next start
                sums = dict(zip(piece.tolist(), _checksums(pixels), strict=True))
                line = _Piece(
                    crc32={row: crc for row, crc in sums.items() if row not in passing},
                    told={row: one for row, one in told.items() if row not in passing},
                )
                _append(lines, line)
                journal.take(line)
                journal.told |= passing
    except OSError as error:
        raise unwritten(place / IMAGES, error) from error
    reporter.note(f"decoded {len(rows):,} images in {duration(time.monotonic() - began)}")


def _checksums(images_BCHW: npt.NDArray[np.uint8]) -> list[int]:
    return [zlib.crc32(image_CHW) for image_CHW in images_BCHW]


def _append(lines: BinaryIO, line: BaseModel) -> None:
    """Writes a line of the journal through to the disk."""
    lines.write(f"{line.model_dump_json()}\n".encode())
    _sync(lines)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
