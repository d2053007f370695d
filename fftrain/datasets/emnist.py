"""EMNIST (Cohen et al. 2017), its split `balanced`, through torchvision, which checks what it downloads."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from fftrain.datasets.base import Arrays, Dataset, emnist


class Emnist(Dataset):
    """131,600 handwritten digits and letters, as many of each of 47 classes, 1x28x28."""

    shape: ClassVar[tuple[int, int, int] | None] = (1, 28, 28)
    classes: ClassVar[int] = 47
    images: ClassVar[tuple[int, int]] = (112_800, 18_800)

    @classmethod
    def load(cls, folder: Path) -> Arrays:
        """Returns its arrays. Raises as `Dataset.load` does."""
        return emnist("emnist", "balanced", folder)
