"""The commands `ffserve features` and `ffserve evaluate`. Nothing heavy is imported before one runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ffserve import console, doctor_cli, notes
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

if TYPE_CHECKING:
    from ffserve.evaluate import Evaluation
    from ffserve.stream import Batch
    from ffserve.transfer import Transfer


def register(app: typer.Typer) -> None:
    """Adds the commands to an app, and `doctor`."""
    app.command()(features)
    app.command()(evaluate)
    doctor_cli.register(app)


def features(
    images: ImagesArgument = None,
    *,
    out: Annotated[
        str,
        typer.Option(
            help="The file to write: .npz, or .parquet; with --engine ray a folder, or its URL.", show_default=False
        ),
    ],
    files_from: FilesFrom = None,
    model: ModelOption = None,
    invert: Invert = InvertName.auto,
    place: Place = PlaceName.auto,
    batch_size: BatchSize = BATCH_SIZE,
    threads: Threads = None,
    device: Device = DeviceName.auto,
    provider_option: ProviderOption = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    engine: Engine = EngineName.plain,
    address: Address = None,
    engine_cpus: EngineCpus = None,
    sessions: Sessions = None,
    part_images: PartImages = None,
    image_column: ImageColumn = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the features of images to a file.

    It holds `names`, `folders` (the folder of each file, its class in a tree of class folders) and `features`, float32,
    in the order of the images. Memory does not grow with their number. The file appears when it is whole, in place of
    one of that name. An image that cannot be read is reported and left out, and the exit code is 1.

    Names that are not UTF-8 are kept in .npz (os.fsencode gives their bytes) and escaped as \\xNN in .parquet.

    \b
    Examples:
      ffserve features photos/ --out photos.npz
      ffserve features 'scans/**/*.tif' --out scans.parquet --model runs/ff-rot --batch-size 256
      ffserve features s3://bucket/photos/ --engine ray --out s3://bucket/features/
    """
    from ffcore.folders import find
    from ffserve.account import Account
    from ffserve.features import check_out, write_features
    from ffserve.stream import stream

    ray = of_ray(
        engine,
        address=address,
        engine_cpus=engine_cpus,
        sessions=sessions,
        part_images=part_images,
        image_column=image_column,
    )
    if ray is None:
        check_out(Path(out))
    named = images_named(images, files_from)
    loaded = model_named(model, threads, device, provider_option)
    account = Account(report=partial(notes.failed, debug=debug))
    if ray is not None:
        from ffserve.parts.command import Run

        Run(
            command="features",
            out=out,
            model=loaded,
            ray=ray,
            account=account,
            threads=threads,
            provider_options=provider_options(provider_option),
            reading={"batch_size": batch_size, "invert": invert, "place": place, "max_pixels": max_pixels},
        ).write(named, json)
        return
    batches = stream(
        loaded,
        find(named, account.left_out),
        batch_size=batch_size,
        invert=invert,
        place=place,
        max_pixels=max_pixels,
        workers=threads,
        processes=not debug,  # which lose where an error came from
    )
    written = write_features(_track(batches), Path(out), account)
    notes.of_images(account, invert)
    result = {
        "model": str(loaded.path),
        "device": loaded.device,
        "out": out,
        "images": written.images,
        "features": written.features,
        **account.to_dict(),
    }
    row = [out, f"{written.images:,}", f"{written.features:,}"]
    console.print_result(
        result, json, lambda _: console.print_table(f"model {loaded.path}", ["file", "images", "features"], [row])
    )
    if account.failed:
        raise typer.Exit(1)


