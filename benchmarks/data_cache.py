"""Images that exceed memory: decoding into a cache, and epochs over it, beside bare decoding; peak anonymous memory.

A folder of JPEGs in ten classes is generated, of which 2,000 differ. Bare decoding is Pillow's in as many threads as
there are cores, of files that the page cache holds. Epochs are the trainer's loader without a network: all images
shuffled and in blocks, each with the cache's file in the page cache and with none of it there (`posix_fadvise` drops
it); of the latter, shuffled rows through page faults of a mapping too, a part of an epoch. At last `fftrain pretrain`
trains an epoch of a small network over the same cache. What is measured runs in a process of its own, of which RssAnon
is watched.

    python benchmarks/data_cache.py
    python benchmarks/data_cache.py --images 20000 --json

Exit code 1 where a process takes more anonymous memory than --most.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from ffcore.machine import cores

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the commands do, before torch is loaded

CLASSES, PICTURES = 10, 2000
# Files that are decoded barely, and images that are read through page faults.
BARE, FAULTS = 20_000, 20_000
BLOCK, BATCH = 64, 128


def generate(folder: Path, count: int, side: int) -> int:
    """Writes JPEGs of blurred noise in class folders; returns the bytes of all."""
    for k in range(CLASSES):
        (folder / str(k)).mkdir(parents=True)

    def make(seed: int) -> bytes:
        small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))
        small.resize((side, side), Image.Resampling.BICUBIC).save(file := io.BytesIO(), "JPEG", quality=85)
        return file.getvalue()

    pictures = [make(seed) for seed in range(min(count, PICTURES))]
    return sum((folder / str(i % CLASSES) / f"{i:06}.jpg").write_bytes(pictures[i % PICTURES]) for i in range(count))


def decode_barely(folder: Path) -> float:
    """Returns images a second of Pillow in threads."""
    files = sorted(folder.rglob("*.jpg"))[:BARE]
    with Image.open(files[0]) as first:
        images = np.empty((len(files), first.height, first.width, 3), np.uint8)

    def read(i: int) -> None:
        with Image.open(files[i]) as image:
            images[i] = image.convert("RGB")

    began = time.perf_counter()
    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(read, range(len(files))))
    return len(files) / (time.perf_counter() - began)


def load(folder: Path, cache: str) -> Any:
    from fftrain.config import DataSettings
    from fftrain.data import load_data
    from fftrain.progress import TerminalReporter

    return load_data(DataSettings(dataset=f"imagefolder:{folder}", data_cache=cache), reporter=TerminalReporter())


def fill(folder: Path, cache: str) -> float:
    """Returns images a second of a whole start: listing, decoding, writing, syncing."""
    began = time.perf_counter()
    data = load(folder, cache)
    return sum(map(len, (data.train, data.validation, data.test))) / (time.perf_counter() - began)


def start(folder: Path, cache: str) -> float:
    """Returns the seconds that a start over a whole cache takes."""
    began = time.perf_counter()
    load(folder, cache)
    return time.perf_counter() - began


def epoch(folder: Path, cache: str, block: int, cold: int, most: int = sys.maxsize) -> float:
    """Returns images a second of the loader."""
    import torch

    from ffmodels.methods.base import Needs
    from fftrain.loader import Loader
    from fftrain.parts import make_part

    torch.set_num_threads(cores())
    train = load(folder, cache).train
    view: Any = make_part("view", "plain")
    loader = Loader(
        images=train.images,
        labels=train.labels,
        view=view,
        needs=Needs(labels=True),
        batch_size=BATCH,
        seed=0,
        block=block or None,
    )
    if cold:
        drop(cache)
    done, began = 0, time.perf_counter()
    for batch, _ in loader.epoch(1):
        done += len(batch.labels)
        if done >= most:
            break
    return done / (time.perf_counter() - began)


def faults(folder: Path, cache: str) -> float:
    """Returns images a second of shuffled rows through a mapping, none of which is in the page cache."""
    [path] = Path(cache).glob("*/images.u8")
    shape = json.loads((path.parent / "journal.jsonl").open().readline())["shape"]
    mapped = np.memmap(path, np.uint8, "r").reshape(-1, *shape)
    order = np.random.default_rng(0).permutation(len(mapped))[:FAULTS]
    drop(cache)
    began = time.perf_counter()
    for i in range(0, len(order), BATCH):
        mapped[order[i : i + BATCH]].astype(np.float32)
    return len(order) / (time.perf_counter() - began)


def drop(cache: str) -> None:
    """Takes the cache's file out of the page cache."""
    for path in Path(cache).glob("*/images.u8"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def watched(command: list[str]) -> tuple[str, int]:
    """Returns what a command prints, and the most anonymous memory that it had, in bytes."""
    most, ended = [0], threading.Event()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        status = Path(f"/proc/{process.pid}/status")

        def watch() -> None:
            while not ended.wait(0.02):
                try:
                    lines = status.read_text().splitlines()
                except OSError:
                    return
                most[0] = max(most[0], *(int(x.split()[1]) * 1024 for x in lines if x.startswith("RssAnon")), 0)

        watching = threading.Thread(target=watch)
        watching.start()
        out, _ = process.communicate()
        ended.set()
        watching.join()
    if process.returncode:
        raise typer.Exit(1)
    return out, most[0]


CASES: dict[str, Callable[..., float]] = {
    "fill": fill,
    "start": start,
    "epoch": epoch,
    "faults": faults,
    "bare": lambda folder, cache: decode_barely(folder),
}


def main(
    images: Annotated[int, typer.Option(help="JPEGs.")] = 200_000,
    side: Annotated[int, typer.Option(help="Their height and width.")] = 64,
    most: Annotated[float, typer.Option(help="GiB of anonymous memory above which it fails.")] = 1.0,
    case: Annotated[str | None, typer.Option(hidden=True)] = None,
    words: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measures each case in a process of its own."""
    if case is not None:
        folder, cache, *rest = words or ()
        print(json.dumps(CASES[case](Path(folder), cache, *map(int, rest))))
        return
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place, "photos"), str(Path(place, "cache"))
        began = time.perf_counter()
        size = generate(folder, images, side)
        print(f"{images:,} JPEGs, {size / 2**20:.0f} MiB, in {time.perf_counter() - began:.0f} s", file=sys.stderr)

        def run(name: str, *rest: int, at: str = cache) -> dict[str, float]:
            out, anonymous = watched([sys.executable, __file__, "--case", name, str(folder), at, *map(str, rest)])
            return {"value": float(out), "anonymous": anonymous}

        found = {"bare decoding": run("bare"), "into the cache": run("fill"), "bare decoding, again": run("bare")}
        found["seconds of another start"] = run("start")
        for name, cold in (("page cache", 0), ("disk", 1)):
            found[f"epoch from {name}, exact"] = run("epoch", 0, cold)
            found[f"epoch from {name}, blocks of {BLOCK}"] = run("epoch", BLOCK, cold)
        found["from disk, page faults"] = run("faults")
        found["decoded at each use"] = run("epoch", 0, 0, FAULTS, at="stream")
        words = "-m fftrain pretrain --recipe bp --view plain --epochs 1 --eval-images 100 backbone.width=64"
        command = [*words.split(), "--dataset", f"imagefolder:{folder}", "--data-cache", cache, "--out", f"{place}/run"]
        _, anonymous = watched([sys.executable, *command])
        record = json.loads(Path(place, "run/metrics.jsonl").read_text())
        found["fftrain pretrain, an epoch"] = {"value": record["images_per_second"], "anonymous": anonymous}
        if as_json:
            print(json.dumps(found))
        else:
            print("| what | images/s | RssAnon, MiB |\n| --- | --- | --- |")
            for name, one in found.items():
                print(f"| {name} | {one['value']:,.4g} | {one['anonymous'] / 2**20:,.0f} |")
    if max(one["anonymous"] for name, one in found.items() if "bare" not in name) > most * 2**30:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
