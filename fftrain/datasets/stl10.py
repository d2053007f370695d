"""STL-10 (Coates et al. 2011), its labelled images, through torchvision, which checks its digests."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from fftrain.datasets.base import Arrays, Dataset, both


class Stl10(Dataset):
    """13,000 labelled photographs, 3x96x96."""

    shape: ClassVar[tuple[int, int, int] | None] = (3, 96, 96)
    classes: ClassVar[int] = 10
    images: ClassVar[tuple[int, int]] = (5_000, 8_000)

    @classmethod
    def load(cls, folder: Path) -> Arrays:
        """Returns its arrays. Raises as `Dataset.load` does."""
        from torchvision.datasets import STL10

        names = {True: "train", False: "test"}
        train, test = both("stl10", folder, lambda train: STL10(folder, split=names[train], download=True))
        return Arrays(
            train_images=train.data,
            train_labels=train.labels.astype(np.int64),
            test_images=test.data,
            test_labels=test.labels.astype(np.int64),
            class_names=tuple(train.classes),
        )
