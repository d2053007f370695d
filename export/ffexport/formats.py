"""What a format is: the signature that every one of `ffexport.registry.FORMATS` has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ffexport.graph import DeployedModel

Images = npt.NDArray[np.uint8]
Outputs = list[npt.NDArray[np.float32]]
Runner = Callable[[Images], Outputs]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a file is written with.

    Args:
        opset: of ONNX.
        scheme: a name in `ffexport.registry.SCHEMES`, or None for a graph that is not quantised.
        calibration: uint8 [N, C, H, W], what ranges are measured on.
    """

    opset: int
    scheme: str | None = None
    calibration: Images | None = None


class Format(Protocol):
    """One kind of file. An object writes one model, and copies of it with other weights."""

    def write(self, model: DeployedModel, path: Path, settings: Settings) -> None:
        """Writes a model, evaluated on the CPU, as one file: the same bytes each time."""

    @staticmethod
    def annotate(path: Path, metadata: Mapping[str, str]) -> None:
        """Puts the metadata into a file that was written."""

    @staticmethod
    def metadata(path: Path) -> dict[str, str]:
        """Returns the metadata of a file. Raises RunError where it is no file that `ffexport` wrote."""

    @staticmethod
    def load(path: Path, *, threads: int | None = None) -> Runner:
        """Returns a function that runs the file on the CPU: images -> outputs, in order."""


def example(model: DeployedModel) -> Tensor:
    """Returns the images that a model is traced with, uint8 [2, C, H, W]."""
    return torch.zeros(2, *model.shape, dtype=torch.uint8)


def outputs_of(module: Callable[[Tensor], tuple[Tensor, ...]], images: Images) -> Outputs:
    """Returns what a torch module gives for images."""
    with torch.inference_mode():
        return [output.numpy() for output in module(torch.from_numpy(images))]


def as_run(module: Callable[[Tensor], tuple[Tensor, ...]]) -> Runner:
    """Returns a torch module as a function on arrays."""
    return partial(outputs_of, module)
