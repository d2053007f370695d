"""Which way up is it? (Gidaris et al. 2018, arXiv 1803.07728)."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ffcore.errors import SettingError
from fftrain.views.base import Pretext, Shape, choose


class Rotation(Pretext):
    """Rotated counter-clockwise by 0, 90, 180 or 270 degrees."""

    names: ClassVar[tuple[str, ...]] = ("0", "90", "180", "270")

    def check(self, shape: Shape) -> None:
        """Raises SettingError unless images are square."""
        _, height, width = shape
        if height != width:
            raise SettingError(f"--view rotation needs square images, not {height}x{width}: set --image-size")

    def apply(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Returns each image rotated by 90 degrees times its label."""
        return choose([images_BCHW.rot90(k, (2, 3)) for k in range(4)], labels_B)
