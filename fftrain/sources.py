"""Where images come from: a source, of which the labels are known before an image is read.

Letters: N images of a split, B of them, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ffcore.images import fit_each
from ffcore.layout import TEST, TRAIN, VALIDATION
from fftrain.config import DataSettings
from fftrain.datasets.base import Arrays
from fftrain.stored import Index, Shape

# Images of arrays that are copied at once.
ROWS = 1024

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Chosen = tuple[str, Index]
"""Of which split, and which of its images."""


class Told(NamedTuple):
    """What is told of an image that was read: what is wrong where it could not be, or what a person has to know."""

    wrong: str = ""
    """Behind its name, which is told as it is now."""
    said: str = ""
    passing: bool = False
    """Whether the system refused it: another time it may not."""


class Source(Protocol):
    """A data set of which the labels are known before an image is read."""

    @property
    def called(self) -> str:
        """What its images are of, in a word."""

    @property
    def place(self) -> str:
        """Where they lie."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of its classes; none where it has no labels."""

    @property
    def notes(self) -> list[str]:
        """What a person has to know of it."""

    @property
    def labels(self) -> Mapping[str, Labels]:
        """Of each split that it has: `train`, `validation` or `test`."""

    def shape(self, chosen: Collection[Chosen]) -> Shape:
        """Returns C, H, W at which images are read. Raises DataError where these are of mixed sizes."""

    def stamp(self) -> str | None:
        """Returns a digest of all its images: another where one may have changed, or is read otherwise.

        None where they lie in memory, or are mapped to it, already: these are never kept in a cache.
        """

    def name(self, split: str, i: int) -> str:
        """Returns what an image is called: the file."""

    def named(self, name: str) -> str:
        """Returns how an image's name is recorded."""

    def decode(self, split: str, index_B: Index, images_BCHW: Images) -> Mapping[int, Told]:
        """Reads images into an array that is given, in parallel; what is told of some, by their place in it."""


class ArraySource:
    """A data set that lies in memory, or is mapped to it, read at the size and with the channels asked for."""

    def __init__(self, arrays: Arrays, config: DataSettings) -> None:
        found = {
            TRAIN: (arrays.train_images, arrays.train_labels),
            VALIDATION: (arrays.validation_images, arrays.validation_labels),
            TEST: (arrays.test_images, arrays.test_labels),
        }
        self.called = self.place = config.dataset
        self.class_names = arrays.class_names
        self.notes = list(arrays.notes)
        self.images = {split: images for split, (images, _) in found.items() if images is not None}
        self.labels = {split: labels for split, (_, labels) in found.items() if labels is not None}
        _, channels, height, width = arrays.train_images.shape
        size = config.image_size or arrays.image_size
        self._shape = (1 if config.grayscale else channels, size or height, size or width)

    def shape(self, chosen: Collection[Chosen]) -> Shape:
        """Returns C, H, W."""
        return self._shape

    def stamp(self) -> None:
        """Returns None: the images are there already."""

    def name(self, split: str, i: int) -> str:
        """Returns the number of an image."""
        return f"{split} image {i}"

    def named(self, name: str) -> str:
        """Returns the name."""
        return name

    def decode(self, split: str, index_B: Index, images_BCHW: Images) -> Mapping[int, Told]:
        """Copies some images, resized where they are of another shape; nothing is told of them."""
        images, (channels, height, width) = self.images[split], self._shape
        for start in range(0, len(index_B), ROWS):
            at, out = index_B[start : start + ROWS], images_BCHW[start : start + ROWS]
            if images.shape[1:] == self._shape:
                out[:] = images[at]
            else:
                out[:] = fit_each(images, at, height=height, width=width, channels=channels)
        return {}


class Numbered:
    """The images of all splits of a source, under one number each."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.starts, self.count = dict[str, int](), 0
        for split, labels in source.labels.items():
            self.starts[split] = self.count
            self.count += len(labels)

    def rows(self, split: str, index: Index) -> Index:
        """Returns the numbers of a split's images."""
        return self.starts[split] + index

    def _parts(self, rows_B: Index) -> list[tuple[str, Index]]:
        """Returns, of each split that has some of the images, where these stand among them."""
        ends = {split: start + len(self.source.labels[split]) for split, start in self.starts.items()}
        where = {split: np.flatnonzero((rows_B >= self.starts[split]) & (rows_B < end)) for split, end in ends.items()}
        return [(split, at) for split, at in where.items() if len(at)]

    def name(self, row: int) -> str:
        """Returns what an image is called."""
        [(split, _)] = self._parts(np.asarray([row]))
        return self.source.name(split, row - self.starts[split])

    def decode(self, rows_B: Index, images_BCHW: Images) -> dict[int, Told]:
        """Reads images into an array; returns what is told of some, by their number."""
        told: dict[int, Told] = {}
        for split, at in self._parts(rows_B):
            index = rows_B[at] - self.starts[split]
            alone = len(at) == len(rows_B)
            out = images_BCHW if alone else np.empty((len(at), *images_BCHW.shape[1:]), np.uint8)
            told |= {int(rows_B[at[i]]): one for i, one in self.source.decode(split, index, out).items()}
            if not alone:
                images_BCHW[at] = out
        return told
