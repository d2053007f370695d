"""Folders of classes: which folder is a class, and which holds a split.

People keep images as CLASS/..., as train/CLASS/... and test/CLASS/..., or with val/ beside these. What stands there is
recognised by its names and said; what cannot be told is refused.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ffcore.errors import DataError, ImageError
from ffcore.folders import find, is_hidden
from ffcore.tally import Tally

TRAIN, VALIDATION, TEST = "train", "validation", "test"
# What people call a folder that holds a split, in any case.
SPLITS = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
}
_SHOWN = 10

Classes = dict[str, list[Path]]
"""A class's name -> its folders: more than one where their names are one text, written in two ways."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The class folders of a tree.

    Args:
        splits: `train`, `validation`, `test` -> class folders, where the tree has folders of splits; `train` alone
            where it holds class folders themselves.
        folders: the same names -> the folder that holds them.
    """

    splits: Mapping[str, Classes]
    folders: Mapping[str, Path]


def same(name: str) -> str:
    """Returns a name in the form in which names are compared: systems write accents in one character or in two."""
    return unicodedata.normalize("NFC", name)


def as_class(name: str) -> str:
    """Returns what a class's name and the name of its folder have in common, to compare them by."""
    return same(folder_name(name))


def class_folders(folder: Path, left_out: Tally | None = None) -> Classes:
    """Returns the folders in a folder by name, sorted; what is hidden and files beside them are left out.

    Raises:
        DataError: where it is no folder, cannot be listed, or holds none.
    """
    found: Classes = {}
    try:
        for path in sorted(folder.iterdir()):
            if is_hidden(path.name) or not path.is_dir():
                if left_out is not None:
                    left_out.add("hidden" if is_hidden(path.name) else "beside class folders", str(path))
            else:
                found.setdefault(same(path.name), []).append(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"{folder} cannot be listed ({reason}): name a folder with one folder a class") from error
    if not found:
        raise DataError(f"{folder} holds no folders: name a folder with one folder of images for each class")
    return dict(sorted(found.items()))


def look(folder: Path, left_out: Tally | None = None) -> Layout:
    """Tells class folders from folders of splits.

    A folder called `train` is a split where the others are splits too, or where it is alone: `train/` beside `cat/` and
    `dog/` is a class if images lie in it, and cannot be told if folders do.

    Raises:
        DataError: where it is no folder, cannot be listed, or it cannot be told what it holds.
    """
    inside = class_folders(folder, left_out)
    named = {name: SPLITS[name.casefold()] for name in inside if name.casefold() in SPLITS}
    if TRAIN not in named.values() or (len(named) < len(inside) and not any(map(_has_folders, _of(inside, named)))):
        return Layout(splits={TRAIN: inside}, folders={TRAIN: folder})
    folders = split_folders(folder, inside)
    without = [str(path) for path in folders.values() if not _has_folders(path)]
    if without:
        raise DataError(f"{some(without)} holds no folders: a split holds one folder of images for each class")
    return Layout(splits={split: class_folders(path, left_out) for split, path in folders.items()}, folders=folders)


def split_folders(folder: Path, inside: Classes) -> dict[str, Path]:
    """Returns which of the folders in a folder holds which split. Raises DataError where that cannot be told."""
    named = {name: SPLITS[name.casefold()] for name in inside if name.casefold() in SPLITS}
    if len(named) < len(inside):
        others = some(name for name in inside if name not in named)
        raise DataError(
            f"{folder} holds {some(named)} and beside them {others}: it cannot be told what are splits and what are "
            "classes; move them apart"
        )
    if len({*named.values()}) < len(named) or any(len(paths) > 1 for paths in inside.values()):
        raise DataError(f"{folder} holds {some(inside)}, of which two mean the same split: leave one of them")
    return {split: inside[name][0] for name, split in named.items()}


def images_in(folders: Iterable[Path], left_out: Tally | None = None) -> Iterator[str]:
    """Yields the names of the images in a class's folders, sorted; none where there are none.

    Raises:
        ImageError: where a folder below them cannot be listed.
    """
    for folder in folders:
        whole = os.path.join(folder, "")  # a folder, even one that is called `-`
        for item in find([whole], left_out):
            if not isinstance(item.source, ImageError):
                yield item.name
            elif item.name != whole:
                raise item.source


def folder_name(name: str) -> str:
    """Returns how a class's folder is called: its name, with `_` for what file systems do not take."""
    return "".join(c if c.isalnum() or c in "-_. " else "_" for c in name).strip(". ") or "_"


def some(names: Iterable[str]) -> str:
    """Returns names in a line, the first of many; those that are not what they seem in quotes."""
    names = [name if name.isprintable() and name == name.strip() else repr(name) for name in names]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _of(inside: Classes, names: Iterable[str]) -> Iterator[Path]:
    yield from (path for name in names for path in inside[name])


def _has_folders(folder: Path) -> bool:
    try:
        return any(path.is_dir() and not is_hidden(path.name) for path in folder.iterdir())
    except OSError:
        return False
