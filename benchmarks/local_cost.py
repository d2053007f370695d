"""What local training costs beside end-to-end training of the same network: time, products and memory of a step.

An end-to-end step has three products for each layer: forward, gradient of the weights, gradient of the input. A block
that is cut off below needs no gradient of its first layer's input: two thirds of the products are left where a block is
one layer, more where it is several. What it saves its heads may take again, of which each block has one.

Ways: cuts and losses of `fftrain pretrain`; end to end with each block under torch's checkpointing, which computes
what it reads and its activation a second time instead of keeping them; end to end in four micro-batches whose gradients
Accelerate adds up: with batch statistics, and other images, of their own. Methods: cross-entropy (a linear head on
pooled features), InfoNCE (two views, a projector), and both without heads, where the loss is an activation's mean
square. All steps are `fftrain.loop`'s.

- Time: all ways of a network and a method in turn, forwards and backwards; ratios are of the same round.
- Products: floating-point operations of matrix products and convolutions, as a study's estimate counts them, from two
  images: what InfoNCE multiplies image by image hardly counts. `heads` is the share that goes without heads.
- Memory: how far two steps raise the peak of a fresh process above weights, optimizer state and program; gradients,
  activations and the batch are in it. Large buffers are mapped one by one, so that none lies in another's hole. The
  commands keep them in the heap (fftrain/allocator.py), which is faster and has holes: --kept measures that.
- Depth: the same of an MLP under cross-entropy, over its number of blocks.

    python benchmarks/local_cost.py
    python benchmarks/local_cost.py --networks resnet --rounds 20 --depths ""
    python benchmarks/local_cost.py --networks "" --kept          # memory over depth, as the commands run
    python benchmarks/local_cost.py --plot docs/local_cost.svg --json

Exit code 1 where memory cut at each block grows by more than --most from the shallowest to the deepest MLP.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the commands do, before torch is loaded

import torch
from accelerate import Accelerator
from memory_depth import apart, growth, plot
from pydantic import SkipValidation
from step_speed import PRETEXT_CLASSES, cpu_facts, in_turn, make_batch, make_step, ratios
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ffmodels.backbones.base import Backbone, BackboneSettings, BlockInfo, Shape, mean, own
from ffmodels.batch import Batch
from ffmodels.methods.base import Method, Needs
from fftrain.config import RunConfig
from fftrain.data import Facts
from fftrain.launcher import make_accelerator
from fftrain.parts import make_part
from fftrain.study.sketch import products

# Of each network: settings, images, their two views, images of a step, width of InfoNCE's projector.
NETWORKS: Mapping[str, tuple[dict[str, Any], Shape, str, int, int]] = {
    "mlp": ({"name": "mlp"}, (1, 28, 28), "two-shifts", 128, 512),
    "convnet": ({"name": "convnet", "norm": "batch"}, (3, 32, 32), "two-crops", 64, 512),
    "resnet": ({"name": "resnet", "width": 0.25}, (3, 32, 32), "two-crops", 64, 128),
}
METHODS = ("cross-entropy", "info-nce")
PARTS = 4
LOCAL, WHOLE = "cut=block", "cut=never at=last"
AGAIN, ADDED = f"{WHOLE}, checkpointed", f"{WHOLE}, {PARTS} micro-batches"
HEADLESS = (f"{LOCAL}, no heads", f"{WHOLE}, no heads")
STAGES = ("cut=stage at=all", "cut=stage at=last")
WAYS = (LOCAL, *STAGES, "cut=never at=all", WHOLE, AGAIN, ADDED, *HEADLESS)
SPREAD = "{median:.2f} ({quartile1:.2f}-{quartile3:.2f})"
DEPTH_WIDTH, DEPTH_ROWS = 500, 2048


class Headless(Method):
    """A loss without parameters and products: the mean square of an activation."""

    part_name: ClassVar[str] = "headless"
    views: int = 1

    def needs(self) -> Needs:
        """Returns that it takes as many views as are asked for."""
        return Needs(views=self.views)

    def head(self, block: BlockInfo, classes: int) -> nn.Module:
        """Returns the loss."""
        return _MeanSquare()


class _MeanSquare(nn.Module):
    def forward(self, h: Tensor, batch: Batch) -> Tensor:
        return mean(h.square(), own(h)).mean()


class Checkpointed(BackboneSettings):
    """A network of which each block, with what it reads, is computed again in the backward pass."""

    part_name: ClassVar[str] = "checkpointed"
    of: SkipValidation[BackboneSettings]

    def make(self, shape: Shape) -> Backbone:
        """Returns the network."""
        network = self.of.make(shape)
        read = network.read
        network.blocks = nn.ModuleList(_Again(partial(read, i), block) for i, block in enumerate(network.blocks))
        network.read = lambda index, h: h
        return network


class _Again(nn.Module):
    def __init__(self, read: Callable[[Tensor], Tensor], block: nn.Module) -> None:
        super().__init__()
        self.read = read
        self.block = block

    def forward(self, h: Tensor) -> Tensor:
        return checkpoint(lambda h: self.block(self.read(h)), h, use_reentrant=False)


def settings(network: str, method: str, way: str, **backbone: int) -> RunConfig:
    """Returns the run's settings of a network that is trained by a method in a way."""
    given, _, two_views, rows, width = NETWORKS[network]
    views = 2 if method == "info-nce" else 1
    made: Any = make_part("method", {"name": method, "projector": width} if views == 2 else method)
    net: Any = make_part("backbone", {**given, **backbone})
    return RunConfig(
        view=two_views if views == 2 else "plain",
        method=Headless(views=views) if way in HEADLESS else made,
        backbone=Checkpointed(of=net) if way == AGAIN else net,
        batch_size=rows,
        lr=1e-6,
        **dict(word.split("=") for word in way.partition(",")[0].split()),
    )


