"""How far the probabilities of a classifier can be believed: how sure it is, held against how often it is right.

Letters: B batch, K classes, M bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 15
# What a probability counts as that float32 has rounded to 0: about 87 nats.
LEAST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Calibration:
    """Sums over images, as many as there are: they take the same room.

    An image's confidence is its largest probability; the bins of confidence are equally wide (Guo et al. 2017, section
    2), each with its upper edge.

    Args:
        bins_M3: float64, of each bin: images, the sum of their confidence, how many were right.
        sums_2: float64: of -log of the right class's probability, and of the squared errors of all probabilities.
    """

    bins_M3: npt.NDArray[np.float64]
    sums_2: npt.NDArray[np.float64]

    @classmethod
    def empty(cls) -> Calibration:
        """Returns sums of nothing, to which `add` adds."""
        return cls(np.zeros((BINS, 3)), np.zeros(2))

    def add(self, classes_B: npt.NDArray[np.int64], probabilities_BK: npt.NDArray[np.floating[Any]]) -> None:
        """Adds images of these classes, which were given those probabilities."""
        p_BK = probabilities_BK.astype(np.float64)
        sure_B, right_B = p_BK.max(1), p_BK.argmax(1) == classes_B
        bin_B = np.clip(np.ceil(sure_B * BINS).astype(np.int64) - 1, 0, BINS - 1)
        np.add.at(self.bins_M3, bin_B, np.stack([np.ones(len(p_BK)), sure_B, right_B], 1))
        p_B = p_BK[np.arange(len(p_BK)), classes_B]
        squares_B = (p_BK**2).sum(1) - 2 * p_B + 1
        self.sums_2[:] += -np.log(np.maximum(p_B, LEAST)).sum(), squares_B.sum()

    def summary(self) -> dict[str, Any]:
        """Returns what it comes to, over one image at least.

        Returns:
            {"error": the mean over images of |accuracy - confidence| of their bin, 0 to 1, "confidence": mean, 0 to 1,
            "negative_log_likelihood": in nats, "brier": mean squared error summed over classes, 0 to 2 (Brier 1950),
            "bins": of each {"from", "to", "images", "confidence", "accuracy"}, None where no image is in it}.
        """
        images_M, sure_M, right_M = self.bins_M3.T
        N = images_M.sum()
        edges = np.linspace(0, 1, BINS + 1).tolist()
        loss, brier = (self.sums_2 / N).tolist()
        return {
            "error": float(np.abs(right_M - sure_M).sum() / N),
            "confidence": float(sure_M.sum() / N),
            "negative_log_likelihood": loss,
            "brier": brier,
            "bins": [
                {
                    "from": low,
                    "to": high,
                    "images": int(images),
                    "confidence": sure / images if images else None,
                    "accuracy": right / images if images else None,
                }
                for low, high, (images, sure, right) in zip(edges, edges[1:], self.bins_M3.tolist(), strict=False)
            ],
        }
