"""The digits of scikit-learn: embedded, so that everything runs without a network."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import numpy as np

from fftrain.datasets.base import Arrays, Dataset


class Digits(Dataset):
    """1,797 digits of scikit-learn, embedded, enlarged to 1x28x28.

    They are 8x8, the test part of UCI's set, by 13 writers, who here stand in the training and the test split alike.
    Enlarged unless another size is asked for, because a label takes K whole pixels: 24 of 64 would hide a third
    of a jigsaw, 24 of 784 hide 3 %; and a backbone and a probe then fit MNIST's shape.
    """

    shape: ClassVar[tuple[int, int, int] | None] = (1, 28, 28)
    classes: ClassVar[int] = 10
    images: ClassVar[tuple[int, int]] = (1_438, 359)

    @classmethod
    def load(cls, folder: Path) -> Arrays:
        """Returns its arrays. Raises as `Dataset.load` does."""
        found = find_spec("sklearn")  # its file alone: `load_digits` takes a second and a half to import
        assert found is not None
        assert found.origin is not None
        rows = np.loadtxt(Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
        return Arrays(
            train_images=np.rint(rows[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8),
            train_labels=rows[:, -1].astype(np.int64),
            class_names=tuple("0123456789"),
            image_size=28,
        )
