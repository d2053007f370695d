"""The image as it is, with its class as the label: the study's supervised reference, and what label-free FF sees."""

from __future__ import annotations

from torch import Tensor

from ffmodels.draws import Draws
from fftrain.views.base import View


class Plain(View):
    """The image as it is; its label is its class."""

    def __call__(self, images_BCHW: Tensor, labels_B: Tensor, draws: Draws) -> tuple[tuple[Tensor, ...], Tensor]:
        """Returns the images and their classes."""
        return (images_BCHW,), labels_B
