"""What the pixels carry beside the image: a label in a slot, or nothing.

A condition is made before the backbone and has nothing to train. A label of K classes takes the first K pixels of the
first channel, in row-major order (Hinton 2022, section 3.3). Letters: B batch, C channels, H W pixels, P numbers of an
image, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ffcore.errors import SettingError
from ffmodels.draws import Draws

# The reading of a label that is drawn for each image: no file of a model can hold it.
DRAWN = "random"
LABEL = "label:"


class Condition(nn.Module):
    """Nothing in the pixels: the image as it is."""

    readings: Sequence[str] = ("pixels",)
    """How the pixels may be filled where features are read and no label is known; the first is the default."""

    def forward(self, images_BCHW: Tensor, reading: str) -> Tensor:
        """Returns what the backbone reads.

        Raises:
            SettingError: for a reading that is not in `readings`.
        """
        if reading not in self.readings:
            raise SettingError(f"reading {reading!r} is unknown here: choose one of {in_words(self.readings)}")
        return images_BCHW


class LabelSlot(Condition):
    """A label's one-hot code in the first K pixels.

    Where none is known, they hold 1/K (neutral), 0 (zeros), what the image has there (pixels), a label drawn for each
    image (random) or one for all (label:0 to label:K-1).
    """

    def __init__(self, classes: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        _, height, width = shape
        if classes > height * width:
            raise SettingError(
                f"a label of {classes} classes does not fit into the {height}x{width} pixels of the first channel: "
                "use larger images (--image-size) or a view with fewer classes"
            )
        self.classes = classes
        self.readings = ("neutral", "zeros", "pixels", DRAWN, *(f"{LABEL}{k}" for k in range(classes)))

    def forward(self, images_BCHW: Tensor, reading: str) -> Tensor:
        """Returns the images with the slot filled as the reading says."""
        images_BCHW = super().forward(images_BCHW, reading)
        if reading == "pixels":
            return images_BCHW
        if reading == DRAWN:
            return with_label(images_BCHW, drawn_labels(images_BCHW, self.classes), self.classes)
        if reading.startswith(LABEL):
            label, B = int(reading.removeprefix(LABEL)), images_BCHW.shape[0]
            return with_label(images_BCHW, images_BCHW.new_full((B,), label, dtype=torch.int64), self.classes)
        value = 1 / self.classes if reading == "neutral" else 0.0
        return _filled(images_BCHW, images_BCHW.new_full((1, self.classes), value))


def with_label(images_BCHW: Tensor, labels_B: Tensor, classes: int) -> Tensor:
    """Returns the images with their label, int64 [B], one-hot in the slot and every other pixel untouched."""
    return _filled(images_BCHW, functional.one_hot(labels_B, classes))


def drawn_labels(images_BCHW: Tensor, classes: int) -> Tensor:
    """Returns a label for each image, uniform over K, int64 [B]: a function of its pixels, in steps of 1/255, alone.

    So it is the same in any split, batch and order, and independent of what the image shows.
    """
    pixels_BP = images_BCHW.flatten(1).mul(255).round().long()
    factors_P = Draws(0, 0, torch.arange(pixels_BP.shape[1], device=images_BCHW.device)).bits("pixel")[:, 0]
    return Draws(0, 0, (pixels_BP * factors_P).sum(1)).integers("label", 0, classes)


def in_words(readings: Sequence[str]) -> str:
    """Returns readings as a message lists them, the labels by the first and the last."""
    labels = [reading for reading in readings if reading.startswith(LABEL)]
    others = [reading for reading in readings if not reading.startswith(LABEL)]
    return ", ".join(others + ([f"{labels[0]} to {labels[-1]}"] if labels else []))


def _filled(images_BCHW: Tensor, values_BK: Tensor) -> Tensor:
    values_BK = values_BK.to(images_BCHW.dtype).expand(images_BCHW.shape[0], -1)
    pixels_BP = images_BCHW.flatten(1)
    return torch.cat([values_BK, pixels_BP[:, values_BK.shape[1] :]], dim=1).view_as(images_BCHW)
