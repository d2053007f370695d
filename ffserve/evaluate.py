"""A model with classes, held against a tree of class folders.

Letters: B batch, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcore.errors import DataError, ModelError
from ffcore.files import AnyPath
from ffcore.folders import Item, find
from ffcore.layout import SPLITS, TEST, TRAIN, VALIDATION, as_class, class_folders, same, some
from ffcore.tally import Tally
from ffserve.account import Account
from ffserve.calibration import Calibration
from ffserve.confusion import Confusion
from ffserve.session import Model
from ffserve.stream import Batch, stream

Track = Callable[[Iterator[Batch]], Iterable[Batch]]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Labelled(Item):
    """An image, and the number of its class."""

    label: int


@dataclass(frozen=True, kw_only=True)
class Sought:
    """The class folders that are evaluated."""

    folders: list[tuple[AnyPath, int]]
    """Each with the number of its class."""
    missing: tuple[str, ...]
    """As of `Evaluation`."""
    unknown: tuple[str, ...]
    """Likewise."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found."""

    confusion: Confusion
    """Over the model's classes."""
    calibration: Calibration
    """Of its probabilities."""
    missing: tuple[str, ...]
    """Classes of the model that have no folder."""
    unknown: tuple[str, ...]
    """Folders that are no class of the model: their images are left out."""


def evaluate(
    model: Model, folder: Path, account: Account | None = None, *, track: Track = iter, **reading: Any
) -> Evaluation:
    """Classifies every image in the class folders of a tree, in constant memory.

    A class's folder has its name, as it is or as `fftrain dump-images` writes it (`T-shirt_top` for `T-shirt/top`),
    accents in one character or in two; images may lie in folders below it. Classes without a folder have no images,
    which says nothing of the model's recall of them; folders that are no class of the model are passed over. Both are
    told in the result. No figure counts images that cannot be read.

    Args:
        model: a model with classes of images.
        folder: DIR, with DIR/CLASS/...
        account: of what becomes of the images.
        track: given the batches, and gives them on: counts them.
        reading: of `ffserve.stream.stream`: `batch_size`, `invert`, `place`, `max_pixels`, `workers`, `processes`.

    Raises:
        ModelError: where the model has no classes, or those of a pretext task.
        DataError: where `folder` is none, or no folder in it is a class of the model, or has images.
    """
    account = account or Account()
    found = sought(model, folder, class_folders(folder, account.left_out))
    confusion, calibration = Confusion.empty(class_names(model)), Calibration.empty()
    for batch in track(stream(model, labelled(found.folders, account.left_out), **reading)):
        labels_B, probabilities_BK = labels_of(account.take(batch)), batch.outputs["probabilities"]
        confusion.add(labels_B, probabilities_BK.argmax(1))
        calibration.add(labels_B, probabilities_BK)
    if not confusion.images:
        raise DataError(f"no image below {folder} could be read")
    return Evaluation(confusion=confusion, calibration=calibration, missing=found.missing, unknown=found.unknown)


def sought(model: Model, folder: AnyPath, folders: Mapping[str, Sequence[AnyPath]]) -> Sought:
    """Returns what is evaluated of a tree's class folders. Raises as `evaluate` does."""
    names = class_names(model)
    known = {as_class(name): k for k, name in enumerate(names)} | {same(name): k for k, name in enumerate(names)}
    wanted = [(path, known[name]) for name, paths in folders.items() if name in known for path in paths]
    if not wanted:
        raise DataError(
            f"{folder} has no folder with the name of a class of {model.path} ({some(names)}), "
            f"it has {some(folders)}: {_mend(folder, folders)}"
        )
    found = {k for _, k in wanted}
    return Sought(
        folders=wanted,
        missing=tuple(name for k, name in enumerate(names) if k not in found),
        unknown=tuple(name for name in folders if name not in known),
    )


def class_names(model: Model) -> tuple[str, ...]:
    """Returns the classes of images that a model tells apart.

    Raises:
        ModelError: where it has none, or those of a pretext task.
    """
    names = model.about.class_names
    instead = "name one with --model, or measure its features with --train DIR --test DIR"
    if names is None:
        raise ModelError(f"{model.path} has no classes, it gives features alone: {instead}")
    if model.about.target != "class":
        raise ModelError(
            f"{model.path} tells apart what its pretext task asked ({some(names)}), not classes of images: {instead}"
        )
    return names


def labelled(folders: Iterable[tuple[AnyPath, int]], left_out: Tally) -> Iterator[Labelled]:
    """Yields the images of class folders, with the number that stands beside each folder."""
    for folder, label in folders:
        for item in find([os.path.join(folder, "")], left_out):  # a folder, even one that is called `-`
            yield Labelled(item.name, item.source, label)


def labels_of(items: Iterable[Item]) -> Int64Array:
    """Returns the labels int64 [B] of labelled items."""
    return np.array([item.label for item in items if isinstance(item, Labelled)], dtype=np.int64)


def _mend(folder: AnyPath, folders: Iterable[str]) -> str:
    splits = {SPLITS[name.casefold()]: name for name in folders if name.casefold() in SPLITS}
    if TRAIN in splits and len(splits) > 1:
        return f"name {os.path.join(folder, splits.get(TEST) or splits[VALIDATION])}"
    return "name a tree of its classes, `fftrain dump-images DATASET DIR` makes one, or another --model"
