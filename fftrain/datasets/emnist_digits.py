"""EMNIST (Cohen et al. 2017), its split `digits`, through torchvision, which checks what it downloads."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from fftrain.datasets.base import Arrays, Dataset, emnist


class EmnistDigits(Dataset):
    """280,000 handwritten digits, 1x28x28."""

    shape: ClassVar[tuple[int, int, int] | None] = (1, 28, 28)
    classes: ClassVar[int] = 10
    images: ClassVar[tuple[int, int]] = (240_000, 40_000)

    @classmethod
    def load(cls, folder: Path) -> Arrays:
        """Returns its arrays. Raises as `Dataset.load` does."""
        return emnist("emnist-digits", "digits", folder)
