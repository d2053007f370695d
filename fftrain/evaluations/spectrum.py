"""How many directions features use: effective rank (Roy & Vetterli 2007) and participation ratio.

With s_k the singular values of the centred features of N images,

    effective rank = exp( - sum_k p_k log p_k ),  p_k = s_k / sum s,    participation ratio = (sum s^2)^2 / sum s^4.

Both are 1 where features lie on a line and F where all directions vary alike; N bounds them too. Letters: N images,
F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ffcore.settings import setting
from ffmodels.evaluated import Record
from fftrain.data import Facts, drawn
from fftrain.evaluations.base import Evaluation, Subject


class Spectrum(Evaluation):
    """Effective rank and participation ratio of the features of validation images."""

    labels = False
    training = False

    images: int = setting(2000, ge=2, description="Validation images that are read, each class its share.")

    def products(self, facts: Facts, widths: Sequence[int]) -> float:
        """Returns those of the smaller of the two matrices of products, and of its eigenvalues."""
        images = min(self.images, facts.validation)
        return sum(2.0 * images * width * min(images, width) + 10.0 * min(images, width) ** 3 for width in widths)

    def measure(self, subject: Subject) -> Iterator[Record]:
        """Yields both of each choice of blocks, and of the pixels; 0 where nothing varies."""
        shown = drawn(subject.data.validation, self.images)
        for choice in subject.choices():
            features_NF = torch.cat([*choice.features.chunks("validation")])[shown]
            about = {"unit": "directions", "split": "validation", "blocks": choice.name}
            for measure, value in spectrum(features_NF).items():
                yield {"measure": measure, **about, "value": value}


def spectrum(features_NF: Tensor) -> dict[str, float]:
    """Returns effective rank and participation ratio of features [N, F]; 0 where nothing varies."""
    centred_NF = features_NF.double() - features_NF.double().mean(0)
    N, F = centred_NF.shape
    squares = torch.linalg.eigvalsh(centred_NF.T @ centred_NF if F <= N else centred_NF @ centred_NF.T).clamp(min=0)
    squares = squares.where(squares > squares.max() * max(N, F) * torch.finfo(squares.dtype).eps, 0.0)
    share = squares.sqrt() / squares.sqrt().sum().clamp(min=1e-300)
    ratio = squares.sum().square() / squares.square().sum().clamp(min=1e-300)
    rank = torch.exp(-torch.xlogy(share, share).sum()) * squares.any()
    return {"effective rank": rank.item(), "participation ratio": ratio.item()}
