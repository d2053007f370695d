"""How fast `ffserve predict` is: one image as a whole process, a folder beside its floor, and memory over its size.

The floor of a folder is what neither side can do without: `decode` is Pillow alone (open, convert, resize, array) and
`run` bare `session.run` alone, each on all cores, one after the other: 1 / (1 / decode + 1 / run) images a second.
Pillow holds Python's lock for small images, so it is measured in threads and in processes, and the faster one counts.
Everything is measured in turn, in rounds, in one run; ratios are taken round by round. Images are generated: gray
PNG files of the model's size, or photographs as JPEG files of 640x480. They are read plainly, as the floor reads them;
with --drawings as `ffserve` does by default, which finds and places the ink of each where the model knows drawings.

    python benchmarks/serve_speed.py                          # 10,000 PNG, the model that ffserve takes by default
    python benchmarks/serve_speed.py --model runs/ff-rot --images 2000 --jpeg
    python benchmarks/serve_speed.py --json

Exit code 1 where one image takes more than --most seconds, a folder less than --least of the floor's speed, or memory
grows by more than --grown MiB from a folder to one of four times its size.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

BATCH = 128


def generate(folder: Path, count: int, size: tuple[int, int], jpeg: bool) -> None:
    """Writes images of soft shapes: white on black as PNG of a size (width, height), or in colour as JPEG."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        if jpeg:
            coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
            coarse.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number:06d}.jpg", quality=90)
        else:
            inside = np.zeros((7, 7), dtype=np.uint8)
            inside[1:-1, 1:-1] = 255 * rng.integers(0, 2, (5, 5))
            image = Image.fromarray(inside).resize(size, Image.Resampling.BILINEAR)
            image.save(folder / f"{number:06d}.png")


def decode(paths: Sequence[str], size: tuple[int, int], mode: str) -> int:
    """Reads images with Pillow alone."""
    total = 0
    for path in paths:
        with Image.open(path) as opened:
            image = opened.convert(mode)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        total += np.asarray(image).size
    return total


def seconds(work: Callable[[], object]) -> float:
    """Returns how long some work takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spread(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Returns median and range."""
    shown = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, digits) for name, value in shown.items()}


def command(*arguments: object) -> tuple[float, float]:
    """Runs `ffserve` as a process of its own; returns seconds and its peak memory in MiB."""
    began = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "ffserve", *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    took = time.perf_counter() - began
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise typer.Exit(1)
    return took, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main(
    model: Annotated[Path | None, typer.Option(help="As ffserve takes it.")] = None,
    images: Annotated[int, typer.Option(help="Images in the folder.")] = 10_000,
    drawings: Annotated[bool, typer.Option("--drawings", help="Read them as drawings, as ffserve does.")] = False,
    jpeg: Annotated[bool, typer.Option("--jpeg", help="Photographs instead of images of the model's size.")] = False,
    rounds: Annotated[int, typer.Option(help="Rounds of the folder.", min=1)] = 7,
    starts: Annotated[int, typer.Option(help="Processes with one image.", min=1)] = 15,
    most: Annotated[float, typer.Option(help="Seconds of one image above which the exit code is 1.")] = 0.7,
    least: Annotated[float, typer.Option(help="Ratio to the floor below which the exit code is 1.")] = 0.85,
    grown: Annotated[float, typer.Option(help="MiB of growth above which the exit code is 1.")] = 16.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure what serving costs."""
    import onnxruntime
    import PIL

    from ffcore.folders import find
    from ffcore.machine import cores
    from ffserve import Classifier, Model, find_model
    from ffserve.output import JsonLinesWriter

    classifier = Classifier(Model(find_model(model), device="cpu", spinning=False))
    about, path = classifier.model.about, classifier.model.path
    size, mode = (about.width, about.height), "L" if about.channels == 1 else "RGB"
    many, reading = cores(), {} if drawings else {"invert": "no", "place": "no"}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = many
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ready = np.zeros((BATCH, about.channels, about.height, about.width), dtype=np.uint8)

    with (
        tempfile.TemporaryDirectory() as temporary,
        ThreadPoolExecutor(many) as threads,
        ProcessPoolExecutor(many, mp_context=multiprocessing.get_context("spawn")) as processes,
        open(os.devnull, "w", encoding="utf-8") as nowhere,
    ):
        folder = Path(temporary) / "1"
        generate(folder, images, size, jpeg)
        paths = sorted(map(str, folder.iterdir()))
        parts = [paths[start : start + BATCH] for start in range(0, images, BATCH)]

        def pillow(pool: Executor) -> None:
            list(pool.map(decode, parts, [size] * len(parts), [mode] * len(parts)))

        def run() -> None:
            for part in parts:
                session.run(None, {"images": ready[: len(part)]})

        def serve() -> None:
            stdout, sys.stdout = sys.stdout, nowhere
            try:
                out = JsonLinesWriter(classifier)
                for batch in classifier.predict_batches(find([folder]), batch_size=BATCH, processes=True, **reading):
                    out.write(batch)
            finally:
                sys.stdout = stdout

        turns: dict[str, Callable[[], object]] = {
            "decode in threads": lambda: pillow(threads),
            "decode in processes": lambda: pillow(processes),
            "run": run,
            "ffserve": serve,
        }
        for work in turns.values():
            work()
        took: dict[str, list[float]] = {name: [] for name in turns}
        for _ in range(rounds):
            for name, work in turns.items():
                took[name].append(seconds(work))
        ratios = [
            (min(by_threads, by_processes) + ran) / served
            for by_threads, by_processes, ran, served in zip(*took.values(), strict=True)
        ]
        in_threads = [(by_threads + ran) / served for by_threads, _, ran, served in zip(*took.values(), strict=True)]
        one = [command("predict", paths[0], "--model", path, "--device", "cpu")[0] for _ in range(starts)]
        for copy in range(2, 5):
            (Path(temporary) / str(copy)).mkdir()
            for name in paths:
                os.link(name, Path(temporary) / str(copy) / Path(name).name)
        memory = [
            command("predict", where, "--model", path, "--device", "cpu", "--jsonl")[1]
            for where in (folder, Path(temporary))
        ]
    kind = "JPEG 640x480" if jpeg else f"PNG {size[0]}x{size[1]}"
    python = f"python {platform.python_version()}"
    result: dict[str, Any] = {
        "settings": f"{images} {kind}, batch {BATCH}, {rounds} rounds",
        "model": f"{path.name}, {path.stat().st_size:,} bytes",
        "machine": f"{platform.machine()}, {many} cores, load {os.getloadavg()[0]:.1f}",
        "versions": f"{python}, onnxruntime {onnxruntime.__version__}, Pillow {PIL.__version__}",
        "one_image_seconds": spread(one),
        "images_a_second": {name: round(images / statistics.median(times)) for name, times in took.items()},
        "ratio_to_floor": spread(ratios),
        "ratio_to_floor_in_threads": spread(in_threads),
        "peak_mib": {f"{images} images": round(memory[0], 1), f"{4 * images} images": round(memory[1], 1)},
    }
    print(json.dumps(result, indent=2) if as_json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    missed = []
    if result["one_image_seconds"]["median"] > most:
        missed.append(f"one image takes {result['one_image_seconds']['median']} s, more than {most}")
    if result["ratio_to_floor"]["median"] < least:
        missed.append(f"a folder is served at {result['ratio_to_floor']['median']} of the floor's speed, not {least}")
    if memory[1] - memory[0] > grown:
        missed.append(f"memory grows by {memory[1] - memory[0]:.0f} MiB, more than {grown:g}")
    if missed:
        print("; ".join(missed), file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
