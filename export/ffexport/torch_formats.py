"""TorchScript, for libtorch, and its successor torch.export: for torch without this project's code.

Both are zip archives, which are written without a trace of the machine that wrote them.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from ffcore.errors import RunError
from ffexport.formats import Runner, Settings, as_run, example
from ffexport.graph import DeployedModel

# The folder in which everything of an archive lies, and the file with what is said of it.
ROOT, METADATA = "model", "ffstudy.json"

# Source positions (paths of the exporting machine), and the digest over all of them.
TRACES = (".debug_pkl", ".data/serialization_id")


class Archive:
    """A format whose metadata lie in the archive's extra file `ffstudy.json`."""

    @staticmethod
    def annotate(path: Path, metadata: Mapping[str, str]) -> None:
        """Writes the extra file."""
        rewrite(path, path, {METADATA: json.dumps(dict(metadata), ensure_ascii=False)})

    @staticmethod
    def metadata(path: Path) -> dict[str, str]:
        """Reads the extra file. Raises RunError where there is none."""
        try:
            with zipfile.ZipFile(path) as opened:
                name = next(name for name in opened.namelist() if name.endswith(f"/extra/{METADATA}"))
                found: dict[str, str] = json.loads(opened.read(name))
                return found
        except (OSError, ValueError, StopIteration, zipfile.BadZipFile) as error:
            raise RunError(f"{path} is damaged, or of another program: export it again with `ffexport`") from error


class TorchScriptFormat(Archive):
    """`model.ts`: a traced model behind a scripted guard."""

    def write(self, model: DeployedModel, path: Path, settings: Settings) -> None:
        """Traces the model."""
        saved = io.BytesIO()  # on a full disk torch's own writer ends the process
        with _quiet(), _own_names(), torch.no_grad():
            traced = torch.jit.trace(Guarded(model).eval(), (example(model),), check_trace=False)  # type: ignore[no-untyped-call]
            torch.jit.save(traced, saved)
        rewrite(saved, path)

    @staticmethod
    def load(path: Path, *, threads: int | None = None) -> Runner:
        """Returns a function that runs the file on the CPU, on as many threads as torch is set to."""
        with _quiet():
            return as_run(torch.jit.load(str(path), map_location="cpu"))  # type: ignore[no-untyped-call]


class Pt2Format(Archive):
    """`model.pt2`."""

    def write(self, model: DeployedModel, path: Path, settings: Settings) -> None:
        """Exports the model, its batch free."""
        saved = io.BytesIO()
        with torch.no_grad():
            shapes = {"images": {0: torch.export.Dim("batch")}}
            program = torch.export.export(model, (example(model),), dynamic_shapes=shapes)
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # source positions: paths of this machine
            torch.export.save(program, saved)
        rewrite(saved, path)

    @staticmethod
    def load(path: Path, *, threads: int | None = None) -> Runner:
        """Returns a function that runs the file on the CPU, on as many threads as torch is set to."""
        return as_run(torch.export.load(path).module())


def rewrite(source: Path | BinaryIO, target: Path, extra: Mapping[str, str] | None = None) -> None:
    """Writes an archive again: without traces and dates, in a folder of one name, with extra files in place of others.

    Args:
        source: an archive as torch saves it: a file, or its bytes.
        target: the file to write, which may be the same one.
        extra: names -> texts, which torch gives back as extra files.
    """
    with zipfile.ZipFile(source) as opened:
        content = {entry.filename.partition("/")[2]: opened.read(entry) for entry in opened.infolist()}
    content |= {f"extra/{name}": text.encode() for name, text in (extra or {}).items()}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as written:
        for name, data in content.items():
            if not name.endswith(TRACES):
                written.writestr(zipfile.ZipInfo(f"{ROOT}/{name}"), data)


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
        outputs: tuple[Tensor, ...] = self.model(self.check(images, list(self.model.shape)))
        return outputs


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
