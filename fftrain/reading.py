"""A source's images, read: into memory, into a cache, or at each use.

Whichever way is taken, the images are the same, and so is what is said of them. Letters: N images, B of them, C
channels, H W pixels.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ffcore.errors import ImageError, WriteError
from ffcore.layout import some
from ffcore.tally import Tally
from ffmodels.backbones.base import size
from fftrain.cache import PIECE, cached
from fftrain.config import STREAM, DataSettings
from fftrain.memory import check_memory
from fftrain.progress import Reporter
from fftrain.sources import Chosen, Labels, Numbered, Source, Told
from fftrain.stored import Index, Pictures, Shape, Store, Stored

# Files that cannot be read, named in an error.
NAMED = 20
# What the system says of a folder that may not be written.
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, kw_only=True)
class Read:
    """Images that were read.

    Args:
        splits: by name, images and labels.
        notes: what a person has to know of them.
        skipped: files that could not be read and were left out.
    """

    splits: dict[str, tuple[Pictures, Labels]]
    notes: list[str]
    skipped: list[str]


class DecodedImages:
    """The images of a source, decoded at each use."""

    def __init__(self, images: Numbered, shape: Shape) -> None:
        self._images, self._shape = images, shape

    @property
    def shape(self) -> Shape:
        """C, H, W."""
        return self._shape

    def read(self, rows_B: Index) -> Tensor:
        """Returns images uint8 [B, C, H, W]. Raises ImageError where one cannot be read any more."""
        images_BCHW = np.empty((len(rows_B), *self._shape), np.uint8)
        for row, told in self._images.decode(rows_B, images_BCHW).items():
            if told.wrong:
                raise ImageError(
                    f"{self._images.name(row)!r} {told.wrong}, and could be read before: restore it, then start again "
                    "(a training with --resume)"
                )
        return torch.from_numpy(images_BCHW)

    def expect(self, rows_B: Index) -> None:
        """Does nothing: where files lie is not known."""


def read(source: Source, chosen: Mapping[str, Chosen], config: DataSettings, reporter: Reporter) -> Read:
    """Reads images, and no others; those that cannot be read are left out where the settings say so.

    Args:
        source: whose they are.
        chosen: name -> which of its splits, and which images of it.
        config: the settings.
        reporter: what a person sees.

    Raises:
        DataError: where they are of mixed sizes.
        ImageError: where some cannot be read: it names them.
        MemoryError: where they do not fit into what is free.
        SettingError: where the cache's folder is a file.
        WriteError: where its disk has no room.
    """
    images = Numbered(source)
    rows = {name: images.rows(split, index) for name, (split, index) in chosen.items()}
    every = np.concatenate([*rows.values()])
    pictures: dict[str, Pictures]
    told: Mapping[int, Told]
    if config.data_cache is None:
        shape = source.shape(chosen.values())
        check_memory(len(every) * size(shape), f"images of {source.called}")
        arrays = {name: np.empty((len(of), *shape), np.uint8) for name, of in rows.items()}
        told = {row: one for name, of in rows.items() for row, one in images.decode(of, arrays[name]).items()}
        pictures = {name: torch.from_numpy(array) for name, array in arrays.items()}
    else:
        store, told = _store(images, every, chosen, config.data_cache, reporter)
        pictures = {name: Stored(store, of) for name, of in rows.items()}
    labels = {name: source.labels[split][index] for name, (split, index) in chosen.items()}
    said, broken = Tally(), dict[str, str]()
    for row in [row for row in every.tolist() if row in told] if told else ():
        name = images.name(row)
        if told[row].wrong:
            broken[source.named(name)] = f"{name!r} {told[row].wrong}"
        else:
            said.add(f"images {told[row].said}", name)
    skipped, notes = [], list[str]()
    if broken:
        skipped = _left_out(broken, len(every), source.place, config.skip_bad)
        notes.append(f"left out, cannot be read: {len(skipped)} ({some(skipped)})")
        for name, of in rows.items():
            kept = np.flatnonzero([row not in told or not told[row].wrong for row in of.tolist()])
            if len(kept) < len(of):
                whole = pictures[name]
                pictures[name] = whole.at(kept) if isinstance(whole, Stored) else whole[kept]
                labels[name] = labels[name][kept]
    splits = {name: (pictures[name], labels[name]) for name in rows}
    return Read(splits=splits, notes=[*notes, *said.lines()], skipped=skipped)


def _store(
    images: Numbered, rows: Index, chosen: Mapping[str, Chosen], place: str, reporter: Reporter
) -> tuple[Store, Mapping[int, Told]]:
    """Returns where images lie, and what is told of some: a cache, or the source itself."""
    source = images.source

    def find_shape() -> Shape:
        return source.shape(chosen.values())

    stamp = source.stamp()
    if stamp is None:
        return DecodedImages(images, find_shape()), {}
    if place != STREAM:
        try:
            return cached(images, rows, find_shape, stamp, Path(place), reporter)
        except WriteError as error:
            if getattr(error.__cause__, "errno", None) not in REFUSED:
                raise
            reporter.note(f"--data-cache {place} may not be written: images are decoded at each use")
    shape, told = find_shape(), dict[int, Told]()
    step = max(1, PIECE // size(shape))
    pixels, starts = np.empty((step, *shape), np.uint8), range(0, len(rows), step)
    for start in reporter.track(starts, len(starts), "looking at images"):  # which of them can be read
        part = rows[start : start + step]
        told |= images.decode(part, pixels[: len(part)])
    return DecodedImages(images, shape), told


def _left_out(broken: Mapping[str, str], count: int, place: str, skip: bool) -> list[str]:
    """Returns the files that cannot be read, sorted. Raises ImageError, which names them, unless they may be."""
    names = [*broken]
    if not skip:
        named = ", ".join(map(repr, names[:NAMED])) + (f" and {len(names) - NAMED} more" if names[NAMED:] else "")
        raise ImageError(
            f"{len(names)} of {count} images in {place} cannot be read, the first: "
            f"{next(iter(broken.values()))}; mend or delete {named}, or leave them out with --skip-bad"
        )
    return sorted(names)
