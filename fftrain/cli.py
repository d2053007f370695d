"""The command `fftrain`. Nothing heavy is imported before a command runs, so that --help answers at once."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ffcore.plugins import Plugins
from ffcore.settings import assigned, read_toml
from ffmodels.parts import BACKBONES, METHODS
from ffserve import console
from ffserve.console import Debug, Json
from fftrain.analyse_cli import analyse
from fftrain.config import DATA_DIR_HELP, THREADS_HELP, DataSettings, ProbeConfig, RunConfig
from fftrain.options import Moved, Processes, RunArgument, Trust, meanings, options_of, without_gone
from fftrain.parts import DATASETS, FOLDER, PARTS, VIEWS, check_dataset, merged, public_name
from fftrain.progress import TerminalReporter
from fftrain.recipes import read_recipe, recipes
from fftrain.stopping import AGAIN, stopping
from fftrain.study import PRESETS, STUDY_FILE
from fftrain.study.cli import study

# What mends a lack of memory.
SAVE_MEMORY = "use smaller images (--image-size), fewer (--limit, --images), a narrower backbone or a smaller "
SAVE_MEMORY += "--batch-size, or for probes --feature-memory"
# Runs that lack something, named on standard error one by one.
LISTED = 5

# What `fftrain list` shows.
KINDS: dict[str, Mapping[str, str]] = {
    "methods": METHODS,
    "backbones": BACKBONES,
    "views": VIEWS,
    "datasets": DATASETS,
    "recipes": recipes(),
}

app = console.app("Forward-Forward and backprop pretraining, and linear probes on the frozen backbone.")


@app.callback()
def _main(version: console.Version = False) -> None:
    pass


@app.command(
    epilog=meanings(
        {"--recipe": recipes(), "--dataset": DATASETS, "--view": VIEWS, "--backbone": BACKBONES, "--method": METHODS}
    )
)
@options_of(RunConfig)
def pretrain(
    *,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PART.KEY=VALUE]...", help="Settings of the parts.", show_default=False),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help=f"A named method [{'|'.join(recipes())}].", show_default=False)
    ] = None,
    view: Annotated[str | None, typer.Option(help=f"What it sees [{'|'.join(VIEWS)}].", show_default=False)] = None,
    backbone: Annotated[
        str | None, typer.Option(help=f"Network that is trained [{'|'.join(BACKBONES)}].", show_default=False)
    ] = None,
    method: Annotated[
        str | None, typer.Option(help=f"How it is trained [{'|'.join(METHODS)}].", show_default=False)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder, new. [default: runs/DATASET-VIEW-METHOD]", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Settings as TOML; options given here override it.", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out from its checkpoint.")] = False,
    trust_plugin: Trust = None,
    processes: Processes = None,
    json: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Train a backbone.

    Leaves a run folder: settings, metrics of every epoch, weights, and what the method tells of the validation split.
    A view, backbone or method is a name, or a file of your own (./mine.py or mylab.mine); `fftrain list` shows their
    settings.

    \b
    Examples:
      fftrain pretrain --recipe ff --dataset digits --lr 1e-3 --epochs 20 backbone.width=500
      fftrain pretrain --recipe bp --dataset mnist --view rotation --out runs/bp-rot
      fftrain pretrain --method cross-entropy --cut block --dataset imagefolder:photos --image-size 32 --view jigsaw
      fftrain pretrain --method ./mine.py --dataset digits method.margin=0.5
      fftrain pretrain --config recipe.toml --seed 1
      fftrain pretrain --resume --out runs/bp-rot
      fftrain pretrain --resume --out runs/photos --dataset imagefolder:/new/place/photos
      accelerate launch -m fftrain pretrain --recipe ff --dataset mnist
    """
    from ffcore.errors import SettingError
    from ffcore.plugins import trust

    parts = {"view": view, "backbone": backbone, "method": method}
    for name in filter(None, (*parts.values(), options.get("dataset"))):
        trust(name)  # who names a file here wants it to be run
    given = without_gone(options)
    layers = [
        {} if recipe is None else read_recipe(recipe),
        {} if config is None else read_toml(config),
        {name: value for name, value in parts.items() if value is not None},
        assigned(settings or (), PARTS),
    ]
    if resume and out is None:
        raise SettingError("--resume needs --out: the folder of the run to continue")
    from fftrain.data import file_name
    from fftrain.launcher import start
    from fftrain.own import found_at
    from fftrain.run import RunFolder
    from fftrain.training import pretrain

    if resume and out is not None and (out / "config.json").exists():
        begun, place, folder = RunFolder(out).read_config(), given.pop("dataset", None), out
        run = RunConfig.made(merged(begun.to_dict(), *layers, given))
        begun.continued(run)
        run = found_at(out, run, place, given.get("data_dir"))
    else:
        run = RunConfig.made(merged(*layers, given), "" if config is None or given else f"{config}: ")
        check_dataset(run.dataset)
        folder = out or Path("runs") / f"{file_name(run.dataset)}-{run.view.called}-{run.label.replace(' ', '-')}"
    accelerator, reporter = start(run.threads, run.mixed_precision, run.track, processes)
    with stopping(reporter, lambda: RunFolder(folder).stopped(run.epochs)):
        results = pretrain(run, folder, resume=resume, accelerator=accelerator, reporter=reporter)
    if accelerator.is_main_process:
        console.print_result({"run": str(folder), **results}, json, lambda found: _print_run(found, run))
    accelerator.end_training()


