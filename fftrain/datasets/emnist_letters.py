"""EMNIST (Cohen et al. 2017), its split `letters`, through torchvision, which checks what it downloads."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from fftrain.datasets.base import Arrays, Dataset, emnist


class EmnistLetters(Dataset):
    """145,600 handwritten letters, capital and small ones alike, 1x28x28."""

    shape: ClassVar[tuple[int, int, int] | None] = (1, 28, 28)
    classes: ClassVar[int] = 26
    images: ClassVar[tuple[int, int]] = (124_800, 20_800)

    @classmethod
    def load(cls, folder: Path) -> Arrays:
        """Returns its arrays. Raises as `Dataset.load` does."""
        return emnist("emnist-letters", "letters", folder)
