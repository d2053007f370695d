"""The command `ffserve`. Nothing heavy is imported before a command runs, so that --help answers at once."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from ffserve import console
from ffserve.console import Debug, Json

app = console.app("Serve exported models with ONNX Runtime: no torch, no GPU needed.")

ModelOption = Annotated[
    Path | None,
    typer.Option(
        help="An .onnx file or a run folder. [env: FFSERVE_MODEL; default: the newest export under runs/]",
        show_default=False,
    ),
]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads. [default: all cores]", min=1, max=256, show_default=False)
]


@app.callback()
def _main(version: console.Version = False) -> None:
    pass


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="Image files.", show_default=False)],
    *,
    model: ModelOption = None,
    top_k: Annotated[int, typer.Option(help="Classes to show of each image.", min=1)] = 5,
    threads: Threads = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Classify image files.

    A file that cannot be read is reported, the others are classified, and the exit code is 1.

    \b
    Examples:
      ffserve predict image.png
      ffserve predict *.jpg --top-k 1 --json
      ffserve predict image.png --model runs/ff-rot
    """
    from ffserve.errors import ImageError
    from ffserve.predict import Classifier

    classifier = Classifier(model, threads=threads)
    found: list[dict[str, Any]] = []
    for image in images:
        try:
            prediction = classifier.predict([image], top_k=top_k)[0]
        except ImageError as error:
            if debug:
                traceback.print_exc()
            print(f"ffserve: error: {error}", file=sys.stderr)
            found.append({"file": str(image), "error": str(error)})
            continue
        top = [
            {"class": name, "probability": round(probability, 6)}
            for name, probability in zip(prediction.classes, prediction.probabilities, strict=True)
        ]
        found.append({"file": str(image), "top": top})
    result = {"model": str(classifier.model.path), "predictions": found}
    rows = [
        [f["file"] if i == 0 else "", entry["class"], f"{entry['probability']:.4f}"]
        for f in found
        for i, entry in enumerate(f.get("top", []))
    ]
    title = f"model {result['model']}"
    console.print_result(result, json, lambda _: console.print_table(title, ["file", "class", "probability"], rows))
    if any("error" in f for f in found):
        raise typer.Exit(1)


@app.command()
def info(
    model: Annotated[
        Path | None,
        typer.Argument(
            help="An .onnx file or a run folder. [env: FFSERVE_MODEL; default: the newest export under runs/]",
            show_default=False,
        ),
    ] = None,
    *,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what an exported model says of itself, after checking that it computes what it says.

    \b
    Examples:
      ffserve info runs/ff-rot/export/model.onnx
      ffserve info runs/ff-rot --json
    """
    from ffserve.session import Model, find_model

    loaded = Model(find_model(model))
    shown = {key: value for key, value in loaded.about.values.items() if key != "golden"}
    result = {"model": str(loaded.path), "bytes": loaded.path.stat().st_size, **shown}
    rows = [[key, _words(value)] for key, value in result.items()]
    console.print_result(result, json, lambda _: console.print_table(str(loaded.path), ["what", "value"], rows[1:]))


def _words(value: Any) -> str:
    """Returns a metadata value as a person reads it."""
    if isinstance(value, dict):
        return ", ".join(
            f"{key} {item:.4f}" if isinstance(item, float) else f"{key} {item}" for key, item in value.items()
        )
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def main() -> None:
    """Runs the program."""
    console.run(app, "ffserve", bare=("--help",))
