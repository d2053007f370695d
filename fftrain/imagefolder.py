"""Image folders: which files of which class are in which split, and their pixels.

Letters: N images, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ffcore.errors import DataError, ImageError
from ffcore.images import fit, image_size, read_picture
from ffcore.layout import TEST, TRAIN, VALIDATION, Layout, images_in, look, some
from ffcore.machine import cores
from ffcore.tally import Tally
from ffmodels.registry import FOLDER
from fftrain.config import DataConfig
from fftrain.sources import Arrays

SPLITS = (TRAIN, VALIDATION, TEST)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of an image folder.

    Args:
        class_names: of all splits, sorted.
        files: `train`, and what else the folder has of `validation` and `test` -> the files of each class.
        notes: what a person has to know of how the folder was understood.
    """

    class_names: tuple[str, ...]
    files: dict[str, list[list[str]]]
    notes: tuple[str, ...]


def list_folder(folder: Path) -> Listing:
    """Lists PATH/CLASS/*, or PATH/train/CLASS/* with PATH/val/CLASS/* and PATH/test/CLASS/* or one of them.

    Raises:
        DataError: where it cannot be told what the folder holds, or a class has no images for training.
        ImageError: where a folder cannot be listed.
    """
    if not folder.is_dir():
        raise DataError(f"{FOLDER}{folder} is no folder: name one that holds a folder of images for each class")
    left_out = Tally()
    layout = look(folder, left_out)
    names = tuple(layout.splits[TRAIN])
    place = layout.folders[TRAIN]
    if len(names) < 2:
        inside = f"; it holds {some(names)}" if names else ""
        raise DataError(f"{place} holds {len(names)} class folders: at least 2 are needed, one for each class{inside}")
    for split, classes in layout.splits.items():
        if unknown := [name for name in classes if name not in names]:
            raise DataError(f"{layout.folders[split]} has the class {unknown[0]!r}, which {place} lacks")
    files = {
        split: [[*images_in(classes.get(name, ()), left_out)] for name in names]
        for split, classes in layout.splits.items()
    }
    if empty := [name for name, found in zip(names, files[TRAIN], strict=True) if not found]:
        raise DataError(f"{place / empty[0]} holds no images: each class needs some to train on")
    if none := [str(layout.folders[split]) for split, groups in files.items() if not any(groups)]:
        raise DataError(f"{none[0]} holds no images: each split needs some")
    return Listing(class_names=names, files=files, notes=tuple(_notes(folder, layout, left_out)))


def _notes(folder: Path, layout: Layout, left_out: Tally) -> Iterator[str]:
    """Yields how a folder was understood, and what of it is left out."""
    places = {split: f"{layout.folders[split].name}/ is {split}" for split in SPLITS if split in layout.folders}
    if places.keys() == {TRAIN}:
        place = layout.folders[TRAIN]
        where = "" if place == folder else f" in {place.name}/"
        yield f"{folder.name}: {len(layout.splits[TRAIN])} classes{where}: {some(layout.splits[TRAIN])}"
    else:
        drawn = [split for split in SPLITS if split not in places]
        rest = f"; {' and '.join(drawn)} is drawn from {layout.folders[TRAIN].name}/" if drawn else ""
        yield f"{folder.name}: {', '.join(places.values())}{rest}"
    yield from (f"left out, {line}" for line in left_out.lines())


def read_folder(folder: Path, config: DataConfig) -> Arrays:
    """Reads an image folder. Raises as `list_folder` does, and ImageError where an image cannot be read."""
    listing = list_folder(folder)
    files = [file for groups in listing.files.values() for group in groups for file in group]
    height, width = _common_size(files, config)
    said = Tally()
    read = {split: _read_files(groups, height, width, config, said) for split, groups in listing.files.items()}
    train, validation, test = read[TRAIN], read.get(VALIDATION), read.get(TEST)
    return Arrays(
        train_images=train[0],
        train_labels=train[1],
        validation_images=validation and validation[0],
        validation_labels=validation and validation[1],
        test_images=test and test[0],
        test_labels=test and test[1],
        class_names=listing.class_names,
        notes=(*listing.notes, *said.lines()),
    )


def _common_size(files: Sequence[str], config: DataConfig) -> tuple[int, int]:
    """Returns the size to read at: --image-size, or the one that all files share."""
    if config.image_size is not None:
        return config.image_size, config.image_size
    with ThreadPoolExecutor(cores()) as pool:
        sizes = list(pool.map(image_size, files))
    for file, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise DataError(
                f"images differ in size ({Path(files[0]).name} has {sizes[0][1]}x{sizes[0][0]} pixels, "
                f"{Path(file).name} {size[1]}x{size[0]}): set --image-size"
            )
    return sizes[0]


def _read_files(
    groups: Sequence[Sequence[str]], height: int, width: int, config: DataConfig, said: Tally
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Reads every file of every class; ImageError counts all that cannot be read and names the first."""
    channels = 1 if config.grayscale else 3
    files = [file for group in groups for file in group]
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    images = np.empty((len(files), channels, height, width), dtype=np.uint8)

    def read(i: int) -> tuple[str, str]:
        """Returns what is wrong with a file, and what is to be said of it."""
        try:
            images[i], dim = read_picture(
                files[i], lambda image, dim: (fit(image, height=height, width=width, channels=channels), dim)
            )
        except ImageError as error:
            return str(error), ""
        if (images[i] == images[i, :, :1, :1]).all():
            return "", "of one colour all over (transparency is laid over black)"
        return "", "nearly black, for 16 bits of which few are used" if dim else ""

    broken = []
    with ThreadPoolExecutor(cores()) as pool:
        for file, (wrong, word) in zip(files, pool.map(read, range(len(files))), strict=True):
            if wrong:
                broken.append(wrong)
            elif word:
                said.add(f"images {word}", file)
    if broken:
        raise ImageError(f"{len(broken)} of {len(files)} images cannot be read, the first: {broken[0]}")
    return images, labels.astype(np.int64)
