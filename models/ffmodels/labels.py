"""The one place that knows where a label enters the pixels.

A label of K classes takes the first K pixels of the first channel, in row-major order (Hinton 2022, section 3.3).
Letters: B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ffcore.errors import SettingError
from ffmodels.registry import SLOTS


def check_slot(shape: tuple[int, int, int], classes: int) -> None:
    """Raises SettingError where K label pixels do not fit into the first channel."""
    _, height, width = shape
    if classes > height * width:
        raise SettingError(
            f"a label of {classes} classes does not fit into the {height}x{width} pixels of the first channel: "
            "use larger images (--image-size) or a task with fewer classes"
        )


def embed(images_BCHW: Tensor, values_BK: Tensor) -> Tensor:
    """Returns the images with `values_BK` in the label pixels and every other pixel untouched.

    Args:
        images_BCHW: pixels in [0, 1], any float dtype.
        values_BK: what the label pixels shall hold; expanded where its batch is 1.
    """
    values_BK = values_BK.to(images_BCHW.dtype).expand(images_BCHW.shape[0], -1)
    pixels_BP = images_BCHW.flatten(1)
    return torch.cat([values_BK, pixels_BP[:, values_BK.shape[1] :]], dim=1).view_as(images_BCHW)


def embed_label(images_BCHW: Tensor, labels_B: Tensor, classes: int) -> Tensor:
    """Returns the images with their label one-hot in the label pixels."""
    return embed(images_BCHW, functional.one_hot(labels_B, classes))


def fill(images_BCHW: Tensor, classes: int, slot: str) -> Tensor:
    """Returns the images with the label pixels filled as `slot` says: what a probe of `ff` reads.

    Raises:
        SettingError: for a slot that is not in `SLOTS`.
    """
    if slot not in SLOTS:
        raise SettingError(f"slot {slot!r} is unknown: choose one of {', '.join(SLOTS)}")
    if slot == "pixels":
        return images_BCHW
    value = 1 / classes if slot == "neutral" else 0.0
    return embed(images_BCHW, images_BCHW.new_full((1, classes), value))
