"""The training step of FF beside its floor, a peer, and bf16.

- step: `fftrain.loop` over one batch that is ready: label slots, losses, backward passes, finite check, fused AdamW.
- floor: what no step can do without: each block's forward product and weight gradient on the positive and negative
  rows (no gradient of the input) into outputs that are there, and one pass of fused Adam over the parameters.
- fflib: `FFNet.run_train_combined` of fflib 0.3.0 as its users have it, in a process of its own, on the same rows and
  layers, with one Adam update a layer. What differs: label slots are filled already, positives and negatives go through
  each layer one after the other and a second time for the next layer's input, inputs are scaled to length 1, goodness
  is the mean square, and nothing is checked to be finite. It is installed from the package index under build/, without
  its dependencies: of them torch alone is needed here. `fflib tuned` gives it the fused Adam, which its users would
  have to ask for, and this process's allocator.
- bf16: the step with `--mixed-precision bf16`.

All run in turn, forwards and backwards; ratios are of the same round, medians and quartiles of them.

    python benchmarks/step_speed.py                               # 4x2000, batch 128, the study's size
    python benchmarks/step_speed.py --width 500 --least 0 --no-fflib --json
    python benchmarks/step_speed.py --glibc-default --least 0     # without fftrain/allocator.py

Exit code 1 where a target is missed.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import typer

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the commands do, before torch is loaded

import fflib_step
import torch
from accelerate import Accelerator

from ffmodels.batch import Batch
from ffmodels.draws import Draws
from ffmodels.units import make_units
from fftrain.allocator import keep_large_buffers
from fftrain.config import RunConfig
from fftrain.launcher import make_accelerator
from fftrain.loop import train
from fftrain.optimise import stretches
from fftrain.parts import merged
from fftrain.recipes import read_recipe
from fftrain.watch import Watch

SHAPE = (1, 28, 28)
PRETEXT_CLASSES = 4  # of the rotation


def make_step(
    config: RunConfig, accelerator: Accelerator, shape: tuple[int, int, int] = SHAPE
) -> Callable[[Batch], None]:
    """Returns the trainer's step on batches that are ready, of images of a shape."""
    method: Any = config.method
    backbone = config.backbone.build(shape, 0)  # type: ignore[attr-defined]
    units = make_units(method, backbone, PRETEXT_CLASSES, cut=config.cut, at=config.at)
    [stretch] = stretches(units, backbone, config, accelerator)

    def step(batch: Batch) -> None:
        watch = Watch(accelerator, stretch.names)
        train(
            method,
            PRETEXT_CLASSES,
            stretch.turns,
            [(batch, 1.0)],
            begin=lambda number: None,
            backward=accelerator.backward,
            watch=watch,
        )
        watch.means(len(batch.labels))

    return step


def make_batch(rows: int, shape: tuple[int, int, int] = SHAPE, views: int = 1) -> Batch:
    """Returns random images with labels."""
    labels = torch.arange(rows) % PRETEXT_CLASSES
    images = tuple(torch.randint(0, 256, (rows, *shape)) / 255 for _ in range(views))
    return Batch(images, labels, Draws(0, 1, torch.arange(rows)))


def settings(recipe: str, width: int, depth: int, **more: Any) -> RunConfig:
    """Returns a run's settings; FF's threshold is about what an untrained block of such a width gives."""
    of_method = {"method": {"threshold": width / 6}} if recipe != "bp" else {}
    return RunConfig(
        **merged({"backbone": {"width": width, "depth": depth}}, read_recipe(recipe), of_method, {"lr": 1e-6, **more})
    )


def make_floor(width: int, depth: int, rows: int) -> Callable[[], None]:
    """Returns the products and the Adam pass that every step needs."""
    sizes = [torch.Size(SHAPE).numel()] + [width] * depth
    x = [torch.rand(rows, n) for n in sizes[:-1]]
    z = [torch.rand(rows, width) for _ in range(depth)]
    weights = [torch.nn.Parameter(torch.randn(width, n) / n**0.5) for n in sizes[:-1]]
    biases = [torch.nn.Parameter(torch.zeros(width)) for _ in range(depth)]
    for parameter in [*weights, *biases]:
        parameter.grad = torch.zeros_like(parameter)
    adam = torch.optim.Adam([*weights, *biases], lr=1e-6, fused=True)

    @torch.no_grad()
    def floor() -> None:
        for x_BD, z_BD, weight in zip(x, z, weights, strict=True):
            torch.mm(x_BD, weight.t(), out=z_BD)
            torch.mm(z_BD.t(), x_BD, out=weight.grad)
        adam.step()

    return floor


def cpu_facts() -> tuple[str, list[str]]:
    """Returns the CPU's name and what it has for bf16; as far as /proc/cpuinfo tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags", facts.get("Features", "")).split()
    return facts.get("model name", platform.processor()), [f for f in ("avx512_bf16", "amx_bf16", "bf16") if f in flags]


def in_turn(runs: Mapping[str, Callable[[], object]], rounds: int, warm_up: int) -> dict[str, list[float]]:
    """Returns the milliseconds of each, round by round, forwards and backwards; first rounds are not counted."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(-warm_up, rounds):
        for name in [*runs][:: 1 if round_ % 2 else -1]:
            began = time.perf_counter()
            runs[name]()
            if round_ >= 0:
                times[name].append(1000 * (time.perf_counter() - began))
    return times


