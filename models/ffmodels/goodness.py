"""Goodness functions h -> g_B, where their thresholds lie, and the losses of a positive and a negative.

Letters: B batch, h activations of any shape [B, ...], D numbers of an image's activation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ffmodels.backbones.base import as_it_is, mean, own


@dataclass(frozen=True)
class Goodness:
    """A goodness and what it is where all D numbers of an activation have one mean square.

    Args:
        of: activations of any float dtype -> goodness g_B, at least float32 (near 2,000 bfloat16 steps by 8).
        at: (mean square, D) -> goodness.
    """

    of: Callable[[Tensor], Tensor]
    at: Callable[[float, int], float]


def sum_squares(h: Tensor) -> Tensor:
    """Returns sum h^2 over all of an image's activation (Hinton 2022, eq. 1), at least float32 [B]."""
    return as_it_is(h).square().sum(own(h))


def mean_squares(h: Tensor) -> Tensor:
    """Returns mean h^2 over all of an image's activation, at least float32 [B]: sum_squares / D."""
    return mean(as_it_is(h).square(), own(h))


def norm(h: Tensor) -> Tensor:
    """Returns ||h|| of each image (arXiv 2309.11955), at least float32 [B]. Zeros have gradient 0, not NaN."""
    return sum_squares(h).clamp(min=1e-12).sqrt()


GOODNESS = {
    "sum_squares": Goodness(sum_squares, lambda square, size: square * size),
    "mean_squares": Goodness(mean_squares, lambda square, size: square),
    "norm": Goodness(norm, lambda square, size: math.sqrt(square * size)),
}


def ff_loss(positive_B: Tensor, negative_B: Tensor, threshold: float) -> Tensor:
    """Returns softplus(theta - g_pos) + softplus(g_neg - theta) for each pair, float32 [B].

    This is -log p of "positive" for the one and of "negative" for the other, where
    p(positive) = sigmoid(g - theta) (Hinton 2022, eq. 1; arXiv 2309.11955).
    """
    return functional.softplus(threshold - positive_B) + functional.softplus(negative_B - threshold)


def symba_loss(positive_B: Tensor, negative_B: Tensor, alpha: float) -> Tensor:
    """Returns softplus(-alpha (g_pos - g_neg)) of each pair, float32 [B] (SymBa, arXiv 2303.08418)."""
    return functional.softplus(-alpha * (positive_B - negative_B))


def swish_loss(positive_B: Tensor, negative_B: Tensor, alpha: float) -> Tensor:
    """Returns silu(-alpha (g_pos - g_neg)) of each pair, silu(x) = x sigmoid(x), float32 [B].

    SymBa's with another soft form of max(0, x) (github.com/dah33/explore_forward_forward). It is least, -0.278, where
    alpha (g_pos - g_neg) is 1.278: pairs that lie further apart are drawn together, ever more weakly.
    """
    return functional.silu(-alpha * (positive_B - negative_B))


def softmax_loss(positive_B: Tensor, negative_JB: Tensor, alpha: float) -> Tensor:
    """Returns -log of the positive's share of exp(alpha g) among its J negatives' too, float32 [B]; SymBa's of one."""
    return torch.logsumexp(alpha * torch.cat([positive_B[None], negative_JB]), 0) - alpha * positive_B


LOSSES = {"softplus": ff_loss, "symba": symba_loss, "swish": swish_loss, "softmax": softmax_loss}
