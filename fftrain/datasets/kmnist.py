"""Kuzushiji-MNIST (Clanuwat et al. 2018), through torchvision, which checks what it downloads."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from fftrain.datasets.base import Arrays, Dataset, idx


class Kmnist(Dataset):
    """70,000 cursive Japanese characters, 1x28x28."""

    shape: ClassVar[tuple[int, int, int] | None] = (1, 28, 28)
    classes: ClassVar[int] = 10
    images: ClassVar[tuple[int, int]] = (60_000, 10_000)

    @classmethod
    def load(cls, folder: Path) -> Arrays:
        """Returns its arrays. Raises as `Dataset.load` does."""
        from torchvision.datasets import KMNIST

        return idx("kmnist", "KMNIST", {}, folder, tuple(KMNIST.classes))
