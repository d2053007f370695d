"""What a negative is made of, drawn for a whole epoch. Letters: N images of a data set, K classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def wrong_labels(labels_N: npt.NDArray[np.int64], classes: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draws a wrong label for every image: uniform over the K - 1 others, never the right one.

    Permuting the labels of a batch instead, as public implementations do, leaves about 1 in K right.

    Args:
        labels_N: the right labels, int64.
        classes: K, at least 2.
        rng: where the draws come from.
    """
    return (labels_N + rng.integers(1, classes, size=len(labels_N))) % classes
