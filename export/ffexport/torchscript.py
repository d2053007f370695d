"""TorchScript: for libtorch and for torch without this project's code."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ffexport.archive import Annotated, rewrite
from ffexport.formats import Run, Settings, as_run, example
from ffexport.graph import DeployedModel


def checked(images: Tensor, shape: list[int]) -> Tensor:
    """Returns images that are uint8 [B, C, H, W] of a size, and raises for others: a traced model computes for any.

    It is scripted, and so becomes a part of the file.
    """
    takes = f"the model takes raw pixels, uint8 [batch, {shape[0]}, {shape[1]}, {shape[2]}]"
    if images.dtype != torch.uint8:
        raise ValueError(f"images are not uint8: {takes}")
    if images.dim() != 4 or list(images.shape[1:]) != shape:
        raise ValueError(f"images have shape {images.shape}: {takes}")
    return images


class Guarded(nn.Module):
    """A model that checks its images first."""

    def __init__(self, model: DeployedModel) -> None:
        super().__init__()
        self.model = model
        self.check: Callable[[Tensor, list[int]], Tensor] = torch.jit.script(checked)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the outputs of the model."""
        outputs: tuple[Tensor, ...] = self.model(self.check(images, list(self.model.backbone.config.shape)))
        return outputs


class TorchScriptFormat(Annotated):
    """`model.ts`. The metadata lie in the extra file `ffstudy.json`."""

    def write(self, model: DeployedModel, path: Path, settings: Settings) -> None:
        """Traces the model."""
        saved = io.BytesIO()  # on a full disk torch's own writer ends the process
        with _quiet(), _own_names(), torch.no_grad():
            traced = torch.jit.trace(Guarded(model).eval(), (example(model),), check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(traced, saved)
        rewrite(saved, path)

    @staticmethod
    def load(path: Path, *, threads: int | None = None) -> Run:
        """Returns a function that runs the file on the CPU, on as many threads as torch is set to."""
        with _quiet():
            return as_run(torch.jit.load(str(path), map_location="cpu"))  # type: ignore[no-untyped-call]


@contextmanager
def _quiet() -> Iterator[None]:
    """TorchScript works, and warns at every call that torch.export follows it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..* is (deprecated|not supported)")
        yield


@contextmanager
def _own_names() -> Iterator[None]:
    """Gives the types that are traced names as in a new process, where torch numbers them on through a process."""
    state: Any = import_module("torch.jit._state")
    recursive: Any = import_module("torch.jit._recursive")
    kept = state._python_cu, recursive._python_cu, recursive.concrete_type_store
    state._python_cu = recursive._python_cu = torch._C.CompilationUnit()
    recursive.concrete_type_store = recursive.ConcreteTypeStore()
    try:
        yield
    finally:
        state._python_cu, recursive._python_cu, recursive.concrete_type_store = kept
