"""The command `fftrain`. Nothing heavy is imported before a command runs, so that --help answers at once."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ffcore.places import PLACES, public_name
from ffcore.plugins import Plugins, short
from ffcore.settings import assigned, read_toml
from ffmodels.evaluated import Evaluated, lines
from ffmodels.parts import BACKBONES, METHODS
from ffserve import console
from ffserve.console import Debug, Json
from fftrain.config import DataSettings, EvaluationConfig, RunConfig
from fftrain.options import Processes, RunArgument, Trust, meanings, options_of, without_gone
from fftrain.parts import DATASETS, EVALUATIONS, PARTS, VIEWS, check_dataset, merged
from fftrain.progress import TerminalReporter
from fftrain.recipes import read_recipe, recipes
from fftrain.stopping import AGAIN, stopping
from fftrain.study import PRESETS, STUDY_FILE
from fftrain.study.cli import study

# What mends a lack of memory.
SAVE_MEMORY = "keep images outside memory (--data-cache DIR), use smaller ones (--image-size), fewer (--limit), a "
SAVE_MEMORY += "narrower backbone or a smaller --batch-size, or for evaluations --feature-memory"
# Runs that lack something, named on standard error one by one.
LISTED = 5

# What `fftrain list` shows.
KINDS: dict[str, Mapping[str, str]] = {
    "methods": METHODS,
    "backbones": BACKBONES,
    "views": VIEWS,
    "datasets": DATASETS,
    "evaluations": EVALUATIONS,
    "recipes": recipes(),
}

app = console.app("Forward-Forward and backprop pretraining, and evaluations of the frozen backbone.")


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

    there = out if resume and out is not None and (out / "config.json").exists() else None
    if there is not None:
        begun, place, folder = RunFolder(there).read_config(), given.pop("dataset", None), there
        run = RunConfig.made(merged(begun.to_dict(), *layers, given))
        begun.continued(run)
        run = found_at(there, run, place, given.get("data_dir"))
    elif resume and not any(layers) and not given.keys() - {*RunConfig.FREE, "dataset"}:
        raise SettingError(f"--out {out} holds no run to continue, and nothing says what to train: name another folder")
    else:
        run = RunConfig.made(merged(*layers, given), "" if config is None or given else f"{config}: ")
        check_dataset(run.dataset)
        folder = out or Path("runs") / f"{file_name(run.dataset)}-{run.view.called}-{run.label.replace(' ', '-')}"
    accelerator, reporter = start(run.threads, run.mixed_precision, run.track, processes)
    if resume and there is None:
        reporter.note(f"{folder} holds no run yet: it begins")
    with stopping(reporter, lambda: RunFolder(folder).stopped(run.epochs)):
        results = pretrain(run, folder, resume=resume, accelerator=accelerator, reporter=reporter)
    if accelerator.is_main_process:
        trained: Any = run.method
        learned = "trained, with nothing that tells labels" if trained.needs().labels else "trained without labels"
        said = learned if trained.trains else "never trained"
        _print_evaluations(folder, results, json, f"{folder}: {run.label}, {said}\n")
    accelerator.end_training()


def _print_evaluations(run: Path, found: Sequence[Evaluated], json: bool, nothing: str = "") -> None:
    """Prints what was measured of a run: a table for each evaluation, or `nothing`."""

    def draw(_: Any) -> None:
        for one in found:
            of = f" of the {one.about['target']} label" if one.about["target"] == "pretext" else ""
            title = f"{run}: {one.name}{of} on {public_name(one.about['dataset'])}, reading {one.about['reading']}"
            console.print_records(title, lines(one.records), nothing=())
        console.put("" if found else nothing)

    content = [{**one.about, "file": str(one.path), "records": one.records} for one in found]
    console.print_result({"run": str(run), "evaluations": content}, json, draw)


@app.command("list")
def list_parts(
    *,
    kind: Annotated[str, typer.Argument(help=f"[{'|'.join(KINDS)}]", show_default=False)],
    name: Annotated[str | None, typer.Argument(help="One of them: its settings.", show_default=False)] = None,
    trust_plugin: Trust = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show methods, networks, views, data sets, evaluations, recipes.

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


@app.command(epilog=meanings({"EVALUATION": EVALUATIONS, "--dataset": DATASETS}))
@options_of(EvaluationConfig)
def evaluate(
    *,
    run: RunArgument,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[EVALUATION]... [EVALUATION.KEY=VALUE]...",
            help="What is measured, and its settings. [default: readout]",
            show_default=False,
        ),
    ] = None,
    split: Annotated[str | None, typer.Option("--split", hidden=True)] = None,
    trust_plugin: Trust = None,
    processes: Processes = None,
    json: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Measure the frozen backbone.

    Raw pixels and the untrained backbone are measured beside it, where that says something. RUN/evaluations holds each
    result; what is there is not done again. `fftrain list evaluations NAME` shows settings; a file of your own
    (./mine.py) is an evaluation too. Validation chooses; the test split has no say.

    \b
    Examples:
      fftrain evaluate runs/ff-rot linear
      fftrain evaluate runs/ff-rot linear knn --dataset fashion-mnist linear.epochs=50
      fftrain evaluate runs/ff-rot linear --reading zeros --json
      fftrain evaluate runs/ff-rot readout.split=test
      fftrain evaluate runs/ff-rot decoder tsne similarity.against=runs/bp-rot
    """
    from ffcore.errors import SettingError
    from fftrain.evaluate import evaluate_run
    from fftrain.launcher import start
    from fftrain.run import RunFolder

    given = without_gone(options)
    if split is not None:
        raise SettingError(f"--split is gone: write readout.split={split}")
    RunFolder(run).read_config()
    configs = [EvaluationConfig.made({**given, "evaluation": part}) for part in _evaluations(names or ())]
    accelerator, reporter = start(configs[0].threads, processes=processes)
    with stopping(reporter, lambda: AGAIN):
        found = evaluate_run(run, *configs, accelerator=accelerator, reporter=reporter)
    if accelerator.is_main_process:
        _print_evaluations(run, found, json)
    accelerator.end_training()


