"""The command `fftrain`. Nothing heavy is imported before a command runs, so that --help answers at once."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from ffmodels.registry import FOLDER, GOODNESS, NORMALISATIONS, SLOTS, public_name
from ffserve import console
from ffserve.console import Debug, Json
from fftrain.config import (
    DATA_DIR_HELP,
    THREADS_HELP,
    DataConfig,
    PretrainConfig,
    ProbeConfig,
    continued,
    read_toml,
)
from fftrain.options import Moved, Processes, RunArgument, meanings, options_of
from fftrain.planning import PRESETS
from fftrain.progress import TerminalReporter
from fftrain.registry import DATASETS, METHODS, TASKS
from fftrain.stopping import AGAIN, stopping
from fftrain.study_cli import analyse, study

# What mends a lack of memory.
SAVE_MEMORY = "use smaller images (--image-size), fewer (--limit, --images), a smaller --width or --batch-size, or for "
SAVE_MEMORY += "probes --feature-memory"
# Runs that lack something, named on standard error one by one.
LISTED = 5

app = console.app("Forward-Forward and backprop pretraining, and linear probes on the frozen backbone.")


@app.callback()
def _main(version: console.Version = False) -> None:
    pass


@app.command(
    epilog=meanings(
        {
            "--dataset": DATASETS,
            "--task": TASKS,
            "--method": METHODS,
            "--goodness": GOODNESS,
            "--normalisation": NORMALISATIONS,
        }
    )
)
@options_of(PretrainConfig)
def pretrain(
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder, new. [default: runs/DATASET-TASK-METHOD]", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Settings as TOML; options given here override it.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out from its checkpoint.")] = False,
    processes: Processes = None,
    json: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Train a backbone on a pretext task.

    Leaves a run folder: settings, metrics of every epoch, weights, and the accuracy on the validation split.

    \b
    Examples:
      fftrain pretrain --dataset digits --task rotation --method ff --lr 1e-3 --epochs 20 --width 500
      fftrain pretrain --dataset mnist --task rotation --method ff --out runs/ff-rot
      fftrain pretrain --dataset imagefolder:photos --image-size 32 --task jigsaw --method bp
      fftrain pretrain --config recipe.toml --seed 1
      fftrain pretrain --resume --out runs/ff-rot
      fftrain pretrain --resume --out runs/photos --dataset imagefolder:/new/place/photos
      accelerate launch -m fftrain pretrain --dataset mnist --task rotation --method ff
    """
    from ffcore.errors import SettingError

    given = {key: value for key, value in options.items() if value is not None}
    if config is not None:
        recipe = read_toml(config)
        PretrainConfig.from_values(recipe, str(config))  # so that an error names where the value stands
        given = {**recipe, **given}
    if resume and out is None:
        raise SettingError("--resume needs --out: the folder of the run to continue")
    from fftrain.data import check_name, file_name
    from fftrain.launcher import start
    from fftrain.own import found_at
    from fftrain.run import RunFolder
    from fftrain.trainer import pretrain

    if resume and out is not None and (out / "config.json").exists():
        place, folder = given.pop("dataset", None), out
        settings = found_at(out, continued(RunFolder(out).read_config(), given), place, given.get("data_dir"))
    else:
        settings = PretrainConfig.from_values(given, "")
        check_name(settings.dataset)
        folder = out or Path("runs") / f"{file_name(settings.dataset)}-{settings.task}-{settings.method}"
    accelerator, reporter = start(settings.threads, settings.mixed_precision, settings.track, processes)
    with stopping(reporter, lambda: RunFolder(folder).stopped(settings.epochs)):
        results = pretrain(settings, folder, resume=resume, accelerator=accelerator, reporter=reporter)
    if accelerator.is_main_process:
        found = results["validation"]
        rows = [[name, f"{value:.4f}"] for name, value in found["by"].items()]
        console.print_result(
            {"run": str(folder), **results},
            json,
            lambda _: console.print_table(
                f"{folder}: {settings.task} accuracy on {found['images']:,} validation images, {settings.method}",
                ["read from", "accuracy"],
                rows,
            ),
        )
    accelerator.end_training()


