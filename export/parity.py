"""Whether an exported file computes what was trained: against the eager model, on the cases that break exports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ffexport.graph import DeployedModel
from ffmodels.errors import ExportError

Run = Callable[[npt.NDArray[np.uint8]], list[npt.NDArray[np.float32]]]


def cases(shape: tuple[int, int, int], samples: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.uint8]]:
    """Returns batches uint8 [B, C, H, W]: random, all black, all white, real, and one image alone."""
    random = np.random.default_rng(0).integers(0, 256, size=(7, *shape), dtype=np.uint8)
    return {
        "random": random,
        "one": random[:1],
        "black": np.zeros((2, *shape), dtype=np.uint8),
        "white": np.full((2, *shape), 255, dtype=np.uint8),
        "samples": samples,
    }


def check_parity(
    model: DeployedModel, run: Run, batches: dict[str, npt.NDArray[np.uint8]], atol: float
) -> dict[str, Any]:
    """Compares every output of every case.

    Args:
        model: the eager model.
        run: the exported file as a function.
        batches: name -> uint8 [B, C, H, W].
        atol: the largest difference allowed, plus as much relative to the largest value of an output.

    Returns:
        name -> {"largest_difference": of any output, "images": B, and with a probe "same_class": the share of images
        whose most probable class is the eager model's, 0 to 1}.

    Raises:
        ExportError: where a value is not finite, a shape differs, or a difference is larger.
    """
    figures = {}
    for case, images in batches.items():
        with torch.no_grad():
            expected = [output.numpy() for output in model(torch.from_numpy(images))]
        largest, same_class = 0.0, {}
        for name, want, got in zip(model.output_names, expected, run(images), strict=True):
            if got.shape != want.shape or got.dtype != want.dtype:
                raise ExportError(
                    f"output {name} is {got.dtype} {got.shape} on {case} images, eager gives {want.shape}"
                )
            difference = float(np.abs(got - want).max(initial=0.0))
            if not difference <= atol * (1 + float(np.abs(want).max(initial=0.0))):  # also where it is not a number
                raise ExportError(
                    f"output {name} differs by {difference:.3g} from the eager model on {case} images, "
                    f"more than --atol {atol:g} allows: nothing was written"
                )
            largest = max(largest, difference)
            if name == "logits":
                same_class = {"same_class": float((got.argmax(-1) == want.argmax(-1)).mean())}
        figures[case] = {"largest_difference": largest, "images": len(images), **same_class}
    return figures
