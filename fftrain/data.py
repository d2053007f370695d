"""A data set's name or an image folder -> uint8 images, labels, class names, and fixed splits.

Letters: N images, C channels, H W pixels.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ffcore.errors import DataError, SettingError
from ffcore.files import AnyPath, claimed, unwritten
from ffcore.images import fit, from_array, image_size
from ffcore.layout import TEST, TRAIN, VALIDATION, folder_name, some
from ffmodels.registry import FOLDER
from fftrain.config import DataConfig
from fftrain.imagefolder import list_folder, read_folder
from fftrain.registry import DATASETS
from fftrain.sources import Arrays

VALIDATION_IMAGES = 5000
# The splits are the same whatever seed a run has.
SPLIT_SEED = 2309


@dataclass(frozen=True)
class Split:
    """Images uint8 [N, C, H, W], on the CPU unless moved, and class labels int64 [N], on the CPU."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, index_N: npt.NDArray[np.int64] | Tensor | slice) -> Split:
        """Returns the images and labels at these indices."""
        return Split(self.images[index_N], self.labels[index_N])


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

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def train_and_validation(self) -> Split:
        """The whole training split: what a final run is trained on."""
        parts = (self.train, self.validation)
        return Split(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))

    def split(self, name: str) -> Split:
        """Returns `train`, `validation` or `test`."""
        found: Split = getattr(self, name)
        return found


def data_folder(config: DataConfig) -> Path:
    """Returns where data sets are kept: --data-dir, FFSTUDY_DATA, or ~/.cache/ffstudy."""
    return Path(config.data_dir or os.environ.get("FFSTUDY_DATA") or "~/.cache/ffstudy").expanduser()


def check_name(dataset: str) -> None:
    """Raises SettingError unless `dataset` is a name or `imagefolder:PATH`."""
    if not dataset.startswith(FOLDER) and dataset not in DATASETS:
        names = ", ".join(DATASETS)
        raise SettingError(f"--dataset {dataset!r} is unknown: choose one of {names}, or {FOLDER}PATH")


