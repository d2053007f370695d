"""TorchScript: for libtorch and for torch without this project's code."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from ffexport.archive import Annotated, rewrite
from ffexport.formats import Run, Settings, as_run, example
from ffexport.graph import DeployedModel


class TorchScriptFormat(Annotated):
    """`model.ts`. The metadata lie in the extra file `ffstudy.json`."""

    def write(self, model: DeployedModel, path: Path, settings: Settings) -> None:
        """Traces the model."""
        saved = io.BytesIO()  # on a full disk torch's own writer ends the process
        with _quiet(), _own_names(), torch.no_grad():
            traced = torch.jit.trace(model, (example(model),), check_trace=False)  # type: ignore[no-untyped-call]
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
