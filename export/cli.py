"""The command `ffexport`. Nothing heavy is imported before it runs, so that --help answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ffexport.registry import ATOL, FORMATS
from ffserve import console
from ffserve.console import Debug, Json

app = console.app("Export a run to deployable files.")


@app.command()
def export(
    run: Annotated[
        Path | None,
        typer.Argument(help="A run folder. [default: the newest under runs/]", show_default=False),
    ] = None,
    *,
    format: Annotated[
        list[str] | None, typer.Option(help=f"[{'|'.join(FORMATS)}|all]; may be given twice. [default: onnx]")
    ] = None,
    probe: Annotated[
        str | None,
        typer.Option(help="DATASET-SLOT/LAYERS, or none for the bare backbone. [default: the best on validation]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the files. [default: RUN/export]")] = None,
    atol: Annotated[
        float,
        typer.Option(help="Largest difference from the eager model, plus as much of an output's largest value."),
    ] = ATOL,
    json: Json = False,
    version: console.Version = False,
    debug: Debug = False,
) -> None:
    """Export a run's frozen backbone and probe to ONNX or TorchScript.

    Raw uint8 pixels go in, features, logits and probabilities come out; a file is put in place only when it computes
    what the eager model does. Beside it: manifest.json (digests, parity figures) and card.md.

    \b
    Examples:
      ffexport runs/ff-rot --format onnx
      ffexport runs/ff-rot --format all --probe mnist-neutral/layer2
      ffexport --format torchscript
    """
    from ffexport.export import export_run, newest_run

    if run is None:
        run = newest_run()
        print(f"exporting {run}, the newest run under runs/", file=sys.stderr)
    formats = format or ["onnx"]
    result = export_run(run, list(FORMATS) if "all" in formats else formats, probe=probe, out=out, atol=atol)
    if result["probe"] is None:
        print(f"{run} is exported without a probe: features alone, no classes", file=sys.stderr)
    rows = [
        [
            name,
            f"{f['bytes']:,}",
            f"{f['largest_difference']:.1e}",
            "" if f["same_class"] is None else f"{f['same_class']:.0%}",
            f["sha256"][:12],
        ]
        for name, f in result["files"].items()
    ]
    title = f"{result['out']}: {result['probe'] or 'no probe'}"
    columns = ["file", "bytes", "largest difference from eager", "same class", "sha256"]
    console.print_result(result, json, lambda _: console.print_table(title, columns, rows))


def main() -> None:
    """Runs the program."""
    console.run(app, "ffexport", extra="train")
