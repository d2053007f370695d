"""CIFAR-100 (Krizhevsky 2009), through torchvision: its 100 fine classes."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from fftrain.datasets.base import Arrays, Dataset, cifar


class Cifar100(Dataset):
    """60,000 photographs of 100 classes, 3x32x32."""

    shape: ClassVar[tuple[int, int, int] | None] = (3, 32, 32)
    classes: ClassVar[int] = 100
    images: ClassVar[tuple[int, int]] = (50_000, 10_000)
    hub: ClassVar[str | None] = "uoft-cs/cifar100"

    @classmethod
    def load(cls, folder: Path) -> Arrays:
        """Returns its arrays. Raises as `Dataset.load` does."""
        return cifar("cifar100", "CIFAR100", folder)
