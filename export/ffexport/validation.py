"""What a file of lower precision answers on validation images, beside the eager model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcore.errors import DataError, ExportError, SettingError
from ffcore.images import read_image
from ffcore.layout import as_class, class_folders, images_in
from ffexport.formats import Images, Outputs, Runner, as_run
from ffexport.parity import relative_error, rounded
from ffexport.subject import Subject
from ffmodels.backbones.base import Shape

BATCH = 64
CALIBRATION = 256
# Shares of all images: what a file of lower precision may lose. A sample shows more or less of it by chance: a file is
# refused where it shows as much more as a file at the limit hardly ever does.
LOST_ACCURACY = 0.003
OTHER_CLASSES = 0.02
DEVIATIONS = 3


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Images that no weight was trained on, and what the eager model gives for them.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N], indices of the model's classes; None where they name other classes, or there are none.
        expected: the eager model's outputs.
        source: where the images are from, in words.
    """

    images: Images
    labels: npt.NDArray[np.int64] | None
    expected: Outputs
    source: str

    @property
    def calibration(self) -> Images:
        """Returns the images that ranges are measured on: a half of all, 256 at most, drawn with a seed of its own."""
        order = np.random.default_rng(0).permutation(len(self.images))
        return self.images[np.sort(order[: min(CALIBRATION, -(-len(order) // 2))])]

    def measure(self, run: Runner) -> dict[str, Any]:
        """Returns what a file gives for the images.

        Returns:
            {"source", "images": N, "relative_error": of the features, norms over all images; with classes also
            "same_class", the share of images where it predicts what the eager model does; with labels "accuracy" and
            "accuracy_fp32", 0 to 1}.
        """
        outputs = _in_batches(run, self.images)
        figures: dict[str, Any] = {
            "source": self.source,
            "images": len(self.images),
            "relative_error": rounded(relative_error(outputs[0], self.expected[0])),
        }
        if len(outputs) > 1:
            got, want = outputs[1].argmax(-1), self.expected[1].argmax(-1)
            figures["same_class"] = float((got == want).mean())
            if self.labels is not None:
                figures["accuracy"] = float((got == self.labels).mean())
                figures["accuracy_fp32"] = float((want == self.labels).mean())
        return figures


def check_validation(figures: dict[str, Any]) -> None:
    """Raises ExportError where a file answers otherwise than the eager model on more images than may be."""
    images = figures["images"]
    other = 1 - figures.get("same_class", 1.0)
    lost = figures.get("accuracy_fp32", 0.0) - figures.get("accuracy", 0.0)
    if other > at_most(OTHER_CLASSES, images):
        raise ExportError(
            f"{other:.1%} of {images} validation images get another class than from the eager model, "
            f"more than {OTHER_CLASSES:.0%} and chance explain: nothing was written; use --precision fp32"
        )
    if lost > at_most(LOST_ACCURACY, images):
        raise ExportError(
            f"the accuracy on {images} validation images falls by {100 * lost:.2f} points, "
            f"more than {100 * LOST_ACCURACY:g} and chance explain: nothing was written; use --precision fp32"
        )


def at_most(share: float, images: int) -> float:
    """Returns the share of so many images at which a file that loses `share` of all shows DEVIATIONS more than that.

    The root of a count has the deviation 1/2, whatever the count.
    """
    return float((np.sqrt(share * images) + DEVIATIONS / 2) ** 2 / images)


def read_validation(subject: Subject, folder: Path | None) -> Validation:
    """Returns the run's 64 validation images, or those of a folder.

    Args:
        subject: what is exported.
        folder: of class folders, as `fftrain dump-images DATASET DIR --split validation` makes; None means the
            run's samples.

    Raises:
        RunError, DataError, ImageError, SettingError: where the images are missing or damaged, or are no class's.
    """
    known = subject.predicts_the_samples
    if folder is None:
        images, labels = subject.run.samples
        source = "the run's validation samples"
    else:
        images, names = _read_folder(folder, subject.run.shape)
        source, labels = "images given", np.zeros(len(names), dtype=np.int64)
        if known:
            classes = [*map(as_class, subject.class_names or ())]
            foreign = sorted({*names} - {*classes})
            if foreign:
                raise SettingError(f"--images {folder} has a folder {foreign[0]!r}, which is no class of the model")
            labels = np.array([classes.index(name) for name in names])
    expected = _in_batches(as_run(subject.model), images)
    return Validation(images=images, labels=labels if known else None, expected=expected, source=source)


def _in_batches(run: Runner, images: Images) -> Outputs:
    """Returns what a model gives for images uint8 [N, C, H, W]."""
    parts = [run(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def _read_folder(folder: Path, shape: Shape) -> tuple[Images, list[str]]:
    """Returns the images of class folders, uint8 [N, C, H, W], and the class of each (`ffcore.layout.as_class`)."""
    channels, height, width = shape
    try:
        classes = class_folders(folder)
    except DataError as error:
        raise DataError(f"--images {error}, as `fftrain dump-images DATASET DIR` makes them") from error
    found = [(as_class(name), file) for name, paths in classes.items() for file in images_in(paths)]
    if not found:
        raise DataError(
            f"--images {folder} has no images in class folders: `fftrain dump-images DATASET DIR` makes some"
        )
    images = [read_image(file, channels=channels, height=height, width=width) for _, file in found]
    return np.stack(images), [name for name, _ in found]