def _evaluations(words: Sequence[str]) -> list[dict[str, Any]]:
    """Returns each evaluation that is named, by itself or by a setting, with its settings."""
    from ffcore.plugins import trust

    found: dict[str, dict[str, Any]] = {}
    for word in words or ("readout",):
        if "=" not in word:
            trust(word)  # who names a file here wants it to be run
            found[short(EVALUATIONS.name(word))] = {"name": word}
    for name, settings in assigned([word for word in words if "=" in word], {*found, *EVALUATIONS}).items():
        found[name] = {"name": name, **found.get(name, {}), **settings}
    return [*found.values()]


def _gone(name: str, successor: str) -> None:
    """Refuses a command of version 0.1."""

    @app.command(name, hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    def gone(*, words: Annotated[list[str] | None, typer.Argument()] = None, debug: Debug = False) -> None:
        from ffcore.errors import SettingError

        run = next((word for word in words or () if not word.startswith("-")), "RUN")
        raise SettingError(f"`fftrain {name}` is gone: write `fftrain evaluate {run} {successor}`")


_gone("probe", "linear")
_gone("analyse", "decoder tsne similarity")
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
    every number, effects.csv what each setting changes, figures/ every picture as SVG. Its table of results is printed.

    \b
    Examples:
      fftrain report runs
      fftrain report studies/smoke
    """
    from fftrain.report.page import write_report
    from fftrain.report.section import NO_VALUE

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
    dataset: Annotated[str, typer.Argument(help=f"[{'|'.join(DATASETS)}], or {PLACES}.", show_default=False)],
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
    from fftrain.dumping import dump_images

    given = without_gone(options)
    count = dump_images(DataSettings.made({"dataset": dataset, **given}), split, out)
    TerminalReporter().note(f"{count:,} images -> {out}")


def main() -> None:
    """Runs the program."""
    # Waiting threads soon sleep: spinning ones stop each other on a machine that does other work too
    # (docs/benchmarks.md). libgomp reads this when torch is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    console.run(app, "fftrain", extra="train", bare=("--help",), memory=SAVE_MEMORY)
