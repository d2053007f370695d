"""Fashion-MNIST (Xiao et al. 2017), through torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from fftrain.datasets.base import Arrays, Dataset, idx

# SHA-256 of the decompressed files: torchvision checks only what it downloads itself.
FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


class FashionMnist(Dataset):
    """70,000 garments, 1x28x28."""

    shape: ClassVar[tuple[int, int, int] | None] = (1, 28, 28)
    classes: ClassVar[int] = 10
    images: ClassVar[tuple[int, int]] = (60_000, 10_000)
    hub: ClassVar[str | None] = "zalando-datasets/fashion_mnist"

    @classmethod
    def load(cls, folder: Path) -> Arrays:
        """Returns its arrays. Raises as `Dataset.load` does."""
        from torchvision.datasets import FashionMNIST

        return idx("fashion-mnist", "FashionMNIST", FILES, folder, tuple(FashionMNIST.classes))
