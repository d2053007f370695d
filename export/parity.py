"""Whether an exported file computes what was trained: against the eager model, on the cases that break exports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ffcore.errors import ExportError
from ffexport.formats import Images, Outputs, Run
from ffexport.graph import DeployedModel

Array = npt.NDArray[np.floating[Any]]

BATCHES = (1, 7, 256)
REAL = "real"
# How much more of an error lower precisions may have on images that nobody takes: noise, black, white.
FAR = 5


@dataclass(frozen=True)
class Case:
    """Images of one kind in several batches, and what the eager model gives for them.

    Args:
        name: what the images are.
        batches: (uint8 [B, C, H, W], the eager model's outputs), in the order of `BATCHES`.
    """

    name: str
    batches: list[tuple[Images, Outputs]]


def cases(shape: tuple[int, int, int], real: Images) -> dict[str, Images]:
    """Returns what is compared: real, random, all-black and all-white images, uint8 [N, C, H, W] each."""
    return {
        REAL: real,
        "random": np.random.default_rng(0).integers(0, 256, size=(max(BATCHES), *shape), dtype=np.uint8),
        "black": np.zeros((1, *shape), dtype=np.uint8),
        "white": np.full((1, *shape), 255, dtype=np.uint8),
    }


def eager(model: DeployedModel, images: Mapping[str, Images]) -> list[Case]:
    """Runs the eager model on every case, repeated to batches of 1, 7 and 256."""
    found = []
    for name, given in images.items():
        batches = [np.resize(given, (size, *given.shape[1:])) for size in BATCHES]
        found.append(Case(name, [(batch, run_eager(model, batch)) for batch in batches]))
    return found


def run_eager(model: DeployedModel, images: Images) -> Outputs:
    """Returns what the eager model gives for images uint8 [B, C, H, W]."""
    with torch.no_grad():
        return [output.numpy() for output in model(torch.from_numpy(images))]


def check_parity(names: list[str], run: Run, compared: list[Case], atol: float, *, exact: bool) -> dict[str, Any]:
    """Compares every output of every case and batch.

    Args:
        names: of the outputs, in order.
        run: the exported file as a function.
        compared: the cases.
        atol: of an exact file, the largest difference of any output allowed, plus as much of the output's largest
            value. Of another, the largest error of the features and the logits allowed on real images, as a share of
            their size (of the norms over a batch); the features of other images may be FAR times as wrong.
        exact: whether the file shall compute the same numbers.

    Returns:
        case -> batch -> {"largest_difference": of any output; "relative_error": the largest of an output, norms over
        the batch; and with classes "same_class": the share of images whose most probable class is the eager model's}.

    Raises:
        ExportError: where a value is not finite, a shape differs, or a difference is larger.
    """
    figures: dict[str, Any] = {}
    for case in compared:
        for images, expected in case.batches:
            found = dict(zip(names, zip(run(images), expected, strict=True), strict=True))
            where = f"{len(images)} {case.name} images"
            for name, (got, want) in found.items():
                if got.shape != want.shape or got.dtype != want.dtype:
                    raise ExportError(
                        f"output {name} is {got.dtype} {got.shape} on {where}, eager gives {want.dtype} {want.shape}"
                    )
                difference, allowed = (_largest if exact else relative_error)(got, want), atol
                if exact:
                    allowed *= 1 + float(np.abs(want).max(initial=0.0))
                elif name == "probabilities" or (name == "logits" and case.name != REAL):
                    allowed = np.inf
                elif case.name != REAL:
                    allowed *= FAR
                if not (difference <= allowed and np.isfinite(got).all()):  # also where it is not a number
                    share = "" if exact else " of its size"
                    raise ExportError(
                        f"output {name} differs by {difference:.3g}{share} from the eager model on {where}, "
                        f"more than --atol {atol:g} allows: nothing was written"
                    )
            figures.setdefault(case.name, {})[str(len(images))] = _figures(found)
    return figures


def relative_error(got: Array, want: Array) -> float:
    """Returns the norm of the difference as a share of the norm of what is wanted; the former where the latter is 0."""
    size, error = (float(np.linalg.norm(values.astype(np.float64))) for values in (want, got - want))
    return error / size if size else error


def rounded(value: float) -> float:
    """Returns a figure with the digits that are the same however the sums were added."""
    return float(f"{value:.4g}")


def _largest(got: Array, want: Array) -> float:
    return float(np.abs(got - want).max(initial=0.0))


def _figures(found: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
    figures = {
        "largest_difference": rounded(max(_largest(got, want) for got, want in found.values())),
        "relative_error": rounded(max(relative_error(got, want) for got, want in found.values())),
    }
    if "logits" in found:
        got, want = found["logits"]
        figures["same_class"] = float((got.argmax(-1) == want.argmax(-1)).mean())
    return figures
