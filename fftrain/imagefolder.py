"""Image folders: which files of which class are in which split."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ffcore.errors import DataError
from ffcore.folders import Item, is_hidden
from ffcore.layout import SPLITS as SPLIT_NAMES
from ffcore.layout import TEST, TRAIN, VALIDATION, Layout, class_folders, images_in, look, some, split_folders
from ffcore.places import UNLABELLED, Place
from ffcore.tally import Tally
from fftrain.config import DataSettings
from fftrain.encoded import Encoded, state
from fftrain.sources import Labels
from fftrain.stored import Index

SPLITS = (TRAIN, VALIDATION, TEST)


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


def list_folder(folder: Path, *, labelled: bool = True) -> Listing:
    """Lists PATH/CLASS/*, or PATH/train/CLASS/* with PATH/val/CLASS/* and PATH/test/CLASS/* or one of them.

    Images of one folder, or of splits without class folders, have no classes: they are trained on without labels. So
    are all images below a folder, or below those of its splits, where it shall not be `labelled`.

    Raises:
        DataError: where it cannot be told what the folder holds, or a class has no images for training.
        ImageError: where a folder cannot be listed.
    """
    if not folder.is_dir():
        raise DataError(
            f"imagefolder:{folder} is no folder: name one that holds images, or a folder of them for each class"
        )
    left_out = Tally()
    if places := _without_classes(folder, labelled, left_out):
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
            + f"; without classes it is imagefolder:{folder}{UNLABELLED}" * bool(empty[0])
        )
    if none := [str(layout.folders[split]) for split, groups in files.items() if not any(groups)]:
        raise DataError(f"{none[0]} holds no images: each split needs some")
    class_names = names if len(names) > 1 else ()
    return Listing(class_names=class_names, files=files, notes=tuple(_notes(folder, layout, left_out)))


def _without_classes(folder: Path, labelled: bool, left_out: Tally) -> dict[str, Path]:
    """Returns the folder of each split where images lie in these themselves; none where there are class folders."""
    inside = _folders(folder)
    splits = {SPLIT_NAMES.get(path.name.casefold(), ""): path for path in inside}
    if not labelled and TRAIN in splits:
        return split_folders(folder, class_folders(folder, left_out))
    if not labelled or not inside:
        return {TRAIN: folder}
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


class ImageFolder(Encoded):
    """An image folder, of which the images that are wanted are read; `,label=` behind its name: without classes.

    Raises as `list_folder` does.
    """

    def __init__(self, place: Place, config: DataSettings) -> None:
        assert place.path is not None
        super().__init__(place.path.name, str(place.path), config)
        listing = list_folder(place.path, labelled=not place.options)
        self.class_names = listing.class_names
        self.notes += listing.notes
        self.files = {split: [file for group in groups for file in group] for split, groups in listing.files.items()}
        self.labels: dict[str, Labels] = {
            split: np.repeat(np.arange(len(groups)), [len(group) for group in groups]).astype(np.int64)
            for split, groups in listing.files.items()
        }

    def items(self, split: str, index: Index) -> list[Item]:
        """Returns some files."""
        return [Item(file, file) for file in (self.files[split][i] for i in index)]

    def named(self, name: str) -> str:
        """Returns a file's path in the folder."""
        return os.path.relpath(name, self.place)

    def contents(self) -> Iterator[str]:
        """Yields where the folder lies, and each file's path in it and state."""
        yield os.path.realpath(self.place)
        for split, files in self.files.items():
            yield from (f"{split}/{self.named(file)}/{state(file)}" for file in files)
