"""QMNIST (Yadav & Bottou 2019), through torchvision, which checks what it downloads."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from fftrain.datasets.base import Arrays, Dataset, both


class Qmnist(Dataset):
    """120,000 digits, MNIST's own and the test digits that it left out, 1x28x28."""

    shape: ClassVar[tuple[int, int, int] | None] = (1, 28, 28)
    classes: ClassVar[int] = 10
    images: ClassVar[tuple[int, int]] = (60_000, 60_000)

    @classmethod
    def load(cls, folder: Path) -> Arrays:
        """Returns its arrays. Raises as `Dataset.load` does."""
        from torchvision.datasets import QMNIST

        train, test = both("qmnist", folder, lambda train: QMNIST(folder, train=train, download=True))
        return Arrays(
            train_images=train.data.numpy()[:, None],
            train_labels=train.targets[:, 0].numpy(),  # the others say who wrote it
            test_images=test.data.numpy()[:, None],
            test_labels=test.targets[:, 0].numpy(),
            class_names=tuple("0123456789"),
        )
