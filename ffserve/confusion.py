"""What a classifier takes for what: accuracy, each class, and the confusion matrix as numbers and as a picture.

Letters: K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ffserve.picture import check_picture, drawn
from ffserve.table import shown

Z95 = 1.959963984540054
# Classes up to which the cells of the picture have numbers.
NUMBERED = 30
LONGEST = 24


@dataclass(frozen=True)
class Confusion:
    """How often images of each class were taken for each class.

    Args:
        class_names: K names.
        counts_KK: int64, images of the class of the row that were taken for the class of the column.
    """

    class_names: tuple[str, ...]
    counts_KK: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, class_names: tuple[str, ...]) -> Confusion:
        """Returns a matrix of zeros, to which `add` adds."""
        return cls(class_names, np.zeros((len(class_names), len(class_names)), dtype=np.int64))

    def add(self, classes_B: npt.NDArray[np.int64], predicted_B: npt.NDArray[np.int64]) -> None:
        """Counts images of these classes, taken for those."""
        np.add.at(self.counts_KK, (classes_B, predicted_B), 1)

    @property
    def images(self) -> int:
        """How many images were counted."""
        return int(self.counts_KK.sum())

    @property
    def right(self) -> int:
        """How many of them were taken for their own class."""
        return int(np.trace(self.counts_KK))

    @property
    def accuracy(self) -> float:
        """The share that was right, 0 to 1; of no image nan."""
        return self.right / self.images if self.images else math.nan

    def summary(self) -> dict[str, Any]:
        """Returns {"images", "right", "accuracy": 0 to 1, "interval": Wilson's 95% interval of it}."""
        return {
            "images": self.images,
            "right": self.right,
            "accuracy": self.accuracy,
            "interval": list(wilson(self.right, self.images)),
        }

    def classes(self) -> list[dict[str, Any]]:
        """Returns of each class {"class", "images", "recall", "precision"}.

        Recall is the share of a class's images that were taken for it, precision the share of those taken for it that
        are of it; None where there are none of them.
        """
        right_K = np.diagonal(self.counts_KK)
        columns = zip(self.class_names, right_K, self.counts_KK.sum(1), self.counts_KK.sum(0), strict=True)
        return [
            {"class": name, "images": int(of), "recall": _share(right, of), "precision": _share(right, taken)}
            for name, right, of, taken in columns
        ]

    def mistakes(self) -> list[tuple[str, str, int]]:
        """Returns (class, taken for, images) of every mistake, the most frequent first."""
        wrong_KK = self.counts_KK - np.diag(np.diagonal(self.counts_KK))
        order = np.argsort(-wrong_KK, axis=None, kind="stable")[: np.count_nonzero(wrong_KK)]
        pairs = zip(*np.unravel_index(order, wrong_KK.shape), strict=True)
        return [(self.class_names[i], self.class_names[j], int(wrong_KK[i, j])) for i, j in pairs]

    def draw(self, path: Path, title: str) -> None:
        """Draws the matrix into a .png, .svg or .pdf: each row in shares of its class, with the counts as numbers.

        Raises:
            UsageError: where the name ends otherwise.
            ModuleNotFoundError: where matplotlib is not installed.
            FFStudyError: where the file cannot be written.
        """
        check_picture("--picture", path)
        from matplotlib.colors import PowerNorm
        from matplotlib.ticker import PercentFormatter

        K = len(self.class_names)
        total_K1 = self.counts_KK.sum(1, keepdims=True)
        shares_KK = self.counts_KK / np.maximum(total_K1, 1)
        names = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in map(shown, self.class_names)]
        longest = max(map(len, names))
        side = min(max(0.36 * K, 2.6), 11.0)
        size = min(9.0, 72 * side / K * 0.7)
        with drawn(path, 9.0, tight=True, figsize=(side + 1.6, side + 1.0)) as figure:
            axes = figure.subplots()
            # The square root lets one mistake in a hundred be seen beside what is right.
            image = axes.imshow(shares_KK, cmap="Blues", norm=PowerNorm(0.5, 0.0, 1.0))
            places = range(K)
            axes.set_xticks(places, names, rotation=90 if longest > 3 else 0, fontsize=size)
            axes.set_yticks(places, names, fontsize=size)
            axes.tick_params(length=0)
            axes.set(xlabel="taken for", ylabel="class")
            axes.set_title(shown(title), fontsize=9.0, loc="left")
            axes.spines[:].set_color("#999999")
            if K <= NUMBERED:
                axes.set_xticks([place - 0.5 for place in range(1, K)], minor=True)
                axes.set_yticks([place - 0.5 for place in range(1, K)], minor=True)
                axes.grid(which="minor", color="#DDDDDD", linewidth=0.5)
                axes.tick_params(which="minor", length=0)
                for i, j in zip(*np.nonzero(self.counts_KK), strict=True):
                    colour = "white" if shares_KK[i, j] > 0.36 else "#222222"
                    count = f"{self.counts_KK[i, j]:d}"
                    fitting = min(size, 72 * side / K * 1.35 / len(count))
                    axes.text(j, i, count, ha="center", va="center", color=colour, fontsize=fitting)
            ticks = [0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0]
            bar = figure.colorbar(
                image, ax=axes, fraction=0.046, pad=0.03, ticks=ticks, format=PercentFormatter(1.0, decimals=0)
            )
            bar.minorticks_off()
            bar.set_label("share of the class", fontsize=8.0)
            bar.outline.set_visible(False)
            bar.ax.tick_params(labelsize=7.5, length=2)


def wilson(right: int, images: int) -> tuple[float, float]:
    """Returns Wilson's 95% interval of a share: (p + z²/2n ∓ z √(p(1-p)/n + z²/4n²)) / (1 + z²/n); of none, 0 to 1."""
    if not images:
        return 0.0, 1.0
    share, odd = right / images, Z95 * Z95 / images
    middle = (share + odd / 2) / (1 + odd)
    half = Z95 / (1 + odd) * math.sqrt(share * (1 - share) / images + odd / (4 * images))
    return max(0.0, middle - half), min(1.0, middle + half)


def _share(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None
