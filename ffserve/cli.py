"""The command `ffserve`. Nothing heavy is imported before a command runs, so that --help answers at once."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from ffserve import compare_cli, console, http_cli, measure_cli, notes
from ffserve.console import Debug, Json
from ffserve.options import (
    BATCH_SIZE,
    MAX_PIXELS,
    Address,
    Answers,
    BatchSize,
    Device,
    DeviceName,
    Engine,
    EngineCpus,
    EngineName,
    FilesFrom,
    ImageColumn,
    ImagesArgument,
    Invert,
    InvertName,
    MaxPixels,
    ModelArgument,
    ModelOption,
    PartImages,
    Place,
    PlaceName,
    ProviderOption,
    Sessions,
    Threads,
    images_named,
    model_named,
    of_ray,
    provider_options,
)

app = console.app("Serve exported models with ONNX Runtime: no torch, no GPU needed.")


@app.callback()
def _main(version: console.Version = False) -> None:
    pass


@app.command()
def predict(
    images: ImagesArgument = None,
    *,
    files_from: FilesFrom = None,
    model: ModelOption = None,
    top_k: Annotated[int, typer.Option(help="Classes to show of each image.", min=1)] = 5,
    invert: Invert = InvertName.auto,
    place: Place = PlaceName.auto,
    batch_size: BatchSize = BATCH_SIZE,
    device: Device = DeviceName.auto,
    threads: Threads = None,
    provider_option: ProviderOption = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    json: Json = False,
    jsonl: Annotated[bool, typer.Option("--jsonl", help="Print a line of JSON for each image, as it is done.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="Print a row of CSV for each image, as it is done.")] = False,
    out: Answers = None,
    engine: Engine = EngineName.plain,
    address: Address = None,
    engine_cpus: EngineCpus = None,
    sessions: Sessions = None,
    part_images: PartImages = None,
    image_column: ImageColumn = None,
    debug: Debug = False,
) -> None:
    """Classify images.

    One that cannot be read is reported, the others are classified, and the exit code is 1. Memory does not grow with
    the number of images.

    \b
    Examples:
      ffserve predict image.png
      ffserve predict photos/ 'scans/**/*.tif' --top-k 1 --csv > classes.csv
      curl -s https://example.org/digit.png | ffserve predict - --json
      find scans -name '*.tif' -print0 | ffserve predict --files-from - --model runs/ff-rot
      ffserve predict 's3://bucket/photos/*.png' --engine ray --out predictions/
    """
    from ffcore.errors import UsageError
    from ffcore.folders import find
    from ffserve.account import Account
    from ffserve.output import writer
    from ffserve.predict import Classifier
    from ffserve.progress import progress

    ray = of_ray(
        engine,
        out=out,
        address=address,
        engine_cpus=engine_cpus,
        sessions=sessions,
        part_images=part_images,
        image_column=image_column,
    )
    named = images_named(images, files_from)
    account = Account(report=partial(notes.failed, debug=debug))
    if ray is not None:
        if jsonl or csv:
            raise UsageError("--engine ray writes Parquet files: leave --jsonl and --csv out")
        from ffserve.parts.command import Run

        Run(
            command="predict",
            out=out,
            model=model_named(model, threads, device, provider_option),
            ray=ray,
            account=account,
            threads=threads,
            provider_options=provider_options(provider_option),
            reading={"batch_size": batch_size, "invert": invert, "place": place, "max_pixels": max_pixels},
            top_k=top_k,
        ).write(named, json)
        return
    classifier = Classifier(model_named(model, threads, device, provider_option))
    printed = writer(classifier, top_k, as_json=json, as_jsonl=jsonl, as_csv=csv)
    batches = classifier.predict_batches(
        find(named, account.left_out),
        account,
        top_k=top_k,
        batch_size=batch_size,
        invert=invert,
        place=place,
        max_pixels=max_pixels,
        workers=threads,
        processes=not debug,  # which lose where an error came from
    )
    count = 0
    try:
        with progress("images", streamed=True) as advance:
            for batch in batches:
                printed.write(batch)
                count += len(batch)
                advance(len(batch))
        if not count:
            printed.write([])
            notes.note(f"--files-from {files_from} holds no names: no image was classified")
    finally:
        printed.close()
    notes.of_images(account, invert)
    if account.failed:
        raise typer.Exit(1)


def info(
    model: ModelArgument = None,
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

    loaded = Model(find_model(model), device="cpu")
    about = {key: value for key, value in loaded.about.values.items() if key != "golden"}
    result = {"model": str(loaded.path), "bytes": loaded.path.stat().st_size, **loaded.ends, **about}
    rows = [[key, _words(value)] for key, value in result.items()]
    console.print_result(result, json, lambda _: console.print_table(str(loaded.path), ["what", "value"], rows[1:]))


def _words(value: Any) -> str:
    """Returns a metadata value as a person reads it."""
    if isinstance(value, dict):
        return ", ".join(
            f"{key} {item:.4f}" if isinstance(item, float) else f"{key} {item}" for key, item in value.items()
        )
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


measure_cli.register(app)
compare_cli.register(app)
http_cli.register(app)
app.command()(info)
_ORDER = ("predict", "features", "evaluate", "compare", "http", "info", "doctor")  # in the help
app.registered_commands.sort(key=lambda command: _ORDER.index(getattr(command.callback, "__name__", "")))


def main() -> None:
    """Runs the program."""
    console.run(app, "ffserve", bare=("--help",))
