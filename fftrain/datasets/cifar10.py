"""CIFAR-10 (Krizhevsky 2009), through torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from fftrain.datasets.base import Arrays, Dataset, both


class Cifar10(Dataset):
    """60,000 photographs, 3x32x32."""

    shape: ClassVar[tuple[int, int, int] | None] = (3, 32, 32)
    classes: ClassVar[int] = 10
    images: ClassVar[tuple[int, int]] = (50_000, 10_000)
    hub: ClassVar[str | None] = "uoft-cs/cifar10"

    @classmethod
    def load(cls, folder: Path) -> Arrays:
        """Returns its arrays. Raises as `Dataset.load` does."""
        from torchvision.datasets import CIFAR10

        train, test = both("cifar10", folder, lambda train: CIFAR10(folder, train=train, download=True))
        return Arrays(
            train_images=train.data.transpose(0, 3, 1, 2),
            train_labels=np.asarray(train.targets, dtype=np.int64),
            test_images=test.data.transpose(0, 3, 1, 2),
            test_labels=np.asarray(test.targets, dtype=np.int64),
            class_names=tuple(train.classes),
        )
