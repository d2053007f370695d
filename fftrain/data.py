"""A data set's name or an image folder -> uint8 images, labels, class names, and fixed splits.

Letters: N images, C channels, H W pixels.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ffcore.errors import DataError, SettingError
from ffcore.layout import TEST, TRAIN, VALIDATION, folder_name, some
from ffcore.places import FOLDER, Place
from ffcore.plugins import short
from fftrain.config import STREAM, DataSettings
from fftrain.encoded import Encoded
from fftrain.huggingface import HuggingFace
from fftrain.imagefolder import ImageFolder
from fftrain.memory import rows_of
from fftrain.parts import DATASETS, check_dataset
from fftrain.progress import Reporter
from fftrain.reading import read
from fftrain.sources import ArraySource, Labels, Source
from fftrain.stored import Index, Pictures, Stored, in_parts, joined

VALIDATION_IMAGES = 5000
# Training images by which a run knows its data again.
KNOWN_BY = 5000
# What reads a data set that is named by where it lies.
PLACED: dict[str, Callable[[Place, DataSettings], Encoded]] = {FOLDER: ImageFolder, "hf": HuggingFace}
# The splits are the same whatever seed a run has.
SPLIT_SEED = 2309


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, C, H, W], on the CPU unless moved or outside memory, and class labels int64 [N], on the CPU."""

    images: Pictures
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, index_N: npt.NDArray[np.int64] | Tensor | slice) -> Split:
        """Returns the images and labels at these indices."""
        images = self.images
        return Split(images.at(index_N) if isinstance(images, Stored) else images[index_N], self.labels[index_N])


@dataclass(frozen=True, kw_only=True)
class ImageData:
    """A data set with its splits: training, validation (held out of training), test."""

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What a person has to know of how they were read."""
    skipped: tuple[str, ...] = ()
    """Files that could not be read and were left out."""
    hub: str | None = None
    """What the Hugging Face Hub calls it, where it is there."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def facts(self) -> Facts:
        """What was known of it before."""
        train, validation, test = map(len, (self.train, self.validation, self.test))
        return Facts(shape=self.shape, classes=len(self.class_names), train=train, validation=validation, test=test)

    @cached_property
    def held_out_digest(self) -> str:
        """A digest of the held-out images and their labels: another where the data have changed."""
        return digest_of(self.validation, self.test)

    @cached_property
    def train_digest(self) -> str:
        """A digest of 5,000 training images, each class its share, and of the labels of all."""
        return digest_of(sample(self.train, KNOWN_BY), Split(self.train.images[:0], self.train.labels))

    @property
    def train_and_validation(self) -> Split:
        """The whole training split: what a final run is trained on."""
        parts = (self.train, self.validation)
        return Split(joined([part.images for part in parts]), torch.cat([part.labels for part in parts]))

    def split(self, name: str) -> Split:
        """Returns `train`, `validation` or `test`."""
        found: Split = getattr(self, name)
        return found


def digest_of(*splits: Split) -> str:
    """Returns a digest of the images and the labels of some splits."""
    found = hashlib.sha256()
    for split in splits:
        for values in itertools.chain(in_parts(split.images, rows_of(split.images.shape[1:])), (split.labels,)):
            found.update(np.ascontiguousarray(values.numpy()).data)
    return found.hexdigest()[:16]


def data_folder(config: DataSettings) -> Path:
    """Returns where data sets are kept: --data-dir, FFSTUDY_DATA, or ~/.cache/ffstudy."""
    return Path(config.data_dir or os.environ.get("FFSTUDY_DATA") or "~/.cache/ffstudy").expanduser()


