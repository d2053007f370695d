"""Images that are files, or the contents of some: decoded into arrays, those that are wanted and no others.

Letters: N images, C channels, H W pixels.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from ffcore.errors import DataError, ImageError
from ffcore.folders import Item
from ffcore.images import READING, fit, image_size, read_picture
from ffcore.layout import TRAIN
from ffcore.machine import cores
from fftrain.config import DataSettings
from fftrain.sources import Chosen, Images, Labels, Told
from fftrain.stored import Index, Shape

# Images that a thread takes at once, at most.
BLOCK = 64

T = TypeVar("T")


class Encoded(ABC):
    """Images of splits, of which the labels are known before one is read."""

    class_names: tuple[str, ...]
    labels: dict[str, Labels]

    def __init__(self, called: str, place: str, config: DataSettings) -> None:
        """Keeps what messages say.

        Args:
            called: what they are called.
            place: where they lie.
            config: how they are read.
        """
        self.called, self.place, self.config = called, place, config
        self.notes: list[str] = []

    @abstractmethod
    def items(self, split: str, index: Index) -> list[Item]:
        """Returns some images of a split, as they lie there. It is called in many threads."""

    def named(self, name: str) -> str:
        """Returns how an image's name is recorded."""
        return name

    def first_size(self) -> tuple[int, int]:
        """Returns the height and width of the first training image. Raises ImageError where it cannot be read."""
        [item] = self.items(TRAIN, np.arange(1))
        return _size(item)

    @abstractmethod
    def contents(self) -> Iterator[str]:
        """Yields lines that tell all its images from others: another where one may have changed."""

    def stamp(self) -> str:
        """Returns a digest of the contents, and of how they are read."""
        found = hashlib.sha256(repr((READING, self.config.image_size, self.config.grayscale)).encode())
        for line in self.contents():
            found.update(f"{line}\n".encode(errors="surrogateescape"))
        return found.hexdigest()

    def name(self, split: str, i: int) -> str:
        """Returns what an image is called."""
        return self.items(split, np.asarray([i]))[0].name

    def shape(self, chosen: Collection[Chosen]) -> Shape:
        """Returns the channels and the size to read at: --image-size, or the one that all images share.

        Raises:
            DataError: where they differ in size and none is asked for.
            ImageError: where none of them can be read.
        """
        return 1 if self.config.grayscale else 3, *self._common_size(chosen)

    def decode(self, split: str, index_B: Index, images_BCHW: Images) -> dict[int, Told]:
        """Reads images into an array, in parallel; what cannot be read, or is hardly to be seen, is told."""
        read = self._each(split, index_B, _reader(images_BCHW))
        return {i: told for i, (_, told) in enumerate(read) if any(told)}

    def _each(self, split: str, index: Index, work: Callable[[int, Item], T]) -> Iterator[tuple[str, T]]:
        """Yields the name of each image and what is made of it, in order; many are worked on at once."""
        step = max(1, min(BLOCK, -(-len(index) // cores())))

        def block(start: int) -> list[tuple[str, T]]:
            items = self.items(split, index[start : start + step])
            return [(item.name, work(i, item)) for i, item in enumerate(items, start)]

        with ThreadPoolExecutor(cores()) as pool:
            for done in pool.map(block, range(0, len(index), step)):
                yield from done

    def _common_size(self, chosen: Collection[Chosen]) -> tuple[int, int]:
        """Returns the size to read at: --image-size, or the one that all images share."""
        if self.config.image_size is not None:
            return self.config.image_size, self.config.image_size
        first: tuple[str, tuple[int, int]] | None = None
        wrong: ImageError | None = None
        for split, index in chosen:
            for name, size in self._each(split, index, lambda _, item: _size_or_error(item)):
                if isinstance(size, ImageError):  # named when they are read
                    wrong = wrong or size
                elif first is None:
                    first = name, size
                elif size != first[1]:
                    (one, (height, width)), (h, w) = first, size
                    raise DataError(
                        f"images differ in size ({Path(one).name} has {width}x{height} pixels, {Path(name).name} "
                        f"{w}x{h}): set --image-size"
                    )
        if first is None:
            raise wrong or DataError(f"{self.place} holds no images: name some")
        return first[1]


def state(file: str) -> str:
    """Returns what tells a file from another, and from itself once it is written anew or replaced."""
    try:
        found = os.stat(file)
    except OSError:  # it is said when it is read
        return "missing"
    return f"{found.st_size}/{found.st_mtime_ns}/{found.st_ctime_ns}/{found.st_ino}"


def _size(item: Item) -> tuple[int, int]:
    """Returns the height and width of an image. Raises ImageError where it cannot be read."""
    if isinstance(item.source, ImageError):
        raise item.source
    assert not isinstance(item.source, Image.Image)
    return image_size(item.source, name=item.name)


def _size_or_error(item: Item) -> tuple[int, int] | ImageError:
    try:
        return _size(item)
    except ImageError as error:
        return error


def _wrong(item: Item, error: ImageError) -> Told:
    """Returns what is wrong with an image. Decoders have no number for what they find in a file, and the system has."""
    cause = error.__cause__
    passing = isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno is not None)
    return Told(wrong=str(error).removeprefix(f"{item.name!r} "), passing=passing)


def _reader(images: Images) -> Callable[[int, Item], Told]:
    """Returns what decodes an image into an array, and says what is wrong with it, and what is to be said of it."""
    _, channels, height, width = images.shape

    def read(i: int, item: Item) -> Told:
        if isinstance(item.source, ImageError):
            return _wrong(item, item.source)
        try:
            images[i], dim = read_picture(
                item.source,
                lambda image, dim: (fit(image, height=height, width=width, channels=channels), dim),
                name=item.name,
            )
        except ImageError as error:
            return _wrong(item, error)
        if (images[i] == images[i, :, :1, :1]).all():
            return Told(said="of one colour all over (transparency is laid over black)")
        return Told(said="nearly black, for 16 bits of which few are used" if dim else "")

    return read
