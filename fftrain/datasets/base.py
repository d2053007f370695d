"""What a data set is: arrays of images and labels, and what is known of them before they are read.

A new one is a file beside this. Letters: N images, C channels, H W pixels.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ffcore.errors import DataError
from ffcore.layout import TEST, TRAIN, VALIDATION

# Letters of a reason that others give, in an error of one line.
REASON = 300


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


class Dataset(ABC):
    """A data set.

    `shape`, `classes` and `images`, those of the training and the test split, are what a study is planned by without
    reading them; a data set that does not say them is read. `hub` is what the Hugging Face Hub calls it.
    """

    part_name: ClassVar[str]
    """The name that it was loaded by."""

    shape: ClassVar[tuple[int, int, int] | None] = None
    classes: ClassVar[int] = 0
    images: ClassVar[tuple[int, int]] = (0, 0)
    hub: ClassVar[str | None] = None

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Arrays:
        """Returns its arrays.

        Args:
            folder: where data sets are kept; what is missing is downloaded there.

        Raises:
            DataError: where they are damaged, or cannot be had.
        """

    @classmethod
    def read(cls, folder: Path) -> Arrays:
        """Returns its arrays as `load` does, held against one another and against what it says of itself.

        Raises:
            DataError: as `load` does, and where images, labels and classes do not fit.
        """
        arrays = cls.load(folder)
        for split in (TRAIN, VALIDATION, TEST):
            images: Any = getattr(arrays, f"{split}_images")
            labels: Any = getattr(arrays, f"{split}_labels")
            if images is None:
                continue
            labels = np.empty(0) if labels is None else labels
            shape = (images.shape[1], *(arrays.image_size or side for side in images.shape[2:]))
            wrong = ""
            if len(images) != len(labels):
                wrong = f"{len(images)} images and {len(labels)} labels"
            elif cls.shape not in (None, shape):
                wrong = f"images of {'x'.join(map(str, shape))}"
            elif arrays.class_names and not ((labels >= 0) & (labels < len(arrays.class_names))).all():
                wrong = f"labels {labels.min()} to {labels.max()} for {len(arrays.class_names)} classes"
            if wrong:
                raise DataError(
                    f"{cls.part_name} cannot be right: its {split} split has {wrong}; mend it, or delete its files in "
                    f"{folder} where they were downloaded"
                )
        return arrays


def idx(name: str, kind: str, files: dict[str, str], folder: Path, class_names: tuple[str, ...]) -> Arrays:
    """Returns a data set in MNIST's format, through torchvision, the SHA-256 of its files checked where given."""
    import torchvision.datasets

    raw = folder / kind / "raw"
    _check_digests(name, raw, files)  # before torchvision reads what is there already
    train, test = both(
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


def emnist(name: str, split: str, folder: Path) -> Arrays:
    """Returns a split of EMNIST, through torchvision, its images upright: its files hold them mirrored and turned."""
    from torchvision.datasets import EMNIST

    train, test = both(name, folder, lambda train: EMNIST(folder, split=split, train=train, download=True))
    names = [k for k in train.classes if k != "N/A"]  # what torchvision calls 0 where the files count from 1
    first = len(train.classes) - len(names)
    return Arrays(
        train_images=train.data.numpy().transpose(0, 2, 1)[:, None],
        train_labels=train.targets.numpy() - first,
        test_images=test.data.numpy().transpose(0, 2, 1)[:, None],
        test_labels=test.targets.numpy() - first,
        class_names=tuple(names),
    )


def cifar(name: str, kind: str, folder: Path) -> Arrays:
    """Returns CIFAR-10 or -100 through torchvision, which checks its digests."""
    import torchvision.datasets

    train, test = both(
        name, folder, lambda train: getattr(torchvision.datasets, kind)(folder, train=train, download=True)
    )
    return Arrays(
        train_images=train.data.transpose(0, 3, 1, 2),
        train_labels=np.asarray(train.targets, dtype=np.int64),
        test_images=test.data.transpose(0, 3, 1, 2),
        test_labels=np.asarray(test.targets, dtype=np.int64),
        class_names=tuple(train.classes),
    )


def _check_digests(name: str, raw: Path, files: dict[str, str]) -> None:
    """Raises DataError where a file that is there is not the published one."""
    for file, digest in files.items():
        path = raw / file
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise DataError(
                f"{path} is not the published {name} (SHA-256 differs): delete it and it is downloaded again"
            )


def both(
    name: str, folder: Path, make: Any, instead: str = "use --dataset digits, which is embedded"
) -> tuple[Any, Any]:
    """Makes the training and the test set, downloading what is missing; DataError where that fails."""
    with had(name, folder, instead):
        return make(True), make(False)


@contextlib.contextmanager
def had(name: str, folder: Path, instead: str = "use --dataset digits, which is embedded") -> Iterator[None]:
    """Lets torchvision read a data set in the block, or download it; DataError where that fails."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    # What readers raise on a damaged file, of which torchvision checks no digest, is among them.
    except (OSError, RuntimeError, ValueError, EOFError, TypeError, IndexError, AssertionError) as error:
        reason = textwrap.shorten(
            str(error) or type(error).__name__, REASON, placeholder=" ...", break_on_hyphens=False
        )
        raise DataError(
            f"{name} is not in {folder}, or damaged there, and could not be downloaded ({reason}): name the folder "
            f"that holds it with --data-dir or FFSTUDY_DATA, or {instead}"
        ) from error
