"""Exported models beside each other: ONNX Runtime and TorchScript, int8 and fp32, through `ffserve compare`.

A network of the study's size is made on the embedded digits (one epoch: its speed is that of a trained one), with a
probe on its upper three blocks, and exported. Each file runs in a process of its own, in turn, round by round; ratios
are medians over rounds. The cold start is that of `ffserve predict` with one image, the whole process.

    python benchmarks/deploy_speed.py                         # 4x2000, 20 rounds
    python benchmarks/deploy_speed.py --run runs/ff-rot --probe mnist-neutral/blocks2-4 --images mnist/test
    python benchmarks/deploy_speed.py --chart docs/deploy_speed.svg --json

Exit code 1 where a ratio is below what is asked for: 1 for ONNX Runtime beside TorchScript, at batches of 1 and 256,
--least-int8 for int8 beside fp32 at a batch of 1; where a cold start takes more than --most-start seconds; with
--images also where int8 loses more than 0.3 points of accuracy.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

SIZES = (1, 256)


def command(*arguments: object) -> None:
    """Runs `python -m ARGUMENTS`, what it prints on standard error."""
    done = subprocess.run([sys.executable, "-m", *map(str, arguments)], stdout=sys.stderr, check=False)
    if done.returncode:
        raise typer.Exit(1)


def make_run(folder: Path, width: int, depth: int) -> Path:
    """Trains for an epoch, enough for a run folder with everything in it."""
    run = folder / "run"
    size = (f"backbone.width={width}", f"backbone.depth={depth}")
    command("fftrain", "pretrain", "--dataset", "digits", "--epochs", 1, "--out", run, *size)
    command("fftrain", "evaluate", run, "linear", "linear.epochs=1")
    return run


def main(
    run: Annotated[Path | None, typer.Option(help="A trained run folder. [default: one is made]")] = None,
    probe: Annotated[str, typer.Option(help="The run's probe that is exported.")] = "digits-neutral/blocks2-4",
    images: Annotated[Path | None, typer.Option(help="Class folders for the accuracy.")] = None,
    width: Annotated[int, typer.Option(help="Units of a block of the run that is made.")] = 2000,
    depth: Annotated[int, typer.Option(help="Its number of blocks.")] = 4,
    rounds: Annotated[int, typer.Option(help="Rounds in which all are timed in turn.")] = 20,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: all cores]")] = None,
    least_int8: Annotated[float, typer.Option(help="How many times as fast as fp32 int8 must be.")] = 2.5,
    most_start: Annotated[float, typer.Option(help="Seconds that `ffserve predict` may take.")] = 0.7,
    chart: Annotated[Path | None, typer.Option(help="Draw the comparison: .svg or .png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the whole comparison.")] = False,
) -> None:
    """Measure exported models side by side."""
    from ffserve.chart import draw_chart
    from ffserve.compare import compare_models

    with tempfile.TemporaryDirectory() as folder:
        if run is None:
            run = make_run(Path(folder), width, depth)
        out = Path(folder) / "export"
        chosen = (run, "--probe", probe, "--out", out)
        command("ffexport", *chosen, "--format", "onnx", "--format", "torchscript")
        command("ffexport", *chosen, "--precision", "int8")
        found = compare_models(
            [out / name for name in ("model.onnx", "model.int8.onnx", "model.ts")],
            images=images,
            batch_sizes=SIZES,
            rounds=rounds,
            threads=threads,
            say=lambda text: print(text, file=sys.stderr),
        )
    if chart is not None:
        draw_chart(found, chart)
    fp32, int8, script = found["models"]
    for model in found["models"]:
        if model["error"]:
            print(f"{model['name']}: {model['error']}", file=sys.stderr)
            raise typer.Exit(1)

    def speed(model: dict[str, Any], size: int) -> float:
        """Returns how many times as fast as ONNX Runtime's fp32 it is."""
        return float(next(s["speed"] for s in model["batches"] if s["batch"] == size))

    ratios = {
        **{f"fp32 / torchscript at {size}": (1 / speed(script, size), 1.0) for size in SIZES},
        "int8 / fp32 at 1": (speed(int8, 1), least_int8),
        "int8 / fp32 at 256": (speed(int8, 256), None),
    }
    missed = [
        f"{name} is {ratio:.2f}, below {least}" for name, (ratio, least) in ratios.items() if ratio < (least or 0)
    ]
    starts = {model["name"]: round(model["cold_start_s"], 2) for model in found["models"]}
    missed += [
        f"{m['name']} starts in {m['cold_start_s']:.2f} s" for m in (fp32, int8) if m["cold_start_s"] > most_start
    ]
    if images is not None:
        lost = 100 * (fp32["accuracy"] - int8["accuracy"])
        missed += [f"int8 loses {lost:.2f} points of accuracy"] if lost > 0.3 else []
    result = {
        "machine": found["machine"],
        "versions": found["versions"],
        "settings": found["settings"],
        "ratios": {name: round(ratio, 2) for name, (ratio, _) in ratios.items()},
        "p50_ms": {m["name"]: {s["batch"]: round(1e3 * s["p50_s"], 3) for s in m["batches"]} for m in found["models"]},
        "bytes": {model["name"]: model["bytes"] for model in found["models"]},
        "cold_start_s": starts,
        "peak_mib": {model["name"]: round(model["peak_memory_bytes"] / 2**20) for model in found["models"]},
        "accuracy": {model["name"]: model["accuracy"] for model in found["models"]},
        "images": found["images"],
    }
    if as_json:
        print(json.dumps({**result, "comparison": found}, indent=2))
    else:
        print("\n".join(f"{key}: {value}" for key, value in result.items()))
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    if missed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
