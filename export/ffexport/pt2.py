"""torch.export: TorchScript's successor, for torch without this project's code."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from ffexport.archive import Annotated, rewrite
from ffexport.formats import Run, Settings, as_run, example
from ffexport.graph import DeployedModel


class Pt2Format(Annotated):
    """`model.pt2`. The metadata lie in the extra file `ffstudy.json`."""

    def write(self, model: DeployedModel, path: Path, settings: Settings) -> None:
        """Exports the model, its batch free."""
        saved = io.BytesIO()  # on a full disk torch's own writer ends the process
        with torch.no_grad():
            shapes = {"images": {0: torch.export.Dim("batch")}}
            program = torch.export.export(model, (example(model),), dynamic_shapes=shapes)
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # source positions: paths of this machine
            torch.export.save(program, saved)
        rewrite(saved, path)

    @staticmethod
    def load(path: Path, *, threads: int | None = None) -> Run:
        """Returns a function that runs the file on the CPU, on as many threads as torch is set to."""
        return as_run(torch.export.load(path).module())
