"""The command `fftrain`. Nothing heavy is imported before a command runs, so that --help answers at once."""

from __future__ import annotations

import os
import shlex
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from ffserve import console
from ffserve.console import Debug, Json
from fftrain.config import (
    TRACKERS,
    AnalysisConfig,
    DataConfig,
    PretrainConfig,
    ProbeConfig,
    continued,
    read_toml,
)
from fftrain.options import options_of
from fftrain.progress import Reporter, TerminalReporter
from fftrain.registry import DATASETS
from fftrain.spec import PRESETS

app = console.app("Forward-Forward and backprop pretraining, and linear probes on the frozen backbone.")


@app.callback()
def _main(version: console.Version = False) -> None:
    pass


RunArgument = Annotated[Path, typer.Argument(help="A run folder.", show_default=False)]
Processes = Annotated[
    int | None, typer.Option(help="Fail unless so many processes work together.", min=1, show_default=False)
]


@app.command()
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
      accelerate launch -m fftrain pretrain --dataset mnist --task rotation --method ff
    """
    from ffmodels.errors import SettingError

    given = {key: value for key, value in options.items() if value is not None}
    if config is not None:
        recipe = read_toml(config)
        PretrainConfig.from_values(recipe, str(config))  # so that an error names where the value stands
        given = {**recipe, **given}
    if resume and out is None:
        raise SettingError("--resume needs --out: the folder of the run to continue")
    from fftrain.data import check_name, file_name
    from fftrain.run import RunFolder
    from fftrain.trainer import make_accelerator, pretrain

    if resume and out is not None and (out / "config.json").exists():
        settings, folder = continued(RunFolder(out).read_config(), given), out
    else:
        settings = PretrainConfig.from_values(given, "")
        check_name(settings.dataset)
        folder = out or Path("runs") / f"{file_name(settings.dataset)}-{settings.task}-{settings.method}"
    accelerator = make_accelerator(settings.threads, settings.mixed_precision, settings.track, processes)
    reporter = TerminalReporter() if accelerator.is_main_process else Reporter()
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


@app.command()
@options_of(ProbeConfig, leave_out=("dataset",))
def probe(
    *,
    run: RunArgument,
    dataset: Annotated[
        str | None,
        typer.Option(help="Data set to probe on. [default: the one it was pretrained on]", show_default=False),
    ] = None,
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
    from fftrain.probe import probe_run
    from fftrain.run import RunFolder
    from fftrain.trainer import make_accelerator

    trained = RunFolder(run).read_config()
    given = {key: value for key, value in options.items() if value is not None}
    if dataset is None or dataset == trained.dataset:
        same = {key: getattr(trained, key) for key in ("dataset", "image_size", "grayscale")}
        given = {**same, "data_dir": trained.data_dir, **given}
    else:
        given["dataset"] = dataset
    settings = ProbeConfig.from_values(given, "")
    accelerator = make_accelerator(settings.threads, processes=processes)
    reporter = TerminalReporter() if accelerator.is_main_process else Reporter()
    result = probe_run(run, settings, accelerator=accelerator, reporter=reporter)
    if accelerator.is_main_process:
        rows = [[r["source"], r["layers"], f"{r['validation']:.4f}", f"{r['test']:.4f}"] for r in result["rows"]]
        what = "class" if result["target"] == "class" else trained.task
        console.print_result(
            {"run": str(run), **result},
            json,
            lambda _: console.print_table(
                f"{run}: linear probes of the {what} on {result['dataset']}, label slot {result['slot']}",
                ["features of", "layers", "validation", "test"],
                rows,
            ),
        )
    accelerator.end_training()


@app.command()
def evaluate(
    *,
    run: RunArgument,
    split: Annotated[
        str, typer.Option(help="validation or test; reading test is for the final figure.")
    ] = "validation",
    data_dir: Annotated[
        str | None, typer.Option(help="Where data sets are kept. [default: where they were]", show_default=False)
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: all cores]", min=1, max=256)] = None,
    processes: Processes = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a run's pretext accuracy: every image under every class of the task.

    \b
    Examples:
      fftrain evaluate runs/ff-rot --split test
    """
    from fftrain.evaluate import evaluate_run
    from fftrain.trainer import make_accelerator

    accelerator = make_accelerator(threads, processes=processes)
    reporter = TerminalReporter() if accelerator.is_main_process else Reporter()
    result = evaluate_run(run, split=split, accelerator=accelerator, data_dir=data_dir, reporter=reporter)
    if accelerator.is_main_process:
        rows = [[name, f"{value:.4f}"] for name, value in result["by"].items()]
        title = f"{run}: pretext accuracy on {result['images']:,} {split} images"
        console.print_result(
            {"run": str(run), "split": split, **result},
            json,
            lambda _: console.print_table(title, ["read from", "accuracy"], rows),
        )
    accelerator.end_training()