def ratios(over: list[float], under: list[float]) -> dict[str, float]:
    """Returns how many times as fast the second is, round by round: median, quartiles, ends."""
    found = sorted(a / b for a, b in zip(over, under, strict=True))
    low, median, high = statistics.quantiles(found, n=4, method="inclusive")
    named = {"median": median, "quartile1": low, "quartile3": high, "least": found[0], "most": found[-1]}
    return {name: round(value, 3) for name, value in named.items()}


def main(
    width: Annotated[int, typer.Option(help="Units of a block.")] = 2000,
    depth: Annotated[int, typer.Option(help="Number of blocks.")] = 4,
    batch_size: Annotated[int, typer.Option(help="Images of a step; each gives a positive and a negative.")] = 128,
    rounds: Annotated[int, typer.Option(help="Rounds that count.", min=2)] = 30,
    warm_up: Annotated[int, typer.Option(help="Rounds before them.")] = 3,
    threads: Annotated[int | None, typer.Option(help="CPU threads. [default: all cores]")] = None,
    fflib: Annotated[bool, typer.Option(help="Measure fflib too.")] = True,
    glibc_default: Annotated[bool, typer.Option("--glibc-default", help="Leave the allocator as it is.")] = False,
    least: Annotated[float, typer.Option(help="Least speed of the step, the floor's is 1.")] = 0.85,
    least_fflib: Annotated[float, typer.Option(help="Least speed of the step, fflib's is 1.")] = 2.0,
    least_bf16: Annotated[float, typer.Option(help="Least speed of bf16 where the CPU has it, the step's is 1.")] = 1.6,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the training step on random images of MNIST's shape."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    load_before = os.getloadavg()[0]
    torch.manual_seed(0)
    config = settings("ff", width, depth, batch_size=batch_size, threads=threads)
    batch = make_batch(batch_size)
    # Too late for glibc, but the program leaves alone what it thinks that its user has set.
    with mock.patch.dict(os.environ, {"MALLOC_TRIM_THRESHOLD_": "131072"} if glibc_default else {}):
        kept = keep_large_buffers()
        steps = {"step": make_step(config, make_accelerator(threads))}
        # Accelerate's precision is global, but what was prepared keeps its own: so the other precision comes last.
        steps["bf16"] = make_step(config, make_accelerator(threads, "bf16"))
    runs: dict[str, Callable[[], object]] = {"floor": make_floor(width, depth, 2 * batch_size)}
    runs |= {name: partial(step, batch) for name, step in steps.items()}
    with ExitStack() as stack:
        if fflib:
            rows = config.method.inputs(batch, PRETEXT_CLASSES).flatten(1)  # type: ignore[attr-defined]
            try:
                peer = stack.enter_context(fflib_step.Peer(*rows.chunk(2), width, depth))
                peer.step()
                fused = partial(torch.optim.Adam, fused=True)
                tuned = fflib_step.make_step(*rows.chunk(2), width, depth, fused)
                runs |= {"fflib": peer.step, "fflib tuned": tuned}
            except RuntimeError as error:
                print(f"fflib is not measured: {error}", file=sys.stderr)
        times = in_turn(runs, rounds, warm_up)

    cpu, has = cpu_facts()
    speed = {"step, floor 1": ratios(times["floor"], times["step"])}
    speed |= {f"step, {name} 1": ratios(times[name], times["step"]) for name in runs if name.startswith("fflib")}
    speed["bf16, step 1"] = ratios(times["step"], times["bf16"])
    result = {
        "settings": f"ff {depth}x{width}, batch {batch_size}, {rounds} rounds after {warm_up}",
        "machine": f"{cpu}, {platform.machine()}, {torch.get_num_threads()} threads",
        "cpu_bf16": ", ".join(has) or "no instructions of its own",
        "load_average": f"{load_before:.2f} before, {os.getloadavg()[0]:.2f} after",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}",
        "large_buffers": "kept" if kept else "as the C library does",
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "ms": {name: round(statistics.median(found), 2) for name, found in times.items()},
        "speed": speed,
    }
    asked = {"step, floor 1": least, "step, fflib 1": least_fflib, "bf16, step 1": least_bf16 if has else 0.0}
    missed = [
        f"{name}: {speed[name]['median']}, less than {wanted}"
        for name, wanted in asked.items()
        if name in speed and speed[name]["median"] < wanted
    ]
    tell(result, missed, as_json)


def tell(result: dict[str, Any], missed: list[str], as_json: bool) -> None:
    """Prints a result, and ends with exit code 1 where something was missed."""
    print(json.dumps(result, indent=2) if as_json else "\n".join(_lines(result)))
    if missed:
        print("; ".join(missed), file=sys.stderr)
        raise typer.Exit(1)


def _lines(result: dict[str, Any]) -> Iterator[str]:
    """Yields a result as lines for people."""
    for key, value in result.items():
        if not isinstance(value, dict):
            yield f"{key}: {value}"
    for name, milliseconds in result["ms"].items():
        yield f"{name}: {milliseconds} ms"
    for name, found in result["speed"].items():
        spread = "quartiles {quartile1} to {quartile3}, range {least} to {most}".format(**found)
        yield f"speed of {name}: {found['median']} ({spread})"


if __name__ == "__main__":
    typer.run(main)
