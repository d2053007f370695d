"""Whether an exported file computes what was trained: against the model in float64, on the cases that break exports.

Letters: N images of a case, B of a batch, W values of an output.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcore.errors import ExportError
from ffexport.formats import Runner
from ffexport.reference import REAL, Case, Values

Array = npt.NDArray[np.floating[Any]]
Rows = npt.NDArray[np.integer[Any]]
Found = dict[str, tuple[npt.NDArray[np.float32], Values]]

BATCHES = (1, 7, 256)
# How many times as far from float64 as float32 is seen to be an exact file may be (docs/benchmarks.md: half of
# it was seen).
FACTOR = 4


def check_exact(names: list[str], run: Runner, compared: list[Case], atol: float) -> dict[str, Any]:
    """Holds a file that shall compute the model's numbers to each image of every case and batch.

    Args:
        names: of the outputs, in order.
        run: the exported file as a function.
        compared: the cases.
        atol: how far an output may be from the model in float64, and as much of the image's largest value, beside
            FACTOR times as far as float32 may be there.

    Returns:
        case -> batch -> what `_figures` says.

    Raises:
        ExportError: where a value is not finite, a shape differs, or a difference is larger.
    """
    figures: dict[str, Any] = {}
    for case, at_B, found in _outputs(names, run, compared):
        for (name, (got, want)), size_N, spread_N in zip(found.items(), case.size, case.spread, strict=True):
            away_B = np.abs(got - want).max(-1)
            allowed_B = atol * (1 + size_N[at_B]) + FACTOR * spread_N[at_B]
            over_B = ~(away_B <= allowed_B)  # also where it is not a number
            if over_B.any():
                raise ExportError(
                    f"output {name} differs by {away_B[over_B].max():.3g} from the model in float64 on "
                    f"{_where(case, at_B)}, more than float32's rounding and --atol {atol:g} allow: nothing was written"
                )
        figures.setdefault(case.name, {})[str(len(at_B))] = _figures(case, at_B, found)
    return figures


def check_near(names: list[str], run: Runner, compared: list[Case], limit: float) -> dict[str, Any]:
    """Holds the features of a file of lower precision on the real images together, and all it gives to be finite.

    What one image loses is luck, or one that nobody takes (noise, black, white), and so are logits, where a weight of a
    unit that is hardly ever active is ten thousand times another: bounds there refused good files. What becomes of the
    classes is for validation images to tell.

    Args:
        names: of the outputs, in order.
        run: the exported file as a function.
        compared: the cases.
        limit: the largest error of the features, as a share of their size: norms over the largest batch.

    Returns:
        case -> batch -> what `_figures` says.

    Raises:
        ExportError: where a value is not finite, a shape differs, or an error is larger.
    """
    figures: dict[str, Any] = {}
    for case, at_B, found in _outputs(names, run, compared):
        for name, (got, _) in found.items():
            if not np.isfinite(got).all():
                raise ExportError(
                    f"output {name} is not finite on {_where(case, at_B)}: nothing was written; use --precision fp32"
                )
        error = relative_error(*found["features"])
        if case.name == REAL and len(at_B) == max(BATCHES) and error > limit:
            raise ExportError(
                f"output features differs by {error:.3g} of its size from the model on {_where(case, at_B)}, "
                f"more than --atol {limit:g} allows: nothing was written; use --precision fp32"
            )
        figures.setdefault(case.name, {})[str(len(at_B))] = _figures(case, at_B, found)
    return figures


def relative_error(got: Array, want: Array) -> float:
    """Returns the norm of the difference as a share of the norm of what is wanted; the former where the latter is 0."""
    size, error = (float(np.linalg.norm(values.astype(np.float64))) for values in (want, got - want))
    return error / size if size else error


def rounded(value: float) -> float:
    """Returns a figure with the digits that are the same however the sums were added."""
    return float(f"{value:.4g}")


def _outputs(names: list[str], run: Runner, compared: list[Case]) -> Iterator[tuple[Case, Rows, Found]]:
    """Yields each case, the indices of its images in a batch, and by output what the file gives and the exact values.

    Raises ExportError where an output has another type or shape.
    """
    for case in compared:
        for size in BATCHES:
            at_B = np.resize(np.arange(len(case.images)), size)
            found: Found = {}
            for name, got, exact in zip(names, run(case.images[at_B]), case.exact, strict=True):
                want = exact[at_B]
                if got.shape != want.shape or got.dtype != np.float32:
                    raise ExportError(
                        f"output {name} is {got.dtype} {got.shape} on {_where(case, at_B)}, "
                        f"the model gives float32 {want.shape}: nothing was written"
                    )
                found[name] = got, want
            yield case, at_B, found


def _where(case: Case, at_B: Rows) -> str:
    return f"{len(at_B)} {case.name} images"


def _figures(case: Case, at_B: Rows, found: Found) -> dict[str, float]:
    """Returns what is recorded of a batch.

    Returns:
        {"largest_difference": of any output from the model in float64; "float32_difference": that of the eager model
        in float32; "relative_error": the largest of an output, norms over the batch; and with classes "same_class": the
        share of images whose most probable class is the model's}.
    """
    figures = {
        "largest_difference": rounded(max(float(np.abs(got - want).max()) for got, want in found.values())),
        "float32_difference": rounded(max(float(eager_N[at_B].max()) for eager_N in case.eager)),
        "relative_error": rounded(max(relative_error(got, want) for got, want in found.values())),
    }
    if "logits" in found:
        got, want = found["logits"]
        figures["same_class"] = float((got.argmax(-1) == want.argmax(-1)).mean())
    return figures
