"""t-SNE: the features of each block in the plane (van der Maaten & Hinton 2008).

Letters: N images, D features of a block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ffcore.settings import setting
from ffmodels.evaluated import Record
from ffmodels.linear import blocks_name
from fftrain.data import Facts, drawn
from fftrain.evaluations.base import Evaluation, Subject

# Below it there are no neighbours to keep.
FEWEST = 4


class TSNE(Evaluation):
    """Points in the plane for each block's features of validation images: a picture of the report."""

    labels = False
    baselines = False
    training = False

    points: int = setting(1000, ge=FEWEST, le=20_000, description="Validation images that are embedded.")
    perplexity: float = setting(30.0, gt=0, description="About how many neighbours a point keeps.")
    seed: int = setting(0, ge=0, le=2**32 - 1, description="Seed of the embedding.")

    def products(self, facts: Facts, widths: Sequence[int]) -> float:
        """Returns what about as long would take: scikit-learn counts no products."""
        points = max(2, min(self.points, facts.validation))
        return 3e7 * points * math.log(points) * len(widths)

    def measure(self, subject: Subject) -> Iterator[Record]:
        """Keeps block1 ... blockL float32 [N, 2] and labels int64 [N]; yields N: 0 where it would be below 4."""
        validation = subject.data.validation
        if not subject.main or subject.encoder is None:
            return
        about = {"measure": "points", "split": "validation", "unit": "images"}
        if len(validation) < FEWEST:
            yield {**about, "value": 0}
            return
        index = drawn(validation, self.points)
        features_NF, at = subject.features.validation[index].numpy(), 0
        for block, dim in enumerate(subject.reporter.track(subject.encoder.dims, len(subject.encoder.dims), "t-SNE")):
            of_block = features_NF[:, at : (at := at + dim)]
            subject.arrays[blocks_name([block])] = embed(of_block, self.perplexity, self.seed)
        subject.arrays["labels"] = validation.labels[index].numpy()
        yield {**about, "value": len(features_NF)}


def embed(features_ND: npt.NDArray[np.float32], perplexity: float, seed: int) -> npt.NDArray[np.float32]:
    """Returns t-SNE's points in the plane, float32 [N, 2], N at least 4; zeros where all rows are alike.

    The perplexity is capped below a third of the points; the same input and seed give the same points.
    """
    from sklearn.manifold import TSNE as Embedding  # takes a second to import

    N, D = features_ND.shape
    if np.ptp(features_ND, axis=0).max() < 1e-6:
        return np.zeros((N, 2), dtype=np.float32)
    tsne = Embedding(init="pca" if D > 1 else "random", perplexity=min(perplexity, (N - 1) / 3), random_state=seed)
    points: npt.NDArray[np.float32] = tsne.fit_transform(features_ND).astype(np.float32)
    return points
