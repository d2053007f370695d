"""Images that are files, or the contents of some: decoded into arrays, those that are wanted and no others.

Letters: N images, C channels, H W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from ffcore.errors import DataError, ImageError
from ffcore.folders import Item
from ffcore.images import fit, image_size, read_picture
from ffcore.layout import TRAIN, some
from ffcore.machine import cores
from ffcore.tally import Tally
from fftrain.config import DataSettings
from fftrain.memory import check_memory

# Images that cannot be read, named in an error; and those that a thread takes at once.
NAMED, BLOCK = 20, 64

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Index = npt.NDArray[np.int64]
Chosen = tuple[str, Index]
"""Of which split, and which of its images."""
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
        self.skipped: list[str] = []

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

    def read(self, chosen: Mapping[str, Chosen]) -> dict[str, tuple[Images, Labels]]:
        """Reads some images, those that cannot be read left out where the settings say so.

        Raises:
            DataError: where they differ in size and none is asked for.
            ImageError: where some cannot be read: it names them.
            MemoryError: where they do not fit into what is free.
        """
        height, width = self._common_size(chosen)
        channels, count = 1 if self.config.grayscale else 3, sum(len(index) for _, index in chosen.values())
        check_memory(count * channels * height * width, f"images of {self.called}")
        said, broken = Tally(), dict[str, str]()
        found = {}
        for name, (split, index) in chosen.items():
            images, labels = np.empty((len(index), channels, height, width), dtype=np.uint8), self.labels[split][index]
            bad = []
            for i, (of_item, (wrong, word)) in enumerate(self._each(split, index, _reader(images))):
                if wrong:
                    broken[of_item] = wrong
                    bad.append(i)
                elif word:
                    said.add(f"images {word}", of_item)
            if bad and self.config.skip_bad:
                images, labels = np.delete(images, bad, axis=0), np.delete(labels, bad)
            found[name] = images, labels
        if broken:
            self._leave_out(broken, count)
        self.notes += said.lines()
        return found

    def _each(self, split: str, index: Index, work: Callable[[int, Item], T]) -> Iterator[tuple[str, T]]:
        """Yields the name of each image and what is made of it, in order; many are worked on at once."""

        def block(start: int) -> list[tuple[str, T]]:
            items = self.items(split, index[start : start + BLOCK])
            return [(item.name, work(i, item)) for i, item in enumerate(items, start)]

        with ThreadPoolExecutor(cores()) as pool:
            for done in pool.map(block, range(0, len(index), BLOCK)):
                yield from done

    def _leave_out(self, broken: Mapping[str, str], count: int) -> None:
        """Records the images that cannot be read. Raises ImageError, which names them, unless they may be left out."""
        names = [self.named(name) for name in broken]
        if not self.config.skip_bad:
            named = ", ".join(map(repr, names[:NAMED])) + (f" and {len(names) - NAMED} more" if names[NAMED:] else "")
            raise ImageError(
                f"{len(names)} of {count} images in {self.place} cannot be read, the first: "
                f"{next(iter(broken.values()))}; mend or delete {named}, or leave them out with --skip-bad"
            )
        self.skipped = sorted(names)
        self.notes.append(f"left out, cannot be read: {len(names)} ({some(self.skipped)})")

    def _common_size(self, chosen: Mapping[str, Chosen]) -> tuple[int, int]:
        """Returns the size to read at: --image-size, or the one that all images share."""
        if self.config.image_size is not None:
            return self.config.image_size, self.config.image_size
        first: tuple[str, tuple[int, int]] | None = None
        wrong: ImageError | None = None
        for split, index in chosen.values():
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


def _reader(images: Images) -> Callable[[int, Item], tuple[str, str]]:
    """Returns what decodes an image into an array, and says what is wrong with it, and what is to be said of it."""
    _, channels, height, width = images.shape

    def read(i: int, item: Item) -> tuple[str, str]:
        if isinstance(item.source, ImageError):
            return str(item.source), ""
        try:
            images[i], dim = read_picture(
                item.source,
                lambda image, dim: (fit(image, height=height, width=width, channels=channels), dim),
                name=item.name,
            )
        except ImageError as error:
            return str(error), ""
        if (images[i] == images[i, :, :1, :1]).all():
            return "", "of one colour all over (transparency is laid over black)"
        return "", "nearly black, for 16 bits of which few are used" if dim else ""

    return read
