"""What a file is held against: the model in float64, and how well float32 can know it, image by image.

Float32 does not know all images alike. Where a single unit of a block is barely active, normalising multiplies what
its sum has lost by up to 1 / EPS, and the eager model itself lies far from its own float64; how far, on one processor,
hangs on one rounding. So the model also runs with weights that are moved as much as sums lose, several times, and the
largest difference counts.

Letters: N images, C channels, H W pixels, W values of an output.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ffexport.formats import Images, outputs_of
from ffexport.graph import DeployedModel
from ffmodels.backbones.base import Shape

Values = npt.NDArray[np.float64]

REAL = "real"
NOISE = 64
# One pixel of 1 among so many: an RMS below the floor of normalisation, which hides the pixels' scale in other images.
SPARSE = (16, 64, 256)
COPIES = 8
ROUNDING = 2.0**-24  # what a number in float32 is off by at most, as a share of it


@dataclass(frozen=True, kw_only=True)
class Case:
    """Images of one kind, and what a model gives for them.

    Args:
        name: what the images are.
        images: uint8 [N, C, H, W], N at least 1.
        exact: each output in float64, [N, W].
        eager: how far the model in float32 is from that: of each output the largest difference an image, [N].
        spread: how far float32 may be from it, on one processor or another; likewise.
    """

    name: str
    images: Images
    exact: list[Values]
    eager: list[Values]
    spread: list[Values]

    @cached_property
    def size(self) -> list[Values]:
        """The largest value of each output an image, [N]."""
        return [*map(largest, self.exact)]

    @property
    def best_known(self) -> int:
        """The index of the image that float32 knows best, beside its largest value; one without any tells nothing."""
        shares = [
            np.divide(spread_N, size_N, out=np.full_like(size_N, np.inf), where=size_N > 0)
            for spread_N, size_N in zip(self.spread, self.size, strict=True)
        ]
        return int(np.max(shares, axis=0).argmin())


def cases(shape: Shape, real: Images) -> dict[str, Images]:
    """Returns what is compared: real, random, all-black, all-white and faint images, uint8 [N, C, H, W] each."""
    faint = np.zeros((len(SPARSE), math.prod(shape)), dtype=np.uint8)
    for pixels, among in zip(faint, SPARSE, strict=True):
        pixels[::-among] = 1  # from the last: the first may carry a label instead
    return {
        REAL: real,
        "random": np.random.default_rng(0).integers(0, 256, size=(NOISE, *shape), dtype=np.uint8),
        "black": np.zeros((1, *shape), dtype=np.uint8),
        "white": np.full((1, *shape), 255, dtype=np.uint8),
        "faint": faint.reshape(-1, *shape),
    }


def references(model: DeployedModel, images: Mapping[str, Images], *, copies: int = COPIES) -> list[Case]:
    """Returns what a model gives for images of several kinds: in float64, and how well float32 knows that.

    Args:
        model: float32, or with weights in half; on the CPU.
        images: name -> uint8 [N, C, H, W].
        copies: how many runs with moved weights the spread is over.
    """
    stacked = np.concatenate([*images.values()])
    exact = [output.astype(np.float64) for output in outputs_of(copy.deepcopy(model).double(), stacked)]
    eager = _differences(model, stacked, exact)
    moved = [_differences(_moved(model, seed), stacked, exact) for seed in range(copies)]
    spread = [np.max(each, axis=0) for each in zip(eager, *moved, strict=True)]
    ends = np.cumsum([len(given) for given in images.values()])[:-1]

    def parts(values: Iterable[Values]) -> list[list[Values]]:
        return [list(part) for part in zip(*(np.split(each, ends) for each in values), strict=True)]

    return [
        Case(name=name, images=given, exact=exact_NW, eager=eager_N, spread=spread_N)
        for (name, given), exact_NW, eager_N, spread_N in zip(
            images.items(), parts(exact), parts(eager), parts(spread), strict=True
        )
    ]


def largest(values_NW: npt.NDArray[np.floating[Any]]) -> Values:
    """Returns the largest value of each image, whatever its sign, [N]."""
    return np.asarray(np.abs(values_NW).max(-1, initial=0.0), dtype=np.float64)


def _differences(model: DeployedModel, images: Images, exact: list[Values]) -> list[Values]:
    """Returns how far a model is from the exact outputs: of each output the largest difference an image, [N]."""
    return [largest(got - want) for got, want in zip(outputs_of(model, images), exact, strict=True)]


def _moved(model: DeployedModel, seed: int) -> DeployedModel:
    """Returns a copy with weights moved as much as sums in float32 lose: by chance, as the root of how many terms."""
    moved, rng = copy.deepcopy(model).float(), torch.Generator().manual_seed(seed)  # half would not move
    with torch.no_grad():
        for weight in moved.parameters():
            terms = weight[0].numel() if weight.ndim > 1 else 1
            weight.mul_(1 + ROUNDING * math.sqrt(terms) * torch.randn(weight.shape, generator=rng))
    return moved
