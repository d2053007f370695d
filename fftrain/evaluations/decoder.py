"""A linear decoder: how much of an image its features keep.

Letters: N images, P pixels of an image, p of a chunk, B images of a chunk, F features, R = min(N, F).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ffcore.settings import setting
from ffmodels.evaluated import Record
from ffmodels.linear import Standardisation
from fftrain.data import Facts, drawn
from fftrain.evaluations.base import Evaluation, Subject
from fftrain.features import Features

# What a chunk of float64 may take, and what is kept of chunks that are wanted again, in bytes.
BYTES, KEPT = 2**25, 2**28
# What validation chooses from: lambda of |Y - XW|^2 / N + lambda |W|^2, for centred X of a mean square of 1.
PENALTIES = tuple(10.0**k for k in range(-5, 0))


class Decoder(Evaluation):
    """Share of the pixels' variance that a linear decoder gives back; validation chooses its penalty."""

    labels = False

    images: int = setting(10_000, ge=10, description="Training images that the decoder is fitted on.")

    def products(self, facts: Facts, widths: Sequence[int]) -> float:
        """Returns those of the Gram matrices and of their factors, of two sources: the pixels cost little."""
        images = min(self.images, facts.train)
        return sum(2.0 * images * F**2 + 20 * F**3 for F in widths)

    def measure(self, subject: Subject) -> Iterator[Record]:
        """Yields the explained variance on validation and test, at most 1, of each choice of blocks."""
        index = drawn(subject.data.train, self.images)
        pixels = subject.pixels.rows(index)
        for choice in subject.choices():
            kept = decode(choice.features.rows(index), pixels)
            for split in ("validation", "test"):
                about = {"measure": "explained variance", "split": split, "blocks": choice.name}
                yield {**about, "value": kept[split], "penalty": kept["penalty"]}


def decode(features: Features, pixels: Features) -> dict[str, float]:
    """Fits ridge regression from features to pixels in closed form; validation chooses the penalty.

    W = (X'X + N lambda)^-1 X'Y = X'(XX' + N lambda)^-1 Y, by the smaller of the two matrices, in float64, for X and Y
    that are centred and of a mean square of 1. Of float64 there are chunks alone: of few large images X, Y and W are
    larger than all that they are made of.

    Args:
        features: [N, F]; the pixels themselves too.
        pixels: the whole images, [N, P].

    Returns:
        {"validation", "test", "penalty"}: 1 - squared error / squared deviation from the training mean, over all pixels
        together; at most 1, and 0 where no pixel ever deviates.
    """
    x, y = _Centred(features), _Centred(pixels)
    (N, F), P = features.train.shape, pixels.train.shape[1]
    R, every = min(N, F), slice(None)
    products: dict[str, Tensor] = {}
    if F <= N:
        gram_RR = torch.zeros(F, F, dtype=torch.float64)
        for rows in _slices(N, F):
            gram_RR.addmm_((part := x("train", rows)).T, part)
    else:
        for split in ("train", "validation", "test"):
            products[split] = of_split = torch.zeros(len(x.of(split)), N, dtype=torch.float64)
            for columns in _slices(F, max(of_split.shape)):
                of_split.addmm_(x(split, every, columns), x("train", every, columns).T)
        gram_RR = products["train"]

    chunks = _slices(P, R)

    @lru_cache(max(1, KEPT // min(BYTES, 8 * R * P)))
    def products_with_pixels(chunk: int) -> Tensor:
        columns = chunks[chunk]
        sums_Rp = torch.zeros(R, len(range(P)[columns]), dtype=torch.float64)
        for rows in _slices(N, max(sums_Rp.shape)):
            sums_Rp.addmm_(x("train", rows).T, y("train", rows, columns))
        return sums_Rp

    def factor(penalty: float) -> Tensor:
        shifted_RR = gram_RR.clone()
        shifted_RR.diagonal().add_(N * penalty)
        factor_RR: Tensor = torch.linalg.cholesky(shifted_RR)
        return factor_RR

    def explained(split: str, factor_RR: Tensor) -> float:
        errors = deviations = 0.0
        for chunk, columns in enumerate(chunks):
            right_Rp = y("train", every, columns) if products else products_with_pixels(chunk)
            solved_Rp = torch.cholesky_solve(right_Rp, factor_RR)
            for rows in _slices(len(x.of(split)), max(solved_Rp.shape)):
                pixels_Bp = y(split, rows, columns)
                deviations += pixels_Bp.square().sum().item()
                x_BR = products[split][rows] if products else x(split, rows)
                errors += pixels_Bp.addmm_(x_BR, solved_Rp, alpha=-1).square_().sum().item()
        return 1 - errors / deviations if deviations else 0.0

    best, validation = PENALTIES[0], -math.inf
    for penalty in PENALTIES:
        if (reached := explained("validation", factor(penalty))) >= validation:
            best, validation = penalty, reached
    return {"validation": validation, "test": explained("test", factor(best)), "penalty": best}


class _Centred:
    """Parts of a matrix as float64: centred, and divided by one scale for all, by the training split.

    By a scale of its own a unit that is active on a single training image would explode on others.
    """

    def __init__(self, features: Features) -> None:
        found = Standardisation.of(features.train)
        self.features = features
        self.mean_F = found.mean_F.double()
        size = found.std_F.double().square().mean().sqrt().item()
        self.scale = 1 / size if size > 1e-6 else 0.0

    def of(self, split: str) -> Tensor:
        """Returns a split as it is kept."""
        kept: Tensor = getattr(self.features, split)
        return kept

    def __call__(self, split: str, rows: slice, columns: slice = slice(None)) -> Tensor:
        """Returns some rows and columns of a split."""
        part = self.of(split)[rows, columns].to(torch.float64, copy=True)
        return part.sub_(self.mean_F[columns]).mul_(self.scale)


def _slices(length: int, width: int) -> list[slice]:
    """Returns slices of a length, of which each takes at most BYTES as rows of so many numbers of float64."""
    step = max(1, BYTES // (8 * width))
    return [slice(start, start + step) for start in range(0, length, step)]