@app.command(epilog=meanings({"--dataset": DATASETS, "--slot": SLOTS}))
@options_of(ProbeConfig)
def probe(
    *,
    run: RunArgument,
    processes: Processes = None,
    json: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Train linear probes on the frozen backbone.

    One on each layer and one on the last three together, beside raw pixels and the untrained backbone. Validation
    chooses learning rate and weight decay; the chosen setting of each probe reads the test split, once a call.

    \b
    Examples:
      fftrain probe runs/ff-rot
      fftrain probe runs/ff-rot --dataset fashion-mnist
      fftrain probe runs/ff-rot --slot zeros --epochs 50 --json
    """
    from fftrain.launcher import start
    from fftrain.probe import probe_run
    from fftrain.run import RunFolder

    trained = RunFolder(run).read_config()
    given = {key: value for key, value in options.items() if value is not None}
    if trained.dataset.startswith(FOLDER) and given.get("dataset", "").startswith(FOLDER):  # perhaps the same, moved
        given = {"image_size": trained.image_size, "grayscale": trained.grayscale, **given}
    settings = ProbeConfig.from_values(given, "")
    accelerator, reporter = start(settings.threads, processes=processes)
    with stopping(reporter, lambda: AGAIN):
        result = probe_run(run, settings, accelerator=accelerator, reporter=reporter)
    if accelerator.is_main_process:
        rows = [[r["source"], r["layers"], f"{r['validation']:.4f}", f"{r['test']:.4f}"] for r in result["rows"]]
        what = "class" if result["target"] == "class" else trained.task
        console.print_result(
            {"run": str(run), **result},
            json,
            lambda _: console.print_table(
                f"{run}: linear probes of the {what} on {public_name(result['dataset'])}, label slot {result['slot']}",
                ["features of", "layers", "validation", "test"],
                rows,
            ),
        )
    accelerator.end_training()


@app.command()
def evaluate(
    *,
    run: RunArgument,
    split: Annotated[str, typer.Option(help="[validation|test]; reading test is for the final number.")] = "validation",
    dataset: Moved = None,
    data_dir: Annotated[str | None, typer.Option(help=DATA_DIR_HELP, show_default=False)] = None,
    threads: Annotated[int | None, typer.Option(help=THREADS_HELP, min=1, max=256, show_default=False)] = None,
    processes: Processes = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a run's pretext accuracy.

    Every image of the split is scored under every class of the task.

    \b
    Examples:
      fftrain evaluate runs/ff-rot --split test
      fftrain evaluate runs/photos --dataset imagefolder:/new/place/photos
    """
    from fftrain.evaluate import evaluate_run
    from fftrain.launcher import start

    accelerator, reporter = start(threads, processes=processes)
    with stopping(reporter, lambda: AGAIN):
        result = evaluate_run(
            run, split=split, accelerator=accelerator, dataset=dataset, data_dir=data_dir, reporter=reporter
        )
    if accelerator.is_main_process:
        rows = [[name, f"{value:.4f}"] for name, value in result["by"].items()]
        title = f"{run}: pretext accuracy on {result['images']:,} {split} images"
        console.print_result(
            {"run": str(run), "split": split, **result},
            json,
            lambda _: console.print_table(title, ["read from", "accuracy"], rows),
        )
    accelerator.end_training()


app.command(epilog=meanings({"--slot": SLOTS}))(analyse)
app.command(epilog=meanings({"--preset": PRESETS}))(study)


@app.command()
def report(
    *,
    folder: Annotated[Path, typer.Argument(help="A folder with run folders in it, or a study's.", show_default=False)],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a report over runs or a study.

    FOLDER/report.html is one self-contained page, report.md the same as Markdown; results.csv and results.json hold
    every number, figures/ every picture as SVG. Its table of results is printed.

    \b
    Examples:
      fftrain report runs
      fftrain report studies/smoke
    """
    from fftrain.report import write_report
    from fftrain.spec import STUDY_FILE
    from fftrain.tables import NO_VALUE

    result = write_report(folder)
    console.print_result(
        result, json, lambda _: console.print_records(result["title"], result["results"], nothing=NO_VALUE)
    )
    reporter, problems = TerminalReporter(), result["problems"]
    for problem in problems[:LISTED]:
        reporter.note("{name}: {state}: {reason}".format(**problem))
    if len(problems) > LISTED:
        reporter.note(f"and {len(problems) - LISTED} more, which the report lists")
    if problems and (folder / STUDY_FILE).exists():
        reporter.note(f"the study goes on with {shlex.join(['fftrain', 'study', '--out', str(folder)])}")
    reporter.note(f"report: {result['page']}")


@app.command()
@options_of(DataConfig, leave_out=("dataset",))
def dump_images(
    *,
    dataset: Annotated[str, typer.Argument(help=f"[{'|'.join(DATASETS)}], or imagefolder:PATH.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The folder, new or empty.", show_default=False)],
    split: Annotated[
        str, typer.Option(help="[train|validation|test|all]; all: train/ with validation, and test/.")
    ] = "test",
    debug: Debug = False,
    **options: Any,
) -> None:
    """Write a data set as PNG files in class folders.

    \b
    Examples:
      fftrain dump-images digits images
      fftrain dump-images mnist mnist-png --split all
    """
    from fftrain.data import dump_images

    given = {key: value for key, value in options.items() if value is not None}
    count = dump_images(DataConfig.from_values({"dataset": dataset, **given}, ""), split, out)
    TerminalReporter().note(f"{count:,} images -> {out}")


def main() -> None:
    """Runs the program."""
    # Waiting threads soon sleep: spinning ones stop each other on a machine that does other work too
    # (docs/benchmarks.md). libgomp reads this when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    with console.unwinding():
        console.run(app, "fftrain", extra="train", bare=("--help",), memory=SAVE_MEMORY)
