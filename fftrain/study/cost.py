"""How long a cell of a study will take: a count of its products and bytes, and how fast this machine does them.

An estimate to plan by: a study corrects it by the cells that it has finished. Letters: D features of a block.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fftrain.features import block_choices
from fftrain.study.sketch import products
from fftrain.study.spec import Cell

# Seconds of a step that is too small to count, by block and pass, and of everything around a cell.
STEP_OVERHEAD = 2e-4
CELL_OVERHEAD = 1.0


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Products and bytes a second, as measured."""

    flops: float
    bytes: float

    @classmethod
    def measure(cls, device: torch.device) -> Machine:
        """Times a product of the study's size and a pass over memory: about a second on two cores."""

        def best(work: Callable[[], object]) -> float:
            times = []
            for _ in range(5):
                began = time.perf_counter()
                work()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                times.append(time.perf_counter() - began)
            return min(times)

        rows, weights = torch.rand(256, 2000, device=device), torch.rand(2000, 2000, device=device)
        many = torch.rand(16_000_000, device=device)
        return cls(
            flops=2 * rows.numel() * len(weights) / best(lambda: rows @ weights),
            bytes=2 * 4 * many.numel() / best(lambda: many.add_(1.0)),
        )


# A machine that stands for none, to compare costs by.
NOMINAL = Machine(flops=1e11, bytes=1e10)


def estimate(cell: Cell, machine: Machine) -> dict[str, float]:
    """Returns the estimated seconds of each step of a cell, on one process."""
    training, testing = _pretraining(cell, machine)
    found = {"pretrain": CELL_OVERHEAD + training}
    facts = cell.facts
    images = facts.train + facts.validation + facts.test
    # Those of baselines are shared with other cells; products in float64 and small ones are slower.
    image = 1.3 * products(cell.config, facts).features / machine.flops
    for name, configs in cell.places.items():
        parts: list[Any] = [config.evaluation for config in configs]
        counted = sum(3 * 1.3 * part.products(facts, _read(cell)) / machine.flops for part in parts)
        passes = images + sum(2 * part.passes(facts) for part in parts)  # of the network before training too
        found[name] = passes * image + counted + (testing if any(not part.labels for part in parts) else 0.0)
    return found


def _read(cell: Cell) -> list[int]:
    """Returns D of each block, and of the last ones together."""
    dims = cell.sketch.dims
    return [sum(dims[i] for i in blocks) for blocks in block_choices(len(dims))]


def _pretraining(cell: Cell, machine: Machine) -> tuple[float, float]:
    """Returns the estimated seconds of training with its curves and validation, and of the test split."""
    config, facts = cell.config, cell.facts
    count = products(config, facts)
    images = facts.train + (0 if config.holdout else facts.validation)
    told = count.told / machine.flops
    precision = 1.0 if config.mixed_precision == "no" else 0.55
    step = 7 * 4 * cell.sketch.weights / machine.bytes + STEP_OVERHEAD * 3 * len(cell.sketch.dims)
    epoch = images * precision * count.step / machine.flops + step * -(-images // config.batch_size)
    curves = 2 * min(config.eval_images, images) * (told + count.step / 3 / machine.flops)
    return config.epochs * (epoch + curves) + facts.validation * told, facts.test * told