def make_take(config: RunConfig, shape: Shape, accelerator: Accelerator) -> Callable[[list[Batch]], None]:
    """Returns the trainer's step; of several micro-batches, one step of what their gradients come to."""
    step = make_step(config, accelerator, shape)

    def take(parts: list[Batch]) -> None:
        accelerator.gradient_accumulation_steps = len(parts)  # all accelerators share it
        for part in parts:
            with accelerator.accumulate():
                step(part)

    return take


def make_parts(config: RunConfig, shape: Shape, way: str, rows: int) -> list[Batch]:
    """Returns what a step is given."""
    count = PARTS if way == ADDED else 1
    return [make_batch(rows // count, shape, config.method.needs().views)] * count  # type: ignore[attr-defined]


def ways_of(network: str) -> list[str]:
    """Returns the ways in which a network is trained: stages are a residual network's."""
    return [way for way in WAYS if network == "resnet" or way not in STAGES]


def operations(config: RunConfig, shape: Shape) -> float:
    """Returns the floating-point operations of an image's products in a step."""
    return products(config, Facts(shape=shape, classes=PRETEXT_CLASSES, train=1, validation=1, test=1)).step


def time_ways(network: str, method: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Returns of each way milliseconds, products and the heads' share of them; ratios to the whole, end to end."""
    shape, rows = NETWORKS[network][1], NETWORKS[network][3]
    configs = {way: settings(network, method, way) for way in ways_of(network)}
    runs: dict[str, Callable[[], object]] = {}
    for way, config in configs.items():
        take = make_take(config, shape, make_accelerator(None))
        runs[way] = partial(take, make_parts(config, shape, way, rows))
    times = in_turn(runs, rounds, 1)
    counted = {way: operations(config, shape) for way, config in configs.items()}
    headless = configs[HEADLESS[0]].method
    bare = {way: operations(config.changed(method=headless), shape) for way, config in configs.items()}
    return {
        way: {
            "ms": round(statistics.median(times[way]), 1),
            "time": ratios(times[way], times[WHOLE]),
            "gflop": round(rows * counted[way] / 1e9, 2),
            "products": round(counted[way] / counted[WHOLE], 3),
            "heads": round(1 - bare[way] / counted[way], 3),
        }
        for way in configs
    }


def measure(network: str, method: str, way: str, depth: int) -> float:
    """Returns by how many MiB a step raises this process's peak; with a depth, of the MLP that is as deep."""
    of_depth = {"width": DEPTH_WIDTH, "depth": depth} if depth else {}
    config, shape = settings(network, method, way, **of_depth), NETWORKS[network][1]
    take = make_take(config, shape, make_accelerator(None))
    libc = ctypes.CDLL(None)

    def step(rows: int) -> None:
        take(make_parts(config, shape, way, rows))
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)

    return growth(step, DEPTH_ROWS if depth else NETWORKS[network][3])


def memory(cases: list[tuple[str, str, str, int]], kept: bool) -> dict[tuple[str, str, str, int], float]:
    """Returns the MiB of each case, measured in processes of their own, two at a time: none tells in another's peak."""
    variables = {} if kept else {"MALLOC_MMAP_THRESHOLD_": str(2**17)}  # glibc's own, which the program then leaves

    def of(case: tuple[str, str, str, int]) -> float:
        found: float = apart(__file__, "--case", json.dumps(case), **variables)
        return round(found, 1)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(cases, pool.map(of, cases), strict=True))


def markdown(records: list[dict[str, str]]) -> str:
    """Returns a table of records that have the same keys."""
    lines = [[*records[0]], ["---"] * len(records[0]), *(record.values() for record in records)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table(found: Mapping[str, Mapping[str, Mapping[str, Any]]], mib: Mapping[tuple[str, str, str, int], float]) -> str:
    """Returns what was found as Markdown, a row for each network and way, in each cell the methods side by side."""
    rows = []
    for network, by_method in found.items():
        for way in ways_of(network):
            cells = [by_method[method][way] for method in METHODS]
            rows.append(
                {
                    "network": network,
                    "way": way,
                    "ms a step": _beside(f"{cell['ms']:.0f}" for cell in cells),
                    "time": _beside(SPREAD.format(**cell["time"]) for cell in cells),
                    "GFLOP": _beside(f"{cell['gflop']:.3g}" for cell in cells),
                    "products": _beside(f"{cell['products']:.2f}" for cell in cells),
                    "heads, %": _beside(f"{100 * cell['heads']:.0f}" for cell in cells),
                    "MiB": _beside(f"{mib[case]:.0f}" for m in METHODS if (case := (network, m, way, 0)) in mib),
                }
            )
    return markdown(rows)


def _beside(cells: Iterator[str]) -> str:
    return " / ".join(cells)


def main(
    networks: Annotated[str, typer.Option(help="Which are measured.")] = ",".join(NETWORKS),
    rounds: Annotated[int, typer.Option(help="Rounds that count, after one that does not.", min=2)] = 5,
    depths: Annotated[str, typer.Option(help="Blocks of the MLP over which memory is measured; may be empty.")] = (
        "4,16,64"
    ),
    most: Annotated[float, typer.Option(help="Ratio of memory cut at each block, deepest to shallowest.")] = 1.3,
    plot_to: Annotated[Path | None, typer.Option("--plot", help="Draw memory over depth, as SVG.")] = None,
    kept: Annotated[bool, typer.Option("--kept", help="Measure memory with large buffers kept in the heap.")] = False,
    case: Annotated[str | None, typer.Option(hidden=True)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure local beside end-to-end training of the same networks, on random images."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if case is not None:
        print(json.dumps(measure(*json.loads(case))))
        return
    chosen = [name for name in networks.split(",") if name]
    wanted = [int(depth) for depth in depths.split(",") if depth]
    if unknown := set(chosen) - NETWORKS.keys():
        raise typer.BadParameter(f"--networks names {', '.join(unknown)}: choose among {', '.join(NETWORKS)}")
    load_before = os.getloadavg()[0]
    found = {net: {method: time_ways(net, method, rounds) for method in METHODS} for net in chosen}
    each = [(net, m, way, 0) for net in chosen for way in ways_of(net) if way not in HEADLESS for m in METHODS]
    deep = {way: {d: ("mlp", "cross-entropy", way, d) for d in wanted} for way in (LOCAL, WHOLE, AGAIN, ADDED)}
    mib = memory([*each, *(case for by in deep.values() for case in by.values())], kept)
    grown = {way: {d: mib[case] for d, case in by.items()} for way, by in deep.items()}
    result = {
        "settings": f"{PARTS} micro-batches, {rounds} rounds; over depth: width {DEPTH_WIDTH}, batch {DEPTH_ROWS}",
        "machine": f"{cpu_facts()[0]}, {platform.machine()}, {torch.get_num_threads()} threads",
        "load_average": f"{load_before:.2f} before, {os.getloadavg()[0]:.2f} after",
        "versions": f"python {platform.python_version()}, torch {torch.__version__}",
    }
    if as_json:
        by_case = {" ".join(key[:3]): mib[key] for key in each}
        print(json.dumps({**result, "found": found, "mib": by_case, "mib_over_depth": grown}, indent=2))
    else:
        print("\n".join(f"{key}: {value}" for key, value in result.items()))
        if chosen:
            print(f"\ncells: {_beside(iter(METHODS))}; time and products where {WHOLE} is 1\n")
            print(table(found, mib))
        if wanted:
            lines = [{"MiB by blocks": way, **{str(d): f"{by[d]:.0f}" for d in wanted}} for way, by in grown.items()]
            print(f"\n{markdown(lines)}")
    if not wanted:
        return
    if plot_to is not None:
        plot({way.removeprefix(f"{WHOLE}, "): by for way, by in grown.items()}, plot_to, "blocks")
    ratio = grown[LOCAL][wanted[-1]] / grown[LOCAL][wanted[0]]
    if ratio > most:
        print(f"memory of {LOCAL} grows by {ratio:.2f} with depth, above {most}", file=sys.stderr)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
