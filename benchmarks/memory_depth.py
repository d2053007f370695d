"""Peak memory of a training step over depth: FF's blocks are trained one by one, BP's graph holds them all.

Each case runs in processes of its own: a few small steps first, so that parameters, optimizer state and what Accelerate
wraps them in are there, then two steps of `fftrain.loop` at the full batch. How far the process's peak rises by them is
what a step needs, holes in the heap included. It is measured with the C library's allocator and with large buffers kept
(fftrain/allocator.py), as the commands run; medians of the repeats.

Two processes (gloo, torchrun) each take half of the batch, every FF block in a DistributedDataParallel of its own, as
`fftrain pretrain` has it. The figure is the larger of the two processes' growth. Buckets, which hold a second copy of
the gradients and are made anew in the second step, are there before; what gloo allocates while it sums is not.

    python benchmarks/memory_depth.py
    python benchmarks/memory_depth.py --depths 4,64 --json
    python benchmarks/memory_depth.py --plot docs/memory_depth.svg

Exit code 1 where FF's deepest network grows by more than --most of its shallowest, on one process.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the commands do, before torch is loaded


def growth(step: Callable[[int], object], rows: int) -> float:
    """Returns by how many MiB two steps of so many rows raise the process's peak, after three small ones."""
    import psutil

    from ffserve.compare_worker import peak_rss

    for _ in range(3):
        step(8)
    before = psutil.Process().memory_info().rss
    if (peak := Path("/proc/self/clear_refs")).exists():
        peak.write_text("5")  # it begins anew: what the first steps take once is not of a step
    step(rows)
    step(rows)
    return (peak_rss() - before) / 2**20


def measure(method: str, depth: int, width: int, batch: int, *, keep: bool) -> list[float]:
    """Returns the growth of each process's peak memory, MiB."""
    import torch
    from step_speed import make_batch, make_step, settings

    from fftrain.allocator import keep_large_buffers
    from fftrain.launcher import make_accelerator

    if not keep:
        os.environ["MALLOC_TRIM_THRESHOLD_"] = "131072"  # too late for glibc, but the program now leaves it alone
    accelerator = make_accelerator(None)
    if keep and not keep_large_buffers():
        print("large buffers cannot be kept here: this is not glibc, or MALLOC_*_ is set", file=sys.stderr)
    take = make_step(settings(method, width, depth, batch_size=batch), accelerator)

    def step(rows: int) -> None:
        take(make_batch(rows // accelerator.num_processes))

    grown = growth(step, batch)
    every: list[float] = accelerator.gather(torch.tensor([grown])).tolist()
    accelerator.end_training()
    return every if accelerator.is_main_process else []


def apart(*words: str, **variables: str) -> Any:
    """Returns the JSON that a program, given with its options, prints last in new processes with these variables."""
    command = [sys.executable, *words]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "TORCH_CPP_LOG_LEVEL": "ERROR", **variables}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        raise typer.Exit(1)
    return json.loads(done.stdout.strip().splitlines()[-1])


def run(case: str, width: int, batch: int) -> list[float]:
    """Measures a case in new processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"] if "two" in case else []
    grown: list[float] = apart(*launcher, __file__, "--case", case, "--width", str(width), "--batch", str(batch))
    return grown


def plot(grown: Mapping[str, Mapping[int, float]], path: Path, of: str = "layers") -> None:
    """Draws growth over depth, a line for each name, as SVG."""
    from matplotlib.figure import Figure

    from fftrain.report.figures import LOOKS, svg

    figure = Figure(figsize=(3.6, 2.6), layout="constrained")
    ax = figure.subplots()
    for (name, by_depth), look in zip(grown.items(), LOOKS, strict=False):
        ax.plot([*by_depth], [*by_depth.values()], label=name, **look)
    depths = [*next(iter(grown.values()))]
    ax.set_xscale("log", base=2)
    ax.set_xticks(depths, [str(depth) for depth in depths])
    ax.minorticks_off()
    ax.set(xlabel=of, ylabel="memory of a step, MiB", ylim=(0, None))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    path.write_text(svg(figure, f"Memory of a training step over the number of {of}"), encoding="utf-8")


def main(
    depths: Annotated[str, typer.Option(help="Numbers of layers.")] = "4,16,64",
    width: Annotated[int, typer.Option(help="Units of a layer.")] = 500,
    batch: Annotated[int, typer.Option(help="Images of a step, over all processes.")] = 4096,
    most: Annotated[float, typer.Option(help="Ratio of FF's deepest to its shallowest above which it fails.")] = 1.3,
    plot_to: Annotated[Path | None, typer.Option("--plot", help="Draw the growth, as SVG.")] = None,
    repeats: Annotated[int, typer.Option(help="Times that each case is measured.", min=1)] = 3,
    case: Annotated[str | None, typer.Option(hidden=True)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the memory of a training step over depth."""
    if case is not None:
        method, depth, how = case.split(":")
        grown_here = measure(method, int(depth), width, batch, keep=how != "default")
        if grown_here:
            print(json.dumps(grown_here), flush=True)
        os._exit(0)  # gloo's threads may abort a process that ends normally (pytorch #190489)
    wanted = [int(depth) for depth in depths.split(",")]
    cases = [*product(("ff", "bp"), ("default", "kept")), ("ff", "two")]
    grown: dict[str, dict[int, float]] = {f"{method} {how}": {} for method, how in cases}
    for depth, (method, how) in product(wanted, cases):
        found = [max(run(f"{method}:{depth}:{how}", width, batch)) for _ in range(repeats)]
        grown[f"{method} {how}"][depth] = round(statistics.median(found), 1)
    ratio = {name: round(by[wanted[-1]] / by[wanted[0]], 3) for name, by in grown.items()}
    result = {
        "settings": f"width {width}, batch {batch}, MiB by layers, medians of {repeats}",
        "machine": f"{platform.machine()}, {platform.libc_ver()[0]} {platform.libc_ver()[1]}",
        "grown_mib": grown,
        f"ratio_{wanted[-1]}_to_{wanted[0]}": ratio,
    }
    print(json.dumps(result, indent=2) if as_json else "\n".join(f"{key}: {value}" for key, value in result.items()))
    if plot_to is not None:
        plot({method.upper(): grown[f"{method} kept"] for method in ("ff", "bp")}, plot_to)
    alone = ("ff default", "ff kept")  # several processes hold buckets of gradients for each layer
    missed = [f"{name}: {ratio[name]}" for name in alone if ratio[name] > most]
    if missed:
        print(f"memory grows with depth, above {most}: {', '.join(missed)}", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
