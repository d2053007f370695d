"""Goodness functions h_BD -> g_B, their thresholds, and the Forward-Forward loss.

Letters: B batch, D features of a layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Goodness:
    """A goodness and the threshold that belongs to it.

    Args:
        of: activations h_BD of any float dtype -> goodness g_B, at least float32 (near 2,000 bfloat16 steps by 8).
        threshold: width D -> the default threshold theta.
    """

    of: Callable[[Tensor], Tensor]
    threshold: Callable[[int], float]


def sum_squares(h_BD: Tensor) -> Tensor:
    """Returns sum h^2 of each row (Hinton 2022, eq. 1), at least float32."""
    return _squares(h_BD).sum(-1)


def mean_squares(h_BD: Tensor) -> Tensor:
    """Returns mean h^2 of each row, at least float32: sum_squares / D."""
    return _squares(h_BD).mean(-1)


def norm(h_BD: Tensor) -> Tensor:
    """Returns ||h|| of each row (arXiv 2309.11955), at least float32. A row of zeros has gradient 0, not NaN."""
    return sum_squares(h_BD).clamp(min=1e-12).sqrt()


def _squares(h_BD: Tensor) -> Tensor:
    return h_BD.to(torch.promote_types(h_BD.dtype, torch.float32)).square()


SUM_SQUARES = Goodness(sum_squares, float)
MEAN_SQUARES = Goodness(mean_squares, lambda width: 1.0)
NORM = Goodness(norm, math.sqrt)


def ff_loss(positive_B: Tensor, negative_B: Tensor, threshold: float) -> Tensor:
    """Returns softplus(theta - g_pos) + softplus(g_neg - theta) for each pair, float32 [B].

    This is -log p of "positive" for the one and of "negative" for the other, where
    p(positive) = sigmoid(g - theta) (Hinton 2022, eq. 1; arXiv 2309.11955).
    """
    return functional.softplus(threshold - positive_B) + functional.softplus(negative_B - threshold)