def evaluate(
    folder: Annotated[
        str | None, typer.Argument(help="A folder with a folder of images for each class.", show_default=False)
    ] = None,
    *,
    train: Annotated[
        Path | None,
        typer.Option(help="Such a folder: fit a linear classifier on its features, with --test.", show_default=False),
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="Such a folder: what the classifier is tested on.", show_default=False)
    ] = None,
    model: ModelOption = None,
    picture: Annotated[
        Path | None, typer.Option(help="Draw the confusion matrix: .png, .svg or .pdf.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="With --train: draws the images that are held out.", min=0)] = 0,
    invert: Annotated[
        InvertName | None,
        typer.Option(
            help="Turn images into their negatives, as predict does. [default: auto; with --train: no]",
            show_default=False,
        ),
    ] = None,
    place: Annotated[
        PlaceName | None,
        typer.Option(help="Place ink, as predict does. [default: auto; with --train: no]", show_default=False),
    ] = None,
    batch_size: BatchSize = BATCH_SIZE,
    threads: Threads = None,
    device: Device = DeviceName.auto,
    provider_option: ProviderOption = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    out: Answers = None,
    engine: Engine = EngineName.plain,
    address: Address = None,
    engine_cpus: EngineCpus = None,
    sessions: Sessions = None,
    part_images: PartImages = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a model on folders of classes: accuracy, calibration, each class, confusion matrix.

    With --train and --test, what its features are worth for any classes: logistic regression on the features of one
    tree, tested on the other, beside the same on raw pixels. A tenth of --train (at most 5000 images) is held out and
    chooses its settings; both trees' features are held in memory. A model without classes will do.

    `fftrain dump-images DATASET DIR` makes such folders. Those that are no class of the model are passed over, which
    is said, as are classes without a folder. An image that cannot be read is reported and in no figure, and the exit
    code is 1. The interval is Wilson's, 95%. The calibration error is expected |accuracy - confidence| over 15 equally
    wide bins of confidence, the largest probability; --json has each bin.

    \b
    Examples:
      ffserve evaluate mnist/test --model runs/ff-rot --picture confusion.png
      ffserve evaluate --train cifar/train --test cifar/test --model backbone.onnx --json
      ffserve evaluate s3://bucket/mnist/test --engine ray --out answers/
    """
    from ffcore.errors import UsageError
    from ffserve import measured
    from ffserve.account import Account
    from ffserve.picture import check_picture

    ray = of_ray(
        engine,
        out=out,
        address=address,
        engine_cpus=engine_cpus,
        sessions=sessions,
        part_images=part_images,
    )
    if ray is not None and folder is None:
        raise UsageError("--engine ray measures the model's own classes: name a folder, without --train and --test")
    if folder is not None and (train or test):
        raise UsageError("DIR and --train, --test exclude each other: DIR asks for the model's own classes")
    if folder is None and not (train and test):
        raise UsageError("name a folder of class folders, or both --train DIR and --test DIR")
    if picture is not None:
        check_picture("--picture", picture)
    account = Account(report=partial(notes.failed, debug=debug))
    loaded = model_named(model, threads, device, provider_option)
    reading: dict[str, Any] = {
        "batch_size": batch_size,
        "invert": invert or (InvertName.auto if folder else InvertName.no),
        "place": place or (PlaceName.auto if folder else PlaceName.no),
        "max_pixels": max_pixels,
    }
    how = {**reading, "track": _track, "workers": threads, "processes": not debug}
    found: Evaluation | Transfer
    if folder is not None:
        if ray is not None:
            from ffserve.parts.command import Run

            found = Run(
                command="evaluate",
                out=out,
                model=loaded,
                ray=ray,
                account=account,
                threads=threads,
                provider_options=provider_options(provider_option),
                reading=reading,
            ).evaluate(folder)
        else:
            from ffserve.evaluate import evaluate as measure

            found = measure(loaded, Path(folder), account, **how)
        confusion = found.confusion
        result = measured.evaluation(found, folder)
        for text in measured.notes(found, loaded.path):
            notes.note(text)
    else:
        from ffserve.transfer import transfer

        assert train is not None
        assert test is not None
        found = transfer(loaded, train, test, account, seed=seed, threads=threads, say=notes.say, **how)
        confusion = found.rows[0].test
        result = measured.transfer(found, train, test, seed)
    notes.of_images(account, how["invert"])
    if picture is not None:
        confusion.draw(picture, measured.title(confusion, Path(folder) if folder else test))
    result = {
        "model": str(loaded.path),
        "device": loaded.device,
        **result,
        **account.to_dict(),
    }
    console.print_result(result, json, lambda _: measured.draw(result, confusion))
    if account.failed:
        raise typer.Exit(1)


def _track(batches: Iterable[Batch]) -> Iterator[Batch]:
    from ffserve.progress import progress

    with progress("images") as advance:
        for batch in batches:
            yield batch
            advance(len(batch.items))
