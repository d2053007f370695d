"""TorchScript: for libtorch and for torch without this project's code."""

from __future__ import annotations

import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ffexport.graph import DeployedModel

METADATA = "ffstudy.json"


@contextmanager
def _without_deprecation() -> Iterator[None]:
    """TorchScript works, and warns at every call that torch.export follows it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\..* is (deprecated|not supported)")
        yield


class TorchScriptFormat:
    """Writes and runs `model.ts`."""

    file_name = "model.ts"

    @staticmethod
    def write(model: DeployedModel, path: Path, metadata: Mapping[str, str]) -> None:
        """Traces the model; the metadata lie in the extra file `ffstudy.json`."""
        channels, height, width = model.backbone.config.shape
        example = torch.zeros(2, channels, height, width, dtype=torch.uint8)
        with _without_deprecation(), torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            traced = torch.jit.trace(model, (example,), check_trace=False)  # type: ignore[no-untyped-call]
            saved = Path(folder) / "model.ts"
            traced.save(str(saved), _extra_files={METADATA: json.dumps(dict(metadata), ensure_ascii=False)})
            _write_without_traces(saved, path)

    @staticmethod
    def load(path: Path) -> Callable[[npt.NDArray[np.uint8]], list[npt.NDArray[np.float32]]]:
        """Returns a function that runs the file on the CPU: images -> outputs, in order."""
        with _without_deprecation():
            module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]

        def run(images: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
            with torch.no_grad():
                return [output.numpy() for output in module(torch.from_numpy(images))]

        return run


def _write_without_traces(saved: Path, path: Path) -> None:
    """Writes a saved archive again without what differs from machine to machine.

    That is source positions (paths of the exporting machine) and the digest over them. The archive also embeds the
    name that it was saved under, so that name is always the same.
    """
    with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            if not entry.filename.endswith((".debug_pkl", "/.data/serialization_id")):
                target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))
