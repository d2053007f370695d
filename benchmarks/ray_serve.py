"""Features by part with Ray, against the plain way, and on two nodes of one core against one; starts excluded. Linux.

`python benchmarks/ray_serve.py [--images 3072] [--repeats 3]` prints medians and ratios of interleaved runs. Nodes are
held to one core each, and the plain way to the first of them. Of Ray the time is that between parts that appear, from
the first of each session on, scaled to all parts: what starts sessions and loads models is left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from ffcore.files import sha256
from ffcore.folders import find
from ffserve.account import Account
from ffserve.features import write_features
from ffserve.parts.engine import Room, answered, room
from ffserve.parts.finding import located
from ffserve.parts.job import Job, begin
from ffserve.session import Model, find_model
from ffserve.stream import stream

PART = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=3072)
    parser.add_argument("--side", type=int, default=400)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    from ray.cluster_utils import Cluster

    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        photos, file = Path(folder, "photos"), find_model()
        draw(photos, asked.images, asked.side)
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        for core in cores[:2]:
            hold(nodes.add_node(num_cpus=1), core)
        model = Model(file, threads=1, device="cpu", spinning=False)
        seconds: dict[str, list[float]] = {"plain": [], "ray, one node": [], "ray, two nodes": []}
        with room(nodes.address, 1, 0, None) as found:
            for turn in range(asked.repeats + 1):
                for name, took in seconds.items():
                    out = Path(folder, f"{name} {turn}")
                    if name == "plain":
                        os.sched_setaffinity(0, cores[:1])
                        spent = plain(model, photos, out.with_suffix(".parquet"))
                        os.sched_setaffinity(0, cores)
                    else:
                        spent = by_part(file, photos, out, found._replace(sessions=1 if "one" in name else 2))
                    if turn:  # the first fills the system's cache
                        took.append(spent)
        nodes.shutdown()
    for name, took in seconds.items():
        print(f"{name:16} {statistics.median(took):7.2f} s  ({', '.join(f'{each:.2f}' for each in took)})")
    overhead = statistics.median(ray / own for own, ray in zip(seconds["plain"], seconds["ray, one node"], strict=True))
    both = zip(seconds["ray, one node"], seconds["ray, two nodes"], strict=True)
    gained = statistics.median(one / two for one, two in both)
    print(f"overhead of one node over plain: {overhead - 1:+.1%} (asked: at most +15 %)")
    print(f"two nodes against one: {gained:.2f}x (asked: 1.6x)")
    raise SystemExit(overhead > 1.15 or gained < 1.6)


def hold(node: Any, core: int) -> None:
    """Holds a node, and what it starts, to one core."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for process in (raylet, *raylet.children(recursive=True)):
        for thread in process.threads():
            os.sched_setaffinity(thread.id, [core])


def draw(folder: Path, count: int, side: int) -> None:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(count):
        pixels = generator.integers(0, 256, (side // 8, side // 8), dtype=np.uint8)
        Image.fromarray(pixels).resize((side, side)).save(folder / f"{number:06d}.png")


def plain(model: Model, photos: Path, out: Path) -> float:
    begun = time.perf_counter()
    write_features(stream(model, find([photos]), workers=1), out, Account())
    return time.perf_counter() - begun


def by_part(file: Path, photos: Path, out: Path, found: Room) -> float:
    job = Job(
        out=str(out),
        command="features",
        model=sha256(file),
        version=version("ffstudy"),
        batch_size=128,
        threads=1,
        invert="auto",
        place="auto",
        max_pixels=64_000_000,
        top_k=0,
        device="cpu",
        provider_options={},
        image_column=None,
        part_images=PART,
        working=str(photos),
        called=str(file),
    )
    listed = begin(job, file.read_bytes(), located([str(photos)], Account().left_out))
    for _ in answered(job, listed, found):
        pass
    done = sorted(path.stat().st_mtime for path in out.glob("part-*"))
    first = found.sessions - 1
    return (done[-1] - done[first]) * len(done) / (len(done) - 1 - first)


if __name__ == "__main__":
    main()
