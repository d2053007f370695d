"""A data set's name or an image folder -> uint8 images, labels, class names, and fixed splits.

Letters: N images, C channels, H W pixels.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ffcore.errors import DataError, ImageError, SettingError
from ffcore.files import AnyPath, claimed, unwritten
from ffcore.images import SUFFIXES, fit, from_array, image_size, read_image
from ffmodels.registry import FOLDER
from fftrain.config import DataConfig
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

    Validation: 5,000 training images, a tenth where the training split has fewer than 50,000; drawn by class, with a
    seed of its own. A data set without a test split gives a fifth of each class to it. `limit` applies to what is
    left for training.

    Raises:
        SettingError: for an unknown name.
        DataError: where the data are missing, damaged or of mixed sizes.
        ImageError: where a file of an image folder cannot be read.
    """
    check_name(config.dataset)
    if config.dataset.startswith(FOLDER):
        arrays = _read_folder(Path(config.dataset.removeprefix(FOLDER)).expanduser(), config)
    else:
        arrays = _resized(DATASETS.load(config.dataset)(data_folder(config)), config)
    train = Split(torch.from_numpy(arrays.train_images), torch.from_numpy(arrays.train_labels))
    if arrays.test_images is None or arrays.test_labels is None:
        train, test = _held_out(train, max(1, len(train) // 5))
    else:
        test = Split(torch.from_numpy(arrays.test_images), torch.from_numpy(arrays.test_labels))
    train, validation = _held_out(train, _validation_images(len(train)))
    if config.limit is not None:
        train = sample(train, config.limit)
    if not all(map(len, (train, validation, test))):
        raise DataError(
            f"{config.dataset} has too few images to give each of training, validation and test one: add some"
        )
    return ImageData(name=config.dataset, train=train, validation=validation, test=test, class_names=arrays.class_names)


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
    if config.dataset.startswith(FOLDER):
        class_names, files = _list_folder(Path(config.dataset.removeprefix(FOLDER)).expanduser())
        height, width = image_size(files[0][0][0])
        channels, classes = 3, len(class_names)
        train, *rest = (sum(map(len, groups)) for groups in files)
        test = rest[0] if rest else max(1, train // 5)
        train -= 0 if rest else test
    elif known := DATASETS[config.dataset].facts:
        (channels, height, width), classes, (train, test) = known["shape"], known["classes"], known["images"]
    else:
        data = load_data(config)
        (channels, height, width), classes = data.shape, len(data.class_names)
        train, test = len(data.train) + len(data.validation), len(data.test)
    validation = _validation_images(train)
    return Facts(
        shape=(1 if config.grayscale else channels, config.image_size or height, config.image_size or width),
        classes=classes,
        train=min(train - validation, config.limit or train),
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
        shape = {"height": size or height, "width": size or width, "channels": new_channels}
        return np.stack([fit(from_array(image), **shape) for image in images])

    test_images = None if arrays.test_images is None else resize(arrays.test_images)
    return replace(arrays, train_images=resize(arrays.train_images), test_images=test_images)


def _read_folder(folder: Path, config: DataConfig) -> Arrays:
    """Reads PATH/CLASS/* or PATH/train/CLASS/* and PATH/test/CLASS/*."""
    class_names, files = _list_folder(folder)
    height, width = _common_size([f for part in files for group in part for f in group], config)
    read = [_read_files(part, height, width, config) for part in files]
    return Arrays(
        train_images=read[0][0],
        train_labels=read[0][1],
        test_images=read[1][0] if len(read) > 1 else None,
        test_labels=read[1][1] if len(read) > 1 else None,
        class_names=class_names,
    )


def _list_folder(folder: Path) -> tuple[tuple[str, ...], list[list[list[Path]]]]:
    """Returns the class names of an image folder, and its files by part (training and test, or all) and class."""
    if not folder.is_dir():
        raise DataError(f"{FOLDER}{folder} is no folder: name one that holds a folder of images for each class")
    parts = (
        [folder / "train", folder / "test"] if (folder / "train").is_dir() and (folder / "test").is_dir() else [folder]
    )
    class_names = tuple(sorted(p.name for p in parts[0].iterdir() if p.is_dir() and not p.name.startswith(".")))
    if len(class_names) < 2:
        raise DataError(f"{parts[0]} holds {len(class_names)} class folders: at least 2 are needed, one for each class")
    unknown = sorted(
        {p.name for p in parts[-1].iterdir() if p.is_dir() and not p.name.startswith(".")} - {*class_names}
    )
    if unknown:
        raise DataError(f"{parts[-1]} has the class {unknown[0]!r}, which {parts[0]} lacks")
    return class_names, [[_images_in(part / name) for name in class_names] for part in parts]


def _images_in(folder: Path) -> list[Path]:
    """Returns the image files below a class folder, sorted; hidden files and other types are passed over."""
    found = (
        p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
    )
    files = sorted(found)
    if not files:
        raise DataError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}): each class needs some")
    return files


def _common_size(files: Sequence[Path], config: DataConfig) -> tuple[int, int]:
    """Returns the size to read at: --image-size, or the one that all files share."""
    if config.image_size is not None:
        return config.image_size, config.image_size
    with ThreadPoolExecutor() as pool:
        sizes = list(pool.map(image_size, files))
    for file, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise DataError(
                f"images differ in size ({files[0].name} has {sizes[0][1]}x{sizes[0][0]} pixels, "
                f"{file.name} {size[1]}x{size[0]}): set --image-size"
            )
    return sizes[0]


def _read_files(
    groups: Sequence[Sequence[Path]], height: int, width: int, config: DataConfig
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Reads every file of every class; ImageError counts all that cannot be read and names the first."""
    channels = 1 if config.grayscale else 3
    files = [file for group in groups for file in group]
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    images = np.empty((len(files), channels, height, width), dtype=np.uint8)

    def read(i: int) -> str | None:
        try:
            images[i] = read_image(files[i], height=height, width=width, channels=channels)
        except ImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        broken = [reason for reason in pool.map(read, range(len(files))) if reason]
    if broken:
        raise ImageError(f"{len(broken)} of {len(files)} images cannot be read, the first: {broken[0]}")
    return images, labels.astype(np.int64)


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
    kept = Path(name.removeprefix(FOLDER)).name if name.startswith(FOLDER) else name
    return "".join(c if c.isalnum() or c in "-_. " else "_" for c in kept).strip(". ") or "_"
