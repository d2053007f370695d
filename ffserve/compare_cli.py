"""The command `ffserve compare`. Nothing heavy is imported before it runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ffserve import console
from ffserve.console import Debug, Json
from ffserve.options import Threads


def register(app: typer.Typer) -> None:
    """Adds the command to an app."""
    app.command()(compare)


def compare(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            help=".onnx, .ts and .pt2 files; run and export folders stand for all files of their manifest, "
            "hf://OWNER/NAME for its .onnx files. "
            "[default: those of --run]",
            show_default=False,
        ),
    ] = None,
    *,
    run: Annotated[
        Path | None, typer.Option(help="A run folder: its model in eager torch is the reference.", show_default=False)
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="A folder with a folder of images for each class: for agreement and accuracy. "
            "[default: the validation images that a run folder keeps, else random ones]",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            help="Images of a timed run; may be given again. [default: 1 and 256]", min=1, max=65536, show_default=False
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often all models are timed in turn.", min=1, max=1000)] = 7,
    threads: Threads = None,
    time_limit: Annotated[
        float, typer.Option(help="Seconds that a model may take to load, and to answer a request.", min=0.1)
    ] = 120.0,
    chart: Annotated[Path | None, typer.Option(help="Draw it: .svg, .png or .pdf.", show_default=False)] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure models side by side: size, start, latency, memory, and whether they compute the same.

    Each model runs on the CPU in a process of its own, all in turn, round by round. What needs torch (.ts, .pt2,
    --run) is left out where torch is not installed. A model that fails is a row with the reason, and the exit code
    is 1.

    The p50 is the median over rounds, p95 and p99 are of all runs; images/s is at the p50; `speed` is how many times
    as fast as the reference, the median over rounds. The cold start is that of `ffserve predict` with one image; of
    other models, and of those without classes, from the start of Python to the first outputs.

    \b
    Examples:
      ffserve compare runs/ff-rot
      ffserve compare --run runs/ff-rot --images mnist/test --chart compare.svg
      ffserve compare a.onnx b.onnx --batch-size 1 --batch-size 32 --rounds 20 --json
    """
    from ffserve.chart import draw_chart
    from ffserve.compare import BATCH_SIZES, compare_models
    from ffserve.picture import check_picture

    if chart is not None:
        check_picture("--chart", chart)
    result = compare_models(
        models or (),
        run=run,
        images=images,
        batch_sizes=batch_size or BATCH_SIZES,
        rounds=rounds,
        threads=threads,
        time_limit=time_limit,
        say=lambda text: print(f"ffserve: {text}", file=sys.stderr),
    )
    console.print_result(result, json, _print)
    if chart is not None:
        draw_chart(result, chart)
    failed = [model for model in result["models"] if model["error"]]
    for model in failed:
        told = model["error"].startswith((f"{model['name']} ", f"{model['file']} "))
        print(f"ffserve: error: {'' if told else model['name'] + ': '}{model['error']}", file=sys.stderr)
    if failed or (result["images"] or {}).get("unread"):
        raise typer.Exit(1)


def _print(result: Mapping[str, Any]) -> None:
    """Prints the comparison as tables."""
    models, used, machine = result["models"], result["images"], result["machine"]
    rows = [
        {
            "model": model["name"],
            "kind": f"{model['kind']} {model['precision']}",
            "bytes": _number(model["bytes"], ",d"),
            "load ms": _number(model["load_s"], ".0f", 1e3),
            "cold start ms": _number(model["cold_start_s"], ".0f", 1e3),
            "peak MiB": _number(model["peak_memory_bytes"], ".0f", 2**-20),
            "largest difference": "reference" if model["name"] == result["reference"] else _difference(model),
            "same class": _number(model["same_class"], ".2f", 100, "%"),
            "accuracy": _number(model["accuracy"], ".2f", 100, "%"),
            "what went wrong": model["error"] or "",
        }
        for model in models
    ]
    on = f"; outputs on {used['what']}" if used and result["reference"] else ""
    console.print_records(f"models{on}", rows)
    speeds = [
        [
            str(speed["batch"]),
            model["name"],
            *(_number(speed[key], ".3f", 1e3) for key in ("p50_s", "p95_s", "p99_s")),
            _number(speed["images_per_s"], ",.0f"),
            _number(speed.get("speed"), ".2f"),
        ]
        for size in dict.fromkeys(speed["batch"] for model in models for speed in model["batches"])
        for model in models
        for speed in model["batches"]
        if speed["batch"] == size
    ]
    rounds = result["settings"]["rounds"]
    title = f"latency in ms, {rounds} round{'s' * (rounds != 1)}; speed: {result['reference']} is 1"
    console.print_table(title, ["batch", "model", "p50", "p95", "p99", "images/s", "speed"], speeds)
    averages = (machine[f"load_average_{when}"] for when in ("before", "after"))
    told = {
        "machine": f"{machine['cpu']}, {machine['system']}, {machine['cores']} cores",
        "instructions": " ".join((machine["int8_instructions"] or []) + (machine["other_instructions"] or [])),
        "threads": str(result["settings"]["threads"]),
        "load average": " -> ".join("?" if a is None else f"{a[0]:.2f}" for a in averages),
        "versions": ", ".join(f"{name} {text}" for name, text in result["versions"].items()),
        "left out": ", ".join(result["left_out"]),
    }
    console.print_table("measured on", ["what", "value"], [[key, value] for key, value in told.items() if value])


def _difference(model: Mapping[str, Any]) -> str:
    """Returns the largest difference of the probabilities, of the features where there are none, as text."""
    found = model["largest_difference"] or {}
    name = next((name for name in ("probabilities", "features") if name in found), None)
    return "" if name is None else f"{found[name]:.1e} {name}"


def _number(value: float | None, form: str, unit: float = 1, suffix: str = "") -> str:
    return "" if value is None else f"{value * unit if unit != 1 else value:{form}}{suffix}"