def load_data(config: DataConfig) -> ImageData:
    """Loads a data set and splits it.

    Validation, where a folder has none: 5,000 training images, a tenth where the training split has fewer than 50,000;
    drawn by class, with a seed of its own. A data set without a test split gives a fifth of each class to it. `limit`
    applies to what is left for training.

    Raises:
        SettingError: for an unknown name.
        DataError: where the data are missing, damaged, of mixed sizes, or too few.
        ImageError: where a file of an image folder cannot be read.
    """
    check_name(config.dataset)
    if config.dataset.startswith(FOLDER):
        arrays = read_folder(Path(config.dataset.removeprefix(FOLDER)).expanduser(), config)
    else:
        arrays = _resized(DATASETS.load(config.dataset)(data_folder(config)), config)
    train = Split(torch.from_numpy(arrays.train_images), torch.from_numpy(arrays.train_labels))
    if arrays.test_images is None or arrays.test_labels is None:
        train, test = _held_out(train, max(1, len(train) // 5))
    else:
        test = Split(torch.from_numpy(arrays.test_images), torch.from_numpy(arrays.test_labels))
    if arrays.validation_images is None or arrays.validation_labels is None:
        train, validation = _held_out(train, _validation_images(len(train)))
    else:
        validation = Split(torch.from_numpy(arrays.validation_images), torch.from_numpy(arrays.validation_labels))
    names, notes = arrays.class_names, list(arrays.notes)
    for part, split in ((train, "training"), (validation, "validation"), (test, "test")):
        lacking = [
            name for name, count in zip(names, np.bincount(part.labels, minlength=len(names)), strict=True) if not count
        ]
        if not len(part) or (lacking and part is train):
            raise DataError(
                f"{config.dataset} has too few images to give each of training, validation and test one, and training "
                "one of each class: add some"
            )
        if lacking:
            notes.append(f"no image of {some(lacking)} in {split}")
    if config.limit is not None:
        train = sample(train, config.limit)
    return ImageData(
        name=config.dataset, train=train, validation=validation, test=test, class_names=names, notes=tuple(notes)
    )


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a data set before its images are read."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    validation: int
    test: int


def look_at(config: DataConfig) -> Facts:
    """Returns what `load_data` would give, without reading images where that can be had.

    An image folder is listed, and the size of its first image taken for that of all.

    Raises:
        SettingError, DataError, ImageError: as `load_data` does.
    """
    check_name(config.dataset)
    validation = None
    if config.dataset.startswith(FOLDER):
        listing = list_folder(Path(config.dataset.removeprefix(FOLDER)).expanduser())
        height, width = image_size(listing.files[TRAIN][0][0])
        channels, classes = 3, len(listing.class_names)
        counts = {split: sum(map(len, groups)) for split, groups in listing.files.items()}
        train, validation = counts[TRAIN], counts.get(VALIDATION)
        test = counts.get(TEST) or max(1, train // 5)
        train -= 0 if TEST in counts else test
    elif known := DATASETS[config.dataset].facts:
        (channels, height, width), classes, (train, test) = known["shape"], known["classes"], known["images"]
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
    return split if count >= len(split) else _held_out(split, count)[1]


def _held_out(split: Split, count: int) -> tuple[Split, Split]:
    """Draws `count` images, of each class its share; returns the rest and those drawn.

    In a random order the i-th of a class's n images stands at (i + 1/2) / n; the first `count` are drawn. Unlike
    scikit-learn's stratified split, this has an answer for every count and for classes of one image.
    """
    labels = split.labels.numpy()
    order = np.random.RandomState(SPLIT_SEED).permutation(len(split))
    place = np.empty(len(split))
    for k in np.unique(labels):
        of_class = order[labels[order] == k]
        place[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
    drawn = order[np.argsort(place[order], kind="stable")[:count]]
    kept = np.setdiff1d(np.arange(len(split)), drawn)
    return split.at(kept), split.at(np.sort(drawn))


def _resized(arrays: Arrays, config: DataConfig) -> Arrays:
    """Returns the arrays at the size and with the channels asked for."""
    _, channels, height, width = arrays.train_images.shape
    size = config.image_size or arrays.image_size
    new_channels = 1 if config.grayscale else channels
    if (size or height, size or width, new_channels) == (height, width, channels):
        return arrays

    def resize(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        made = np.empty((len(images), new_channels, size or height, size or width), dtype=np.uint8)
        for i, image in enumerate(images):
            made[i] = fit(from_array(image), height=made.shape[2], width=made.shape[3], channels=new_channels)
        return made

    test_images = None if arrays.test_images is None else resize(arrays.test_images)
    return replace(arrays, train_images=resize(arrays.train_images), test_images=test_images)


def dump_images(config: DataConfig, split: str, out: AnyPath) -> int:
    """Writes a data set as PNG files in class folders, a tree that `imagefolder:` and ffserve read.

    Args:
        config: the data set.
        split: `train`, `validation` or `test` -> OUT/CLASS/NNNNN.png; `all` -> OUT/train/CLASS/ (with validation) and
            OUT/test/CLASS/.
        out: the folder: new or empty.

    Returns:
        How many files were written.

    Raises:
        SettingError: for an unknown split.
        DataError: where the folder holds something.
        WriteError: where it cannot be written; nothing is left then.
        InUse: where another process writes the same folder.
    """
    splits = {
        "train": ["train"],
        "validation": ["validation"],
        "test": ["test"],
        "all": ["train", "validation", "test"],
    }
    if split not in splits:
        raise SettingError(f"--split is {split!r}: choose one of {', '.join(splits)}")
    out = Path(out).absolute()
    partial, count = out.with_name(f".{out.name}.partial"), 0
    with claimed(partial, called=out):
        try:
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise DataError(f"{out} is in use already: name a new folder")
            data, whole = load_data(config), partial / "whole"
            shutil.rmtree(whole, ignore_errors=True)  # of a process that was killed
            for name in splits[split]:
                top = whole / ("test" if name == "test" else "train") if split == "all" else whole
                part = data.split(name)
                for i, (image, label) in enumerate(zip(part.images.numpy(), part.labels.tolist(), strict=True)):
                    path = top / file_name(data.class_names[label]) / f"{name}-{i:05d}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    from_array(image).save(path)
                    count += 1
            if out.exists():
                out.rmdir()
            whole.rename(out)
        except OSError as error:
            raise unwritten(out, error) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return count


def file_name(name: str) -> str:
    """Returns a name as part of a path: an image folder's or a class's."""
    return folder_name(Path(name.removeprefix(FOLDER)).name if name.startswith(FOLDER) else name)
