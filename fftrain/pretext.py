"""Pretext tasks: a batch of images -> transformed images, with labels made from the transformation.

Letters: N images of a data set, B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ffcore.errors import SettingError
from fftrain.negatives import draw_hybrids, hybrids

Labels = npt.NDArray[np.int64]


class Task(ABC):
    """A pretext task. A new one names its classes and says what `apply` does to a batch.

    Args:
        class_names: the data set's classes; only a task that reads them keeps them.
    """

    class_names: tuple[str, ...]
    reads_class = False
    """Whether the labels are the data set's own."""

    draws = True
    """Whether the labels are drawn, and say how an image was transformed."""

    def __init__(self, class_names: tuple[str, ...]) -> None:
        """Keeps nothing of the data set."""

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raises SettingError where images of this shape cannot be transformed."""

    def draw(self, class_labels_N: Labels, rng: np.random.Generator) -> Labels:
        """Draws a label for every image of the data set, uniformly, int64 [N]."""
        return rng.integers(len(self.class_names), size=len(class_labels_N))

    @abstractmethod
    def apply(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Returns each image transformed as its label says; any dtype, on the images' device."""

    def variants(self, images_BCHW: Tensor, class_labels_B: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Gives (images, labels) for every way in which an image can be asked: once under each class."""
        for k in range(len(self.class_names)):
            labels_B = torch.full_like(class_labels_B, k)
            yield self.apply(images_BCHW, labels_B), labels_B


def _choose(variants: list[Tensor], labels_B: Tensor) -> Tensor:
    """Returns variant labels_B[i] of image i."""
    stacked_KBCHW = torch.stack(variants)
    return stacked_KBCHW[labels_B, torch.arange(len(labels_B), device=labels_B.device)]


class Rotation(Task):
    """Rotated counter-clockwise by 0, 90, 180 or 270 degrees (Gidaris et al. 2018, arXiv 1803.07728)."""

    class_names = ("0", "90", "180", "270")

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raises SettingError unless images are square."""
        _, height, width = shape
        if height != width:
            raise SettingError(f"--task rotation needs square images, not {height}x{width}: set --image-size")

    def apply(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Returns each image rotated by 90 degrees times its label."""
        return _choose([images_BCHW.rot90(k, (2, 3)) for k in range(4)], labels_B)


class _Flip(Task):
    """Mirrored along the axes that the label chooses."""

    axes: ClassVar[tuple[tuple[int, ...], ...]]

    def apply(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Returns each image mirrored as its label says."""
        return _choose([images_BCHW.flip(axes) for axes in self.axes], labels_B)


class FlipH(_Flip):
    """Mirrored left to right, or not."""

    class_names = ("none", "horizontal")
    axes = ((), (3,))


class FlipV(_Flip):
    """Mirrored top to bottom, or not."""

    class_names = ("none", "vertical")
    axes = ((), (2,))


class FlipHV(_Flip):
    """Not mirrored, left to right, top to bottom, or both."""

    class_names = ("none", "horizontal", "vertical", "both")
    axes = ((), (3,), (2,), (2, 3))


class Jigsaw(Task):
    """2x2 patches in one of their 24 orders: patch i of the result is patch order[i] of the image."""

    orders = tuple(itertools.permutations(range(4)))
    class_names = tuple("".join(map(str, order)) for order in orders)

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raises SettingError for odd heights or widths."""
        _, height, width = shape
        if height % 2 or width % 2:
            raise SettingError(f"--task jigsaw needs even sizes, not {height}x{width}: set --image-size")

    def apply(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Returns each image with its patches in the order that its label names."""
        B, C, H, W = images_BCHW.shape
        patches = (
            images_BCHW.view(B, C, 2, H // 2, 2, W // 2).permute(0, 2, 4, 1, 3, 5).reshape(B, 4, C, H // 2, W // 2)
        )
        orders_B4 = _orders(labels_B.device)[labels_B]
        moved = patches[torch.arange(B, device=labels_B.device)[:, None], orders_B4]
        return moved.view(B, 2, 2, C, H // 2, W // 2).permute(0, 3, 1, 4, 2, 5).reshape(B, C, H, W)


@lru_cache(maxsize=16)
def _orders(device: torch.device) -> Tensor:
    """Returns every order of four patches, int64 [24, 4], kept on the device: copying it would make each step wait."""
    return torch.tensor(Jigsaw.orders, device=device)


class Supervised(Task):
    """The class label itself, on the image as it is: the study's reference."""

    reads_class, draws = True, False

    def __init__(self, class_names: tuple[str, ...]) -> None:
        self.class_names = class_names

    def draw(self, class_labels_N: Labels, rng: np.random.Generator) -> Labels:
        """Returns the class labels: nothing is drawn."""
        return class_labels_N

    def apply(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Returns the images."""
        return images_BCHW

    def variants(self, images_BCHW: Tensor, class_labels_B: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Gives each image once, with its class label."""
        yield images_BCHW, class_labels_B


class Hybrid(Task):
    """Is it an image, or a hybrid of two? What FF without labels is trained to tell (Hinton 2022, section 3.2).

    The objective itself draws the hybrids that it is trained on.
    """

    class_names = ("hybrid", "image")
    draws = False

    def draw(self, class_labels_N: Labels, rng: np.random.Generator) -> Labels:
        """Returns the label "image" for every image: nothing is drawn."""
        return np.ones_like(class_labels_N)

    def apply(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Returns the images."""
        return images_BCHW

    def variants(self, images_BCHW: Tensor, class_labels_B: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Gives the images, then a hybrid of each with another of the batch: the same every time."""
        yield images_BCHW, torch.ones_like(class_labels_B)
        _, _, height, width = images_BCHW.shape
        drawn = draw_hybrids(len(images_BCHW), height * width, np.random.default_rng(0))
        partner, bits, blurs = (torch.from_numpy(values).to(images_BCHW.device) for values in drawn.values())
        yield hybrids(images_BCHW, images_BCHW[partner], bits, blurs), torch.zeros_like(class_labels_B)
