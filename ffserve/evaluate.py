"""A model with classes, held against a tree of class folders.

Letters: B batch, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcore.errors import FFStudyError, ModelError
from ffcore.folders import Item, find
from ffserve.confusion import Confusion
from ffserve.features import Failed, Report, read_items
from ffserve.session import Model
from ffserve.stream import Batch, stream

Track = Callable[[Iterator[Batch]], Iterable[Batch]]
Int64Array = npt.NDArray[np.int64]
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Labelled(Item):
    """An image, and the number of its class."""

    label: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found."""

    confusion: Confusion
    """Over the model's classes."""
    missing: tuple[str, ...]
    """Classes of the model that have no folder."""
    unknown: tuple[str, ...]
    """Folders that are no class of the model: their images are left out."""
    inverted: int
    failed: list[Failed]
    """The images that could not be read, which no figure counts."""


def evaluate(
    model: Model, folder: Path, *, report: Report = lambda _: None, track: Track = iter, **reading: Any
) -> Evaluation:
    """Classifies every image in the class folders of a tree, in constant memory.

    A class's folder has its name, as it is or as `fftrain dump-images` writes it (`T-shirt_top` for `T-shirt/top`);
    images may lie in folders below it. Classes without a folder have no images, which says nothing of the model's
    recall of them; folders that are no class of the model are passed over. Both are told in the result.

    Args:
        model: a model with classes of images.
        folder: DIR, with DIR/CLASS/...
        report: called with each image that cannot be read, as it comes.
        track: given the batches, and gives them on: counts them.
        reading: of `ffserve.stream.stream`: `batch_size`, `invert`, `max_pixels`, `workers`, `processes`.

    Raises:
        ModelError: where the model has no classes, or those of a pretext task.
        FFStudyError: where `folder` is none, or no folder in it is a class of the model.
    """
    names = class_names(model)
    folders = class_folders(folder)
    known = {as_folder(name): k for k, name in enumerate(names)} | {name: k for k, name in enumerate(names)}
    wanted = [(path, known[name]) for name, path in folders.items() if name in known]
    if not wanted:
        raise FFStudyError(
            f"{folder} has no folder with the name of a class of {model.path} ({some(names)}), "
            f"it has {some(folders)}: {_mend(folder, folders)}"
        )
    confusion = Confusion.empty(names)
    inverted = 0
    failed: list[Failed] = []
    for batch in track(stream(model, labelled(wanted), **reading)):
        confusion.add(labels_of(read_items(batch, failed, report)), batch.outputs["probabilities"].argmax(1))
        inverted += sum(batch.inverted)
    if not confusion.images:
        raise FFStudyError(f"no image below {folder} could be read")
    found = {k for _, k in wanted}
    return Evaluation(
        confusion=confusion,
        missing=tuple(name for k, name in enumerate(names) if k not in found),
        unknown=tuple(name for name in folders if name not in known),
        inverted=inverted,
        failed=failed,
    )


def class_names(model: Model) -> tuple[str, ...]:
    """Returns the classes of images that a model tells apart.

    Raises:
        ModelError: where it has none, or those of a pretext task.
    """
    names, values = model.about.class_names, model.about.values
    instead = "name one with --model, or measure its features with --train DIR --test DIR"
    if names is None:
        raise ModelError(f"{model.path} has no classes, it gives features alone: {instead}")
    if values.get("head") == "goodness" and values.get("task") != "supervised":
        raise ModelError(
            f"{model.path} tells the pretext task {values.get('task')} apart ({some(names)}), not classes of images: "
            f"{instead}"
        )
    return names


def class_folders(folder: Path) -> dict[str, Path]:
    """Returns the folders in a folder by name, sorted; those whose names start with a dot are passed over.

    Raises:
        FFStudyError: where it is no folder, cannot be listed, or holds none.
    """
    try:
        names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise FFStudyError(f"{folder} cannot be listed ({reason}): name a folder with one folder a class") from error
    if not names:
        raise FFStudyError(f"{folder} holds no folders: name a folder with one folder of images for each class")
    return {name: folder / name for name in names}


def labelled(folders: Iterable[tuple[Path, int]]) -> Iterator[Labelled]:
    """Yields the images of class folders, with the number that stands beside each folder."""
    for folder, label in folders:
        for item in find([os.path.join(folder, "")]):  # a folder, even one that is called `-`
            yield Labelled(item.name, item.source, label)


def labels_of(items: Iterable[Item]) -> Int64Array:
    """Returns the labels int64 [B] of labelled items."""
    return np.array([item.label for item in items if isinstance(item, Labelled)], dtype=np.int64)


def as_folder(name: str) -> str:
    """Returns the name of a class's folder as `fftrain dump-images` writes it."""
    return "".join(c if c.isalnum() or c in "-_. " else "_" for c in name).strip(". ") or "_"


def some(names: Iterable[str]) -> str:
    """Returns names in a line, the first of many."""
    names = [*names]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _mend(folder: Path, folders: Iterable[str]) -> str:
    if {"train", "test"} <= {*folders}:
        return f"name {folder / 'test'}"
    return "name a tree of its classes, `fftrain dump-images DATASET DIR` makes one, or another --model"
