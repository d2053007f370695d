"""The command `ffexport`. Nothing heavy is imported before it runs, so that --help answers at once."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ffcore.errors import UsageError
from ffcore.plugins import trust
from ffexport.registry import FORMATS, OPSET, PRECISIONS, SCHEMES, TRITON
from ffserve import console
from ffserve.console import Debug, Json
from ffserve.metadata import HEADS

app = console.app("Export a run to deployable files.")


def trusted(names: list[str] | None) -> None:
    """Lets code outside the package be run that a person named."""
    for name in names or ():
        trust(name)


Trust = Annotated[
    list[str] | None,
    typer.Option("--trust-plugin", metavar="NAME", help="Run this code outside the package.", show_default=False),
]
TOLERANCES = ", ".join(f"{name} {atol:g}" for name, atol in PRECISIONS.items())


@app.command()
def export(
    run: Annotated[
        Path | None,
        typer.Argument(help="A run folder. [default: the newest under runs/]", show_default=False),
    ] = None,
    *,
    format: Annotated[
        list[str] | None,
        typer.Option(
            help=f"[{'|'.join(FORMATS)}|{TRITON}|all]; may be given twice. {TRITON} makes OUT/triton, a model "
            "repository for NVIDIA Triton. [default: onnx]"
        ),
    ] = None,
    precision: Annotated[str, typer.Option(help=f"[{'|'.join(PRECISIONS)}]; int8 for onnx alone.")] = "fp32",
    head: Annotated[
        str | None,
        typer.Option(help=f"[{'|'.join(HEADS)}] [default: probe, or none where the run has no probe]"),
    ] = None,
    probe: Annotated[
        str | None,
        typer.Option(help="DATASET-READING/BLOCKS. [default: the best on validation]"),
    ] = None,
    int8: Annotated[
        str,
        typer.Option(help=f"[auto|{'|'.join(SCHEMES)}]: how int8 scales; auto measures on validation images."),
    ] = "auto",
    images: Annotated[
        Path | None,
        typer.Option(
            help="Class folders of validation images, for fp16 and int8. [default: the run's 64]", show_default=False
        ),
    ] = None,
    ink: Annotated[
        bool | None,
        typer.Option(
            "--ink/--no-ink",
            help="Whether the run's images are drawings, whose ink ffserve takes off any ground and places alike. "
            "[default: as they look]",
            show_default=False,
        ),
    ] = None,
    opset: Annotated[int, typer.Option(help="Of ONNX.")] = OPSET,
    atol: Annotated[
        float | None,
        typer.Option(
            help="fp32: largest difference from the model in float64, plus as much of its largest value, beside "
            "float32's own rounding. fp16, int8: largest error of the features as a share of their size. "
            f"[default: {TOLERANCES}]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the files. [default: RUN/export]")] = None,
    license: Annotated[
        str | None,
        typer.Option(
            help="Of the weights, for the card, as the Hugging Face Hub calls it: mit, cc-by-4.0; other:NAME where its "
            "list has none.",
            show_default=False,
        ),
    ] = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="Upload the files, the card, and the run's weights and settings to this repository of the Hugging "
            "Face Hub.",
            show_default=False,
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="A repository that is new on the Hub is for its owner alone.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch of the repository. [default: main]", show_default=False)
    ] = None,
    trust_plugin: Trust = None,
    json: Json = False,
    version: console.Version = False,
    debug: Debug = False,
) -> None:
    """Export a run's frozen backbone with a head: to ONNX, TorchScript, or torch.export's pt2.

    Raw uint8 pixels go in, features, logits and probabilities come out; a file is put in place only when it computes
    what was trained, as nearly as float32 can. Beside it: manifest.json (digests, parity figures) and card.md.

    The head is a linear probe, the readout (what the method itself tells apart), or none. fp16 and int8 come near what
    was trained, and are measured on validation images: more of them say more (--images).

    `ffexport bench` times a file or a run folder: `ffexport bench --help`.

    \b
    Examples:
      ffexport runs/ff-rot --format onnx
      ffexport runs/ff-rot --format all --probe mnist-neutral/block2
      ffexport runs/ff-rot --precision int8 --images mnist-validation
      ffexport runs/ff-supervised --head readout
      ffexport runs/ff-rot --format triton
      ffexport runs/ff-rot --push-to-hub me/ff-rot --private
    """
    if push_to_hub is None and (private or revision is not None):
        raise UsageError(f"{'--private' if private else '--revision'} is of --push-to-hub: name a repository with that")
    from ffexport.export import export_run, newest_run
    from ffexport.hub import check_push, push

    trusted(trust_plugin)
    if push_to_hub is not None:
        check_push(push_to_hub)
    if run is None:
        run = newest_run()
        print(f"exporting {run}, the newest run under runs/", file=sys.stderr)
    result = export_run(
        run,
        format or ["onnx"],
        precision=precision,
        head=head,
        probe=probe,
        int8=int8,
        images=images,
        ink=ink,
        opset=opset,
        atol=atol,
        license=license,
        out=out,
    )
    files = {name: result["files"][name] for name in result["written"]}
    if head is None and next(iter(files.values()))["head"] == "none":
        print(f"{run} is exported without a probe: features alone, no classes", file=sys.stderr)
    if push_to_hub is not None:
        result["hub"] = push(run, result["out"], push_to_hub, private=private, revision=revision)
    console.print_result(result, json, lambda _: _print(result, files))


def _print(result: dict[str, Any], files: dict[str, dict[str, Any]]) -> None:
    """Prints what was written."""
    first = next(iter(files.values()))
    rows = [{"file": name, **_row(about)} for name, about in files.items()]
    on = f"; {first['validation']['images']:,} validation images" if first["validation"] else ""
    read = f"{first['features']['blocks']} of {result['blocks']}"
    title = f"{result['out']}: {first['probe'] or 'no probe'}, {read}{on}"
    console.print_records(title, rows)
    if result["triton"]:
        console.put(f"{result['triton']}: for tritonserver --model-repository {Path(result['triton']).parent}\n")
    if "hub" in result:
        console.put(f"{result['hub']}\n")


def _row(about: dict[str, Any]) -> dict[str, str]:
    """Returns what is shown of a file. Differences are the largest over all that it was held against."""
    figures = about["validation"] or {}
    shares = {
        "same class": figures.get("same_class", about["same_class"]),
        "accuracy": figures.get("accuracy"),
        "accuracy of fp32": figures.get("accuracy_fp32"),
    }
    return {
        "bytes": f"{about['bytes']:,}",
        "difference from float64": f"{about['largest_difference']:.1e}",
        "that of float32": f"{about['float32_difference']:.1e}",
        "of its size": f"{about['relative_error']:.1e}",
        **{name: "" if share is None else f"{share:.2%}" for name, share in shares.items()},
        "sha256": about["sha256"][:12],
    }


def main() -> None:
    """Runs the program. A run folder called `bench` is named `./bench`."""
    if sys.argv[1:2] == ["bench"]:
        from ffexport.bench import app as bench

        del sys.argv[1]
        console.run(bench, "ffexport bench", extra="train")
    # As `fftrain` does: spinning threads stop each other on a machine that does other work too.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    console.run(app, "ffexport", extra="train")