def _print_run(found: dict[str, Any], run: RunConfig) -> None:
    """Prints what a run tells of the validation split, or where it is."""
    if "pretext" not in found:
        console.put(f"{found['run']}: {run.label}, trained without labels\n")
        return
    told = found["pretext"]["validation"]
    console.print_table(
        f"{found['run']}: {run.view.called} accuracy on {told['images']:,} validation images, {run.label}",
        ["read from", "accuracy"],
        [[name, f"{value:.4f}"] for name, value in told["by"].items()],
    )


@app.command("list")
def list_parts(
    *,
    kind: Annotated[str, typer.Argument(help=f"[{'|'.join(KINDS)}]", show_default=False)],
    name: Annotated[str | None, typer.Argument(help="One of them: its settings.", show_default=False)] = None,
    trust_plugin: Trust = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show methods, networks, views, data sets and recipes.

    \b
    Examples:
      fftrain list methods
      fftrain list methods forward-forward
    """
    from ffcore.errors import SettingError
    from ffcore.settings import Settings, shown

    if kind not in KINDS:
        raise SettingError(f"{kind!r} is no kind of part: choose one of {', '.join(KINDS)}")
    if name is None:
        rows = [{"name": each, "what it is": about} for each, about in KINDS[kind].items()]
        console.print_result(rows, json, lambda _: console.print_records(kind, rows))
        return
    if kind == "recipes":
        found: Any = [{"setting": key, "value": str(value)} for key, value in read_recipe(name).items()]
        console.print_result(found, json, lambda _: console.print_records(f"recipe {name}", found))
        return
    plugins = KINDS[kind]
    assert isinstance(plugins, Plugins)
    part = plugins.load(name)
    found = shown(part) if issubclass(part, Settings) else _facts(part)
    title = f"{part.part_name}: {(part.__doc__ or '').strip().partition(chr(10))[0].rstrip('.')}"
    if not found and not json:
        console.put(f"{title}\nno settings\n")
        return
    console.print_result(found, json, lambda _: console.print_records(title, found))


def _facts(dataset: Any) -> list[dict[str, str]]:
    """Returns what a data set says of itself before it is read."""
    train, test = dataset.images
    facts = {"shape": dataset.shape, "classes": dataset.classes, "training images": train, "test images": test}
    return [{"fact": name, "value": str(value)} for name, value in facts.items()] if dataset.shape else []


@app.command(epilog=meanings({"--dataset": DATASETS}))
@options_of(ProbeConfig)
def probe(
    *,
    run: RunArgument,
    trust_plugin: Trust = None,
    processes: Processes = None,
    json: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Train linear probes on the frozen backbone.

    One on each block and one on the last three together, beside raw pixels and the untrained backbone. Validation
    chooses learning rate and weight decay; the chosen setting of each probe reads the test split, once a call.

    \b
    Examples:
      fftrain probe runs/ff-rot
      fftrain probe runs/ff-rot --dataset fashion-mnist
      fftrain probe runs/ff-rot --reading zeros --epochs 50 --json
    """
    from fftrain.launcher import start
    from fftrain.probe import probe_run
    from fftrain.run import RunFolder

    trained = RunFolder(run).read_config()
    given = without_gone(options)
    if trained.dataset.startswith(FOLDER) and given.get("dataset", "").startswith(FOLDER):  # perhaps the same, moved
        given = {"image_size": trained.image_size, "grayscale": trained.grayscale, **given}
    settings = ProbeConfig.made(given)
    accelerator, reporter = start(settings.threads, processes=processes)
    with stopping(reporter, lambda: AGAIN):
        result = probe_run(run, settings, accelerator=accelerator, reporter=reporter)
    if accelerator.is_main_process:
        rows = [[r["source"], r["blocks"], f"{r['validation']:.4f}", f"{r['test']:.4f}"] for r in result["rows"]]
        what = "class" if result["target"] == "class" else trained.view.called
        console.print_result(
            {"run": str(run), **result},
            json,
            lambda _: console.print_table(
                f"{run}: linear probes of the {what} on {public_name(result['dataset'])}, reading {result['reading']}",
                ["features of", "blocks", "validation", "test"],
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
    trust_plugin: Trust = None,
    processes: Processes = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure how well a run tells what it was trained to tell.

    Every image of the split is scored in every way that the view asks.

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


app.command()(analyse)
app.command(epilog=meanings({"--preset": PRESETS}))(study)


@app.command()
def report(
    *,
    folder: Annotated[Path, typer.Argument(help="A folder with run folders in it, or a study's.", show_default=False)],
    trust_plugin: Trust = None,
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
    from fftrain.report.page import write_report
    from fftrain.report.tables import NO_VALUE

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
@options_of(DataSettings, leave_out=("dataset",))
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

    given = without_gone(options)
    count = dump_images(DataSettings.made({"dataset": dataset, **given}), split, out)
    TerminalReporter().note(f"{count:,} images -> {out}")


def main() -> None:
    """Runs the program."""
    # Waiting threads soon sleep: spinning ones stop each other on a machine that does other work too
    # (docs/benchmarks.md). libgomp reads this when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    with console.unwinding():
        console.run(app, "fftrain", extra="train", bare=("--help",), memory=SAVE_MEMORY)