def load_data(config: DataSettings, *, training: bool = True, reporter: Reporter | None = None) -> ImageData:
    """Loads a data set and splits it.

    Validation, where a folder has none: 5,000 training images, a tenth where the training split has fewer than 50,000;
    drawn by class, with a seed of its own. A data set without a test split gives a fifth of each class to it. `limit`
    applies to what is left for training. All are drawn before an image is read, and no others are read.

    Args:
        config: the data set.
        training: whether training images are read; else there are none.
        reporter: what a person sees of decoding into a cache.

    Raises:
        SettingError: for an unknown name.
        DataError: where the data are missing, damaged, of mixed sizes, or too few.
        ImageError: where an image cannot be read.
        MemoryError: where they do not fit into what is free.
        WriteError: where they do not fit on the cache's disk.
    """
    check_dataset(config.dataset)
    source: Source
    if (place := Place.of(config.dataset)) is not None:
        _check_cache(config, place)
        source, hub = PLACED[place.prefix](place, config), place.name if place.path is None else None
    else:
        known = DATASETS.load(config.dataset)
        source, hub = ArraySource(known.read(data_folder(config)), config), known.hub
    chosen = {split: (split, np.arange(len(labels))) for split, labels in source.labels.items()}
    for name in (TEST, VALIDATION):
        if name not in chosen:
            of_train = chosen[TRAIN][1]
            count = max(1, len(of_train) // 5) if name == TEST else _validation_images(len(of_train))
            kept, drawn = _drawn(source.labels[TRAIN][of_train], count)
            chosen |= {TRAIN: (TRAIN, of_train[kept]), name: (TRAIN, of_train[drawn])}
    names = source.class_names
    _check(config, names, {name: source.labels[of][index] for name, (of, index) in chosen.items()})
    of_train = chosen[TRAIN][1]
    if not training:
        of_train = of_train[:0]
    elif config.limit is not None and config.limit < len(of_train):
        of_train = of_train[_drawn(source.labels[TRAIN][of_train], config.limit)[1]]
    found = read(source, {**chosen, TRAIN: (TRAIN, of_train)}, config, reporter or Reporter())
    labels = {name: of_read for name, (_, of_read) in found.splits.items() if training or name != TRAIN}
    _check(config, names if config.limit is None else (), labels)  # some may have been left out
    lacking = {name: _lacking(names, labels[name]) for name in (VALIDATION, TEST)}
    notes = [f"no image of {some(of_split)} in {name}" for name, of_split in lacking.items() if of_split]
    splits = {name: Split(images, torch.from_numpy(of)) for name, (images, of) in found.splits.items()}
    return ImageData(
        name=config.dataset,
        train=splits[TRAIN],
        validation=splits[VALIDATION],
        test=splits[TEST],
        class_names=names,
        notes=(*source.notes, *found.notes, *notes),
        skipped=tuple(found.skipped),
        hub=hub,
    )


def _check_cache(config: DataSettings, place: Place) -> None:
    """Raises SettingError where the cache would lie among the images."""
    if config.data_cache in (None, STREAM) or place.path is None:
        return
    if Path(config.data_cache).resolve().is_relative_to(place.path.resolve()):
        raise SettingError(
            f"--data-cache {config.data_cache} lies in {place.path}, among the images: name a folder outside"
        )


def _check(config: DataSettings, names: Sequence[str], labels: Mapping[str, Labels]) -> None:
    """Raises DataError where a split has no images, or training none of a class."""
    if not all(map(len, labels.values())) or (TRAIN in labels and _lacking(names, labels[TRAIN])):
        raise DataError(
            f"{config.dataset} has too few images to give each of training, validation and test one, and training "
            "one of each class: add some"
        )


def _lacking(names: Sequence[str], labels: Labels) -> list[str]:
    """Returns the classes of which there is no image."""
    there = set(labels.tolist())
    return [name for k, name in enumerate(names) if k not in there]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a data set before its images are read."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    validation: int
    test: int


def look_at(config: DataSettings) -> Facts:
    """Returns what `load_data` would give, without reading images where that can be had.

    The size of a folder's first image is taken for that of all.

    Raises:
        SettingError, DataError, ImageError: as `load_data` does.
    """
    check_dataset(config.dataset)
    validation = None
    if (place := Place.of(config.dataset)) is not None:
        source = PLACED[place.prefix](place, config)
        height, width = source.first_size()
        channels, classes = 3, len(source.class_names)
        counts = {split: len(labels) for split, labels in source.labels.items()}
        train, validation = counts[TRAIN], counts.get(VALIDATION)
        test = counts.get(TEST) or max(1, train // 5)
        train -= 0 if TEST in counts else test
    elif (known := DATASETS.load(config.dataset)).shape is not None:
        (channels, height, width), classes, (train, test) = known.shape, known.classes, known.images
    else:
        data = load_data(config)
        (channels, height, width), classes = data.shape, len(data.class_names)
        train, test = len(data.train) + len(data.validation), len(data.test)
    if validation is None:
        validation = _validation_images(train)
        train -= validation
    return Facts(
        shape=(1 if config.grayscale else channels, config.image_size or height, config.image_size or width),
        classes=classes,
        train=min(train, config.limit or train),
        validation=validation,
        test=test,
    )


def _validation_images(train: int) -> int:
    """Returns how many of the images of a training split are held out."""
    return VALIDATION_IMAGES if train >= 10 * VALIDATION_IMAGES else max(1, train // 10)


def sample(split: Split, count: int) -> Split:
    """Returns `count` images of a split, of each class its share: the same every time."""
    return split.at(drawn(split, count))


def drawn(split: Split, count: int) -> Index | slice:
    """Returns where the images of `sample` stand."""
    return slice(None) if count >= len(split) else _drawn(split.labels.numpy(), count)[1]


def _drawn(labels: Labels, count: int) -> tuple[Index, Index]:
    """Draws `count` images, of each class its share; returns the indices of the rest and of those drawn.

    In a random order the i-th of a class's n images stands at (i + 1/2) / n; the first `count` are drawn. Unlike
    scikit-learn's stratified split, this has an answer for every count and for classes of one image.
    """
    order = np.random.RandomState(SPLIT_SEED).permutation(len(labels))
    place = np.empty(len(labels))
    for k in np.unique(labels):
        of_class = order[labels[order] == k]
        place[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
    drawn = order[np.argsort(place[order], kind="stable")[:count]]
    return np.setdiff1d(np.arange(len(labels)), drawn), np.sort(drawn)


def labelled(data: ImageData, per_class: int, seed: Sequence[int], called: str) -> Index:
    """Draws training images, as many of each class, and returns their indices.

    Args:
        data: the data set.
        per_class: how many of each.
        seed: of the draw.
        called: the evaluation that asks, for messages.

    Raises:
        SettingError: where a class has fewer.
    """
    labels, classes = data.train.labels.numpy(), len(data.class_names)
    check_per_class(per_class, np.bincount(labels, minlength=classes).min(), called)
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.choice(np.flatnonzero(labels == k), per_class, replace=False) for k in range(classes)])


def check_per_class(per_class: int, most: int, called: str) -> None:
    """Raises SettingError where an evaluation asks for more training images of each class than one has, at most."""
    if most < per_class:
        raise SettingError(
            f"{called}.per_class is {per_class}, and a class has {most} training images: ask for no more"
        )


def file_name(name: str) -> str:
    """Returns a name as part of a path: a data set's or a class's."""
    if (place := Place.of(name)) is not None:
        return folder_name(place.called)
    return folder_name(short(name) if name.endswith(".py") else name)
