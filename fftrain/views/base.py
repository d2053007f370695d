"""What a view is: images -> one or more views of each, and where the view is a pretext task, labels made from it.

A new one is a file beside this. Letters: B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ffcore.settings import Part
from ffmodels.draws import Draws

Shape = tuple[int, int, int]


class View(Part):
    """What a method sees. All that is drawn comes from `draws`, so that it is the same however images are batched."""

    views: ClassVar[int] = 1
    """Of each image."""

    pretext: ClassVar[bool] = False
    """Whether it makes labels: the method is asked what was done to the image."""

    def check(self, shape: Shape) -> None:
        """Raises SettingError where images of this shape cannot be taken."""

    def class_names(self, of_data: tuple[str, ...]) -> tuple[str, ...]:
        """Returns what the labels tell apart, given the data set's classes: by default, these."""
        return of_data

    @abstractmethod
    def __call__(self, images_BCHW: Tensor, labels_B: Tensor, draws: Draws) -> tuple[tuple[Tensor, ...], Tensor]:
        """Returns the views and the labels.

        Args:
            images_BCHW: uint8, on the device.
            labels_B: of their classes, int64.
            draws: random numbers of these images.

        Returns:
            Views [B, C, H, W] each, uint8 of 0 to 255 or float32 of 0 to 1, and labels int64 [B].
        """

    def variants(self, images_BCHW: Tensor, labels_B: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Gives (images, labels) for every way in which a trained network can be asked: by default the images once."""
        yield images_BCHW, labels_B


class Pretext(View):
    """A pretext task: each image is changed as a label says that is drawn for it."""

    pretext: ClassVar[bool] = True
    names: ClassVar[tuple[str, ...]]
    """Of its classes."""

    def class_names(self, of_data: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the task's own."""
        return self.names

    @abstractmethod
    def apply(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Returns each image changed as its label says; any dtype, on the images' device."""

    def __call__(self, images_BCHW: Tensor, labels_B: Tensor, draws: Draws) -> tuple[tuple[Tensor, ...], Tensor]:
        """Returns the changed images, and what was done to them, drawn uniformly."""
        drawn_B = draws.integers("pretext", 0, len(self.names))
        return (self.apply(images_BCHW, drawn_B),), drawn_B

    def variants(self, images_BCHW: Tensor, labels_B: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Gives the images under each class in turn."""
        for k in range(len(self.names)):
            each_B = torch.full_like(labels_B, k)
            yield self.apply(images_BCHW, each_B), each_B


class TwoViews(View):
    """Two views of each image, drawn alike and apart; labels are the images' classes."""

    views: ClassVar[int] = 2

    @abstractmethod
    def view(self, images_BCHW: Tensor, draws: Draws, name: str) -> Tensor:
        """Returns one view of each image, uint8 or float32, drawn under names that begin with `name`."""

    def __call__(self, images_BCHW: Tensor, labels_B: Tensor, draws: Draws) -> tuple[tuple[Tensor, ...], Tensor]:
        """Returns both views, and the classes."""
        return (self.view(images_BCHW, draws, "one"), self.view(images_BCHW, draws, "other")), labels_B


class Flip(Pretext):
    """Mirrored along the axes that the label chooses."""

    axes: ClassVar[tuple[tuple[int, ...], ...]]

    def apply(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Returns each image mirrored as its label says."""
        return choose([images_BCHW.flip(axes) for axes in self.axes], labels_B)


def choose(variants: Sequence[Tensor], labels_B: Tensor) -> Tensor:
    """Returns variant labels_B[i] of image i."""
    stacked_KBCHW = torch.stack([*variants])
    return stacked_KBCHW[labels_B, torch.arange(len(labels_B), device=labels_B.device)]
