"""Image folders: which files of which class are in which split, and their pixels.

Letters: N images, C channels, H W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ffcore.errors import DataError, ImageError
from ffcore.folders import is_hidden
from ffcore.images import fit, image_size, read_picture
from ffcore.layout import SPLITS as SPLIT_NAMES
from ffcore.layout import TEST, TRAIN, VALIDATION, Layout, images_in, look, some
from ffcore.machine import cores
from ffcore.tally import Tally
from fftrain.config import DataSettings
from fftrain.memory import check_memory
from fftrain.parts import FOLDER

SPLITS = (TRAIN, VALIDATION, TEST)
# Files that cannot be read, named in an error.
NAMED = 20

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Index = npt.NDArray[np.int64]
Chosen = tuple[str, Index]
"""Of which split, and which of its images."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of an image folder.

    Args:
        class_names: of all splits, sorted; none where there are no two.
        files: `train`, and what else the folder has of `validation` and `test` -> the files of each class.
        notes: what a person has to know of how the folder was understood.
    """

    class_names: tuple[str, ...]
    files: dict[str, list[list[str]]]
    notes: tuple[str, ...]


def list_folder(folder: Path) -> Listing:
    """Lists PATH/CLASS/*, or PATH/train/CLASS/* with PATH/val/CLASS/* and PATH/test/CLASS/* or one of them.

    Images of one folder, or of splits without class folders, have no classes: they are trained on without labels.

    Raises:
        DataError: where it cannot be told what the folder holds, or a class has no images for training.
        ImageError: where a folder cannot be listed.
    """
    if not folder.is_dir():
        raise DataError(
            f"{FOLDER}{folder} is no folder: name one that holds images, or a folder of them for each class"
        )
    left_out = Tally()
    if places := _without_classes(folder):
        layout = Layout(splits={split: {"": [place]} for split, place in places.items()}, folders=places)
    else:
        layout = look(folder, left_out)
    names = tuple(layout.splits[TRAIN])
    place = layout.folders[TRAIN]
    for split, classes in layout.splits.items():
        if unknown := [name for name in classes if name not in names]:
            raise DataError(f"{layout.folders[split]} has the class {unknown[0]!r}, which {place} lacks")
    files = {
        split: [[*images_in(classes.get(name, ()), left_out)] for name in names]
        for split, classes in layout.splits.items()
    }
    if empty := [name for name, found in zip(names, files[TRAIN], strict=True) if not found]:
        raise DataError(
            f"{place / empty[0]} holds no images: {'each class needs' if empty[0] else 'it needs'} some to train on"
        )
    if none := [str(layout.folders[split]) for split, groups in files.items() if not any(groups)]:
        raise DataError(f"{none[0]} holds no images: each split needs some")
    class_names = names if len(names) > 1 else ()
    return Listing(class_names=class_names, files=files, notes=tuple(_notes(folder, layout, left_out)))


def _without_classes(folder: Path) -> dict[str, Path]:
    """Returns the folder of each split where images lie in these themselves; none where there are class folders."""
    inside = _folders(folder)
    if not inside:
        return {TRAIN: folder}
    splits = {SPLIT_NAMES.get(path.name.casefold(), ""): path for path in inside}
    whole = TRAIN in splits and "" not in splits and len(splits) == len(inside)
    return {} if not whole or any(map(_folders, inside)) else splits


def _folders(folder: Path) -> list[Path]:
    """Returns the folders in a folder. Raises DataError where it cannot be listed."""
    try:
        return [path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)]
    except OSError as error:
        raise DataError(f"{folder} cannot be listed ({(error.strerror or str(error)).lower()})") from error


def _notes(folder: Path, layout: Layout, left_out: Tally) -> Iterator[str]:
    """Yields how a folder was understood, and what of it is left out."""
    places = {split: f"{layout.folders[split].name}/ is {split}" for split in SPLITS if split in layout.folders}
    if places.keys() == {TRAIN}:
        place = layout.folders[TRAIN]
        where = "" if place == folder else f" in {place.name}/"
        names = [*layout.splits[TRAIN]]
        said = f"{len(names)} classes{where}: {some(names)}" if len(names) > 1 else f"no classes{where}"
        yield f"{folder.name}: {said}"
    else:
        drawn = [split for split in SPLITS if split not in places]
        rest = f"; {' and '.join(drawn)} is drawn from {layout.folders[TRAIN].name}/" if drawn else ""
        none = "; no classes" if len(layout.splits[TRAIN]) < 2 else ""
        yield f"{folder.name}: {', '.join(places.values())}{rest}{none}"
    yield from (f"left out, {line}" for line in left_out.lines())


class ImageFolder:
    """An image folder, of which the images that are wanted are read.

    Raises as `list_folder` does.
    """

    def __init__(self, folder: Path, config: DataSettings) -> None:
        listing = list_folder(folder)
        self.folder = folder
        self.config = config
        self.class_names = listing.class_names
        self.notes = list(listing.notes)
        self.skipped: list[str] = []
        self.files = {split: [file for group in groups for file in group] for split, groups in listing.files.items()}
        self.labels: dict[str, Labels] = {
            split: np.repeat(np.arange(len(groups)), [len(group) for group in groups]).astype(np.int64)
            for split, groups in listing.files.items()
        }

    def read(self, chosen: Mapping[str, Chosen]) -> dict[str, tuple[Images, Labels]]:
        """Reads some images, those that cannot be read left out where the settings say so.

        Raises:
            DataError: where they differ in size and none is asked for.
            ImageError: where some cannot be read: it names them.
            MemoryError: where they do not fit into what is free.
        """
        files = {name: [self.files[split][i] for i in index] for name, (split, index) in chosen.items()}
        every = [file for of_part in files.values() for file in of_part]
        height, width = self._common_size(every)
        channels = 1 if self.config.grayscale else 3
        check_memory(len(every) * channels * height * width, f"images of {self.folder.name}")
        said, broken = Tally(), dict[str, str]()
        found = {}
        for name, (split, index) in chosen.items():
            images = np.empty((len(index), channels, height, width), dtype=np.uint8)
            bad = _read_files(files[name], images, said)
            broken |= bad
            labels = self.labels[split][index]
            if bad and self.config.skip_bad:
                kept = np.asarray([file not in bad for file in files[name]])
                images, labels = images[kept], labels[kept]
            found[name] = images, labels
        if broken:
            self._leave_out(broken, len(every))
        self.notes += said.lines()
        return found

    def _leave_out(self, broken: Mapping[str, str], count: int) -> None:
        """Records the files that cannot be read. Raises ImageError, which names them, unless they may be left out."""
        names = [os.path.relpath(file, self.folder) for file in broken]
        if not self.config.skip_bad:
            named = ", ".join(map(repr, names[:NAMED])) + (f" and {len(names) - NAMED} more" if names[NAMED:] else "")
            raise ImageError(
                f"{len(names)} of {count} images in {self.folder} cannot be read, the first: "
                f"{next(iter(broken.values()))}; mend or delete {named}, or leave them out with --skip-bad"
            )
        self.skipped = sorted(names)
        self.notes.append(f"left out, cannot be read: {len(names)} ({some(self.skipped)})")

    def _common_size(self, files: Sequence[str]) -> tuple[int, int]:
        """Returns the size to read at: --image-size, or the one that all files share."""
        if self.config.image_size is not None:
            return self.config.image_size, self.config.image_size
        with ThreadPoolExecutor(cores()) as pool:
            found = zip(files, pool.map(_size, files), strict=True)
            sizes = [
                (file, size) for file, size in found if size is not None
            ]  # the others are named when they are read
        if not sizes:
            image_size(files[0])  # says what is wrong
        first, (height, width) = sizes[0]
        for file, size in sizes:
            if size != (height, width):
                raise DataError(
                    f"images differ in size ({Path(first).name} has {width}x{height} pixels, "
                    f"{Path(file).name} {size[1]}x{size[0]}): set --image-size"
                )
        return height, width


def _size(file: str) -> tuple[int, int] | None:
    """Returns the height and width of an image; None where it cannot be read."""
    try:
        return image_size(file)
    except ImageError:
        return None


def _read_files(files: Sequence[str], images: Images, said: Tally) -> dict[str, str]:
    """Reads files into an array.

    Args:
        files: N of them.
        images: uint8 [N, C, H, W], filled.
        said: what is to be said of them is added.

    Returns:
        Of each file that cannot be read, what is wrong.
    """
    _, channels, height, width = images.shape

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

    broken = {}
    with ThreadPoolExecutor(cores()) as pool:
        for file, (wrong, word) in zip(files, pool.map(read, range(len(files))), strict=True):
            if wrong:
                broken[file] = wrong
            elif word:
                said.add(f"images {word}", file)
    return broken
