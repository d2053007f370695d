"""Where each data set's arrays come from.

A source is a function of the data folder that returns an `Arrays`; an entry in `fftrain.registry.DATASETS` names it.
Letters: N images, C channels, H W pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcore.errors import DataError

# Letters of a reason that others give, in an error of one line.
REASON = 300
# SHA-256 of the decompressed files: torchvision checks only what it downloads itself.
MNIST_FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """A data set as arrays: images uint8 [N, C, H, W], labels int64 [N].

    Validation and test may be absent. `image_size` is the size to enlarge to where none is asked for; `notes` are what
    a person has to know of how they were read.
    """

    train_images: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    validation_images: npt.NDArray[np.uint8] | None = None
    validation_labels: npt.NDArray[np.int64] | None = None
    test_images: npt.NDArray[np.uint8] | None = None
    test_labels: npt.NDArray[np.int64] | None = None
    class_names: tuple[str, ...]
    image_size: int | None = None
    notes: tuple[str, ...] = ()


def mnist(folder: Path) -> Arrays:
    """MNIST (LeCun et al. 1998), through torchvision."""
    return _idx("mnist", "MNIST", MNIST_FILES, folder, tuple("0123456789"))


def fashion_mnist(folder: Path) -> Arrays:
    """Fashion-MNIST (Xiao et al. 2017), through torchvision."""
    from torchvision.datasets import FashionMNIST

    return _idx("fashion-mnist", "FashionMNIST", FASHION_MNIST_FILES, folder, tuple(FashionMNIST.classes))


def _idx(name: str, kind: str, files: dict[str, str], folder: Path, class_names: tuple[str, ...]) -> Arrays:
    import torchvision.datasets

    raw = folder / kind / "raw"
    _check_digests(name, raw, files)  # before torchvision reads what is there already
    train, test = _both(
        name, folder, lambda train: getattr(torchvision.datasets, kind)(folder, train=train, download=True)
    )
    _check_digests(name, raw, files)
    return Arrays(
        train_images=train.data.numpy()[:, None],
        train_labels=train.targets.numpy(),
        test_images=test.data.numpy()[:, None],
        test_labels=test.targets.numpy(),
        class_names=class_names,
    )


def _check_digests(name: str, raw: Path, files: dict[str, str]) -> None:
    """Raises DataError where a file that is there is not the published one."""
    for file, digest in files.items():
        path = raw / file
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise DataError(
                f"{path} is not the published {name} (SHA-256 differs): delete it and it is downloaded again"
            )


def svhn(folder: Path) -> Arrays:
    """Street View House Numbers, cropped digits (Netzer et al. 2011), through torchvision."""
    from torchvision.datasets import SVHN

    train, test = _both("svhn", folder, lambda train: SVHN(folder, split="train" if train else "test", download=True))
    return Arrays(
        train_images=train.data,
        train_labels=train.labels.astype(np.int64),
        test_images=test.data,
        test_labels=test.labels.astype(np.int64),
        class_names=tuple("0123456789"),
    )


def cifar10(folder: Path) -> Arrays:
    """CIFAR-10 (Krizhevsky 2009), through torchvision."""
    from torchvision.datasets import CIFAR10

    train, test = _both("cifar10", folder, lambda train: CIFAR10(folder, train=train, download=True))
    return Arrays(
        train_images=train.data.transpose(0, 3, 1, 2),
        train_labels=np.asarray(train.targets, dtype=np.int64),
        test_images=test.data.transpose(0, 3, 1, 2),
        test_labels=np.asarray(test.targets, dtype=np.int64),
        class_names=tuple(train.classes),
    )


def _both(name: str, folder: Path, make: Any) -> tuple[Any, Any]:
    """Makes the training and the test set, downloading what is missing; DataError where that fails."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return make(True), make(False)
    except (OSError, RuntimeError, ValueError) as error:
        reason = textwrap.shorten(str(error), REASON, placeholder=" ...", break_on_hyphens=False)
        raise DataError(
            f"{name} is not in {folder} and could not be downloaded ({reason}): name the folder that holds it with "
            "--data-dir or FFSTUDY_DATA, or use --dataset digits, which is embedded"
        ) from error


def digits(folder: Path) -> Arrays:
    """The 1,797 digits of scikit-learn, 8x8, enlarged to 28x28 unless another size is asked for.

    They are the test part of UCI's set, by 13 writers, who here stand in the training and the test split alike.

    Enlarged because the label slot takes K whole pixels: 24 of 64 would hide a third of a jigsaw, 24 of 784 hide
    3 %; and a backbone and a probe then fit MNIST's shape.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return Arrays(
        train_images=np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None],
        train_labels=bunch.target.astype(np.int64),
        class_names=tuple("0123456789"),
        image_size=28,
    )
