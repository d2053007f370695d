"""Do models compute the same: the images that they are shown, and their outputs beside the reference's.

Letters: N images, C channels, H W pixels, F features, K classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcore.errors import DataError, ImageError, UsageError
from ffcore.flat import BLACK, Ground
from ffcore.folders import find
from ffcore.images import MAX_PIXELS, UInt8Array
from ffcore.ink import Ink
from ffcore.layout import Classes, as_class, class_folders, images_in
from ffcore.tally import Tally
from ffserve.reading import Wanted, read

CHUNK = 256
RANDOM = 256
Labels = Sequence[str | None]
Outputs = Mapping[str, npt.NDArray[np.float32]]


@dataclass(kw_only=True)
class Images:
    """What the models are shown. Chunks of at most 256 images are read when they are asked for."""

    what: str
    """In words."""
    chunks: Callable[[], Iterator[tuple[UInt8Array, Labels]]]
    """Yields uint8 [N, C, H, W] and N names of classes, None where one is not known."""
    classes: frozenset[str] = frozenset()
    """The names of the classes that are there, as `ffcore.layout.as_class` has them."""
    strict: bool = False
    """Whether the classes were given to be measured: a model must know them."""
    count: int = 0
    labelled: int = 0
    errors: list[ImageError] = field(default_factory=list)
    left_out: Tally = field(default_factory=Tally)

    def __iter__(self) -> Iterator[tuple[UInt8Array, Labels]]:
        for images_NCHW, labels_N in self.chunks():
            self.count += len(images_NCHW)
            self.labelled += sum(label is not None for label in labels_N)
            yield images_NCHW, labels_N

    def check(self, class_names: Sequence[Sequence[str] | None]) -> None:
        """Raises UsageError where a folder of classes was given and no model knows its classes."""
        told = [[*map(as_class, names)] for names in class_names if names]
        if self.strict and self.classes and not any(self.classes <= set(names) for names in told):
            known = max(told, key=lambda names: len(self.classes & set(names)), default=[])
            strange = ", ".join(sorted(self.classes - set(known))[:5])
            raise UsageError(f"--images: {strange} are no classes of a model, which knows {', '.join(known) or 'none'}")

    def about(self) -> dict[str, Any]:
        """Returns what is recorded of them."""
        return {
            "what": self.what,
            "count": self.count,
            "labelled": self.labelled,
            "unread": len(self.errors),
            "left_out": dict(self.left_out.counts),
        }


def choose_images(
    folder: Path | None,
    places: Sequence[Path | None],
    shape: Sequence[int],
    *,
    ground: Ground = BLACK,
    ink: Ink | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Images:
    """Returns the images to compare on.

    Args:
        folder: of images, in folders of classes; None takes the samples of the first run folder among `places`.
        places: run folders, export folders, files in them; None is passed over.
        shape: C, H, W.
        ground: as recorded in a model: images are read as `predict` does.
        ink: likewise.
        report: gets a line for each image that cannot be read.

    Raises:
        UsageError: where `folder` is none.
    """
    if folder is None:
        near = (path for place in places if place is not None for path in (place, *place.resolve().parents[:2]))
        found = (_samples(path, shape) for path in near)
        return next((images for images in found if images is not None), _random(shape))
    if not folder.is_dir():
        raise UsageError(f"--images {folder} is no folder")
    inside: Classes = {}
    with suppress(DataError):  # images that lie in no folder are of no class
        inside = class_folders(folder)
    classes = frozenset(as_class(name) for name, paths in inside.items() if any(images_in(paths)))
    images = Images(what=f"the images in {folder}", chunks=lambda: chunks(), classes=classes, strict=True)
    channels, height, width = shape
    wanted = Wanted(
        channels=channels,
        height=height,
        width=width,
        ground=ground,
        ink=ink,
        invert="auto",
        place=ink is not None and ink.longest is not None,
        max_pixels=MAX_PIXELS,
    )

    def chunks() -> Iterator[tuple[UInt8Array, Labels]]:
        items = find([folder], images.left_out)
        while chunk := list(islice(items, CHUNK)):
            found = read(chunk, wanted)
            labels: list[str | None] = []
            for item, error in zip(chunk, found.errors, strict=True):
                if error is not None:
                    images.errors.append(error)
                    report(str(error))
                    continue
                parts = Path(item.name).relative_to(folder).parts
                labels.append(as_class(parts[0]) if len(parts) > 1 else None)
            if labels:
                yield found.images_NCHW, labels

    return images


def _random(shape: Sequence[int]) -> Images:
    pixels = np.random.default_rng(0).integers(0, 256, (RANDOM, *shape), dtype=np.uint8)
    return Images(what=f"{RANDOM} random images", chunks=lambda: iter([(pixels, [None] * RANDOM)]))


def _samples(run: Path, shape: Sequence[int]) -> Images | None:
    """Returns the validation images that a run folder keeps, None where it has none of that shape."""
    try:
        with np.load(run / "samples.npz", allow_pickle=False) as samples:
            images_NCHW, labels_N = samples["images"], samples["labels"]
        names = json.loads((run / "config.json").read_text(encoding="utf-8"))["data"]["class_names"]
        labels = [as_class(str(names[label])) for label in labels_N]
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
    if images_NCHW.dtype != np.uint8 or list(images_NCHW.shape[1:]) != list(shape) or not len(images_NCHW):
        return None
    what = f"the {len(labels)} validation images in {run.resolve().name}/samples.npz"
    return Images(what=what, chunks=lambda: iter([(images_NCHW, labels)]), classes=frozenset(labels))


@dataclass(kw_only=True)
class Agreement:
    """What the outputs of a model amount to, beside the reference's.

    Args:
        names: its classes, None where they are not known.
        comparable: whether its logits mean what the reference's do: the same classes, by the same kind of head.
        same_names: whether its classes are the reference's.
        classes: the names of classes that the images have.
    """

    names: Sequence[str] | None
    comparable: bool
    same_names: bool
    classes: frozenset[str]
    difference: dict[str, float] = field(default_factory=dict)
    count: int = 0
    same: int = 0
    labelled: int = 0
    right: int = 0

    def add(self, outputs: Outputs, reference: Outputs, labels_N: Labels) -> None:
        """Counts some images.

        Raises:
            ValueError: where an output has a value that is not finite, or not a row for each image.
        """
        for name, values in outputs.items():
            if len(values) != len(labels_N):
                raise ValueError(f"it gives {len(values)} rows of {name} for {len(labels_N)} images")
            if not np.isfinite(values).all():
                raise ValueError(f"its {name} are not finite")
            theirs = reference.get(name)
            if theirs is None or theirs.shape != values.shape or not (name == "features" or self.comparable):
                continue
            largest = float(np.abs(values.astype(np.float64) - theirs).max(initial=0.0))
            self.difference[name] = max(largest, self.difference.get(name, 0.0))
        if "logits" not in outputs or self.names is None:
            return
        best_N = outputs["logits"].argmax(-1)
        if self.same_names and "logits" in reference:
            self.count += len(best_N)
            self.same += int((best_N == reference["logits"].argmax(-1)).sum())
        names = [*map(as_class, self.names)]
        if self.classes and self.classes <= set(names):
            known = [(names[k], label) for k, label in zip(best_N, labels_N, strict=True) if label is not None]
            self.labelled += len(known)
            self.right += sum(name == label for name, label in known)

    def figures(self) -> dict[str, Any]:
        """Returns `largest_difference` by output, `same_class` and `accuracy` (0 to 1), each None where it has none."""
        return {
            "largest_difference": self.difference or None,
            "same_class": self.same / self.count if self.count else None,
            "accuracy": self.right / self.labelled if self.labelled else None,
        }
