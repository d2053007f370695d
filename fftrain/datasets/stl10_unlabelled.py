"""STL-10 (Coates et al. 2011), its unlabelled images, through torchvision, which checks its digests."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from fftrain.datasets.base import Arrays, Dataset, had


class Stl10Unlabelled(Dataset):
    """100,000 photographs of STL-10 without labels, 3x96x96, for methods that read none.

    Its test split is STL-10's, without its labels. What such a run has learnt is measured on the labelled images:
    `fftrain evaluate RUN linear --dataset stl10`.
    """

    shape: ClassVar[tuple[int, int, int] | None] = (3, 96, 96)
    classes: ClassVar[int] = 0
    images: ClassVar[tuple[int, int]] = (100_000, 8_000)

    @classmethod
    def load(cls, folder: Path) -> Arrays:
        """Returns its arrays, those of training mapped from their file. Raises as `Dataset.load` does."""
        from torchvision.datasets import STL10

        with had("stl10-unlabelled", folder):
            test = STL10(folder, split="test", download=True).data  # which checks the other files too
        pixels = np.memmap(folder / STL10.base_folder / STL10.train_list[2][0], dtype=np.uint8, mode="r")
        train = pixels.reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)  # the files hold columns
        return Arrays(
            train_images=train,
            train_labels=np.zeros(len(train), dtype=np.int64),
            test_images=test,
            test_labels=np.zeros(len(test), dtype=np.int64),
            class_names=(),
        )