@app.command()
@options_of(AnalysisConfig)
def analyse(
    *,
    run: RunArgument,
    against: Annotated[
        Path | None, typer.Option(help="Another run: how alike are their layers?", show_default=False)
    ] = None,
    processes: Processes = None,
    json: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Measure how much of the image each layer keeps, and embed its features in two dimensions.

    A linear decoder goes from the features of each layer back to the pixels; its explained variance on held-out images
    stands beside that of raw pixels and of the untrained backbone. With --against, linear CKA between the layers of two
    runs.

    \b
    Examples:
      fftrain analyse runs/ff-rot
      fftrain analyse runs/ff-rot --against runs/bp-rot
    """
    from fftrain.analyse import analyse_run, compare_runs
    from fftrain.run import RunFolder
    from fftrain.trainer import make_accelerator

    settings = AnalysisConfig.from_values({key: value for key, value in options.items() if value is not None}, "")
    if against is not None:
        RunFolder(against).read_config()  # before the work, not after it
    accelerator = make_accelerator(settings.threads, processes=processes)
    reporter = TerminalReporter() if accelerator.is_main_process else Reporter()
    result = {"run": str(run), **analyse_run(run, settings, accelerator=accelerator, reporter=reporter)}
    if not accelerator.is_main_process:
        return
    rows = [[r["source"], r["layers"], f"{r['validation']:.4f}", f"{r['test']:.4f}"] for r in result["decoder"]]
    if against is not None:
        result["comparison"] = compare_runs(run, against, data_dir=settings.data_dir, reporter=reporter)

    def draw(_: Any) -> None:
        title = f"{run}: variance of the pixels of {result['dataset']} that a linear decoder explains"
        console.print_table(title, ["features of", "layers", "validation", "test"], rows)
        if against is not None:
            found = result["comparison"]

            def cells(key: str) -> list[list[str]]:
                lines = zip(found["layers"], found[key], strict=True)
                return [[layer, *(f"{value:.3f}" for value in values)] for layer, values in lines]

            columns = ["", *found["layers_of_b"]]
            console.print_table(f"linear CKA of {run} (rows) and {against}", columns, cells("cka"))
            console.print_table("the same of the two backbones before training", columns, cells("cka_floor"))

    console.print_result(result, json, draw)


@app.command()
def study(
    *,
    preset: Annotated[
        str | None,
        typer.Option(help="; ".join(f"{name}: {what}" for name, what in PRESETS.items()) + ".", show_default=False),
    ] = None,
    spec: Annotated[Path | None, typer.Option(help="A study of your own, as TOML.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="The study's folder. [default: studies/NAME]", show_default=False)
    ] = None,
    shard: Annotated[str, typer.Option(help="Do the I-th of N parts of the cells, as I/N.")] = "1/1",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and their estimated cost.")] = False,
    redo_damaged: Annotated[
        bool, typer.Option("--redo-damaged", help="Move damaged cells to discarded/ and do them over.")
    ] = False,
    replace_plan: Annotated[
        bool, typer.Option("--replace-plan", help="Let this plan leave out cells of the one in --out.")
    ] = False,
    mixed_precision: Annotated[
        str | None, typer.Option(help="Precision of every cell, before the spec's. [no|bf16|fp16]", show_default=False)
    ] = None,
    data_dir: Annotated[str | None, typer.Option(help="Where data sets are kept.", show_default=False)] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of a process, before the spec's.", min=1, max=256)
    ] = None,
    track: Annotated[
        str | None, typer.Option(help=f"Tracker of every cell. [{'|'.join(TRACKERS)}]", show_default=False)
    ] = None,
    processes: Processes = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train, measure and compare every cell of a grid; run again, it goes on where it was.

    Each cell is a run folder under OUT/cells. Nothing finished is done again; a cell that fails is reported and the
    others go on; exit code 1 says that some failed. Without --preset and --spec, the study in --out goes on.

    \b
    Examples:
      fftrain study --preset smoke
      fftrain study --preset quick --dry-run
      fftrain study --spec my.toml --out studies/mine
      fftrain study --spec my.toml --out studies/mine --shard 2/4
      fftrain study --out studies/mine
      accelerate launch -m fftrain study --preset paper --mixed-precision bf16
    """
    from fftrain.grid import Shard, Study, duration
    from fftrain.spec import choose
    from fftrain.study import run_study
    from fftrain.trainer import make_accelerator

    overrides = {"mixed_precision": mixed_precision, "data_dir": data_dir, "threads": threads, "track": track}
    planned = choose(preset, spec, out, overrides)
    part = Shard.of(shard)
    main = make_accelerator(threads, processes=processes).is_main_process
    found = Study(out or Path("studies") / planned.name, planned)
    failed: dict[str, str] = {}
    if dry_run:
        found.check_plan(replace_plan=replace_plan)
    else:
        failed = run_study(
            found,
            command=shlex.join(["fftrain", *sys.argv[1:]]),
            processes=processes,
            shard=part,
            redo_damaged=redo_damaged,
            replace_plan=replace_plan,
            reporter=TerminalReporter() if main else Reporter(),
        )
    if main:
        cells = found.listing(part)
        result = {"study": str(found.path), "cells": cells, "seconds_left": sum(cell["seconds_left"] for cell in cells)}
        counts = Counter(cell["status"] for cell in cells)
        said = ", ".join(f"{count} {status}" for status, count in counts.items())
        title = f"{found.path}: {len(cells)} cells ({said or 'none in this shard'})"
        title += f", about {duration(result['seconds_left'])} left"
        rows = [
            [
                cell["name"],
                ", ".join(f"{key} {value}" for key, value in cell["varied"].items()),
                cell["status"],
                duration(cell["seconds_left"]) if cell["left"] else "",
                cell["reason"] or (", ".join(cell["left"]) if cell["status"] == "started" else ""),
            ]
            for cell in cells
        ]
        columns = ["cell", "settings", "status", "left, about", "reason, or what is left"]
        console.print_result(result, json, lambda _: console.print_table(title, columns, rows))
    if failed:
        raise typer.Exit(1)


@app.command()
def report(
    *,
    folder: Annotated[Path, typer.Argument(help="A folder with run folders in it, or a study's.", show_default=False)],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a report over the runs below a folder, or over a study, and print its table of results.

    FOLDER/report.html is one self-contained page, report.md the same as Markdown; results.csv and results.json hold
    every number, figures/ every figure as SVG.

    \b
    Examples:
      fftrain report runs
      fftrain report studies/smoke
    """
    from fftrain.report import write_report

    result = write_report(folder)
    rows = [list(record.values()) for record in result["results"]]
    console.print_result(result, json, lambda _: console.print_table(result["title"], list(result["results"][0]), rows))
    TerminalReporter().note(f"report: {result['page']}")


@app.command()
@options_of(DataConfig, leave_out=("dataset",))
def dump_images(
    *,
    dataset: Annotated[str, typer.Argument(help=f"[{'|'.join(DATASETS)}], or imagefolder:PATH.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The folder, new or empty.", show_default=False)],
    split: Annotated[str, typer.Option(help="[train|validation|test|all]")] = "test",
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
    console.run(app, "fftrain", extra="train", bare=("--help",))
