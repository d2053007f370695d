"""USPS (Hull 1994), through torchvision, which checks what it downloads."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from fftrain.datasets.base import Arrays, Dataset, both


class Usps(Dataset):
    """9,298 digits of postcodes, 1x16x16."""

    shape: ClassVar[tuple[int, int, int] | None] = (1, 16, 16)
    classes: ClassVar[int] = 10
    images: ClassVar[tuple[int, int]] = (7_291, 2_007)

    @classmethod
    def load(cls, folder: Path) -> Arrays:
        """Returns its arrays. Raises as `Dataset.load` does."""
        from torchvision.datasets import USPS

        train, test = both("usps", folder, lambda train: USPS(folder, train=train, download=True))
        return Arrays(
            train_images=train.data[:, None],
            train_labels=np.asarray(train.targets, dtype=np.int64),
            test_images=test.data[:, None],
            test_labels=np.asarray(test.targets, dtype=np.int64),
            class_names=tuple("0123456789"),
        )
