"""Street View House Numbers, cropped digits (Netzer et al. 2011), through torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from fftrain.datasets.base import Arrays, Dataset, both


class Svhn(Dataset):
    """99,289 house numbers, 3x32x32."""

    shape: ClassVar[tuple[int, int, int] | None] = (3, 32, 32)
    classes: ClassVar[int] = 10
    images: ClassVar[tuple[int, int]] = (73_257, 26_032)
    hub: ClassVar[str | None] = "ufldl-stanford/svhn"

    @classmethod
    def load(cls, folder: Path) -> Arrays:
        """Returns its arrays. Raises as `Dataset.load` does."""
        from torchvision.datasets import SVHN

        names = {True: "train", False: "test"}
        train, test = both("svhn", folder, lambda train: SVHN(folder, split=names[train], download=True))
        return Arrays(
            train_images=train.data,
            train_labels=train.labels.astype(np.int64),
            test_images=test.data,
            test_labels=test.labels.astype(np.int64),
            class_names=tuple("0123456789"),
        )
