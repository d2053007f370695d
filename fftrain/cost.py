"""How long a cell of a study will take: a count of its products and bytes, and how fast this machine does them.

An estimate to plan by: a study corrects it by the cells that it has finished. Letters: D features of a layer, L layers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ffmodels.backbone import last_layers
from fftrain.config import PretrainConfig, ProbeConfig
from fftrain.data import Facts
from fftrain.probe import GRID
from fftrain.registry import TASKS
from fftrain.spec import Cell, step_name

# Seconds of a step that is too small to count, by layer and pass, and of everything around a cell.
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


def estimate(cell: Cell, facts: Facts, machine: Machine) -> dict[str, float]:
    """Returns the estimated seconds of each step of a cell, on one process."""
    config = cell.config
    training, testing = _pretraining(config, facts, machine)
    found = {"pretrain": CELL_OVERHEAD + training, "test": testing}
    found |= {step_name(probe): _probe(config, probe, facts, machine) for probe in cell.probes}
    if cell.analysis is not None:
        images, points = min(cell.analysis.images, facts.train), max(2, cell.analysis.points)
        widths = [config.width] * config.depth + [_last_width(config)]
        decoders = 2 * sum((2 * images * w**2 + 20 * w**3) / (machine.flops / 2) for w in widths)
        found["analysis"] = decoders + config.depth * 1e-3 * points * math.log(points)
    return found


def _weights(config: PretrainConfig, facts: Facts) -> int:
    """Returns the weights of the backbone."""
    return math.prod(facts.shape) * config.width + (config.depth - 1) * config.width**2


def _last_width(config: PretrainConfig) -> int:
    return config.width * len(last_layers(config.depth))


def _pretraining(config: PretrainConfig, facts: Facts, machine: Machine) -> tuple[float, float]:
    """Returns the estimated seconds of training with its curves and validation, and of the test split."""
    weights, goodness = _weights(config, facts), config.method != "bp"
    images = facts.train + (0 if config.holdout else facts.validation)
    forward = 2 * weights / machine.flops
    products = 2 if config.method.startswith("ff") else 3  # forward, weights, and where it goes through, inputs
    precision = 1.0 if config.mixed_precision == "no" else 0.55
    step = 7 * 4 * weights / machine.bytes + STEP_OVERHEAD * config.depth * (products + 1)
    epoch = images * (2 if goodness else 1) * products * precision * forward + step * -(-images // config.batch_size)
    task = TASKS.load(config.task)(("",) * facts.classes)
    classes = len(task.class_names)
    scored = forward * (1 if task.reads_class else classes) * (classes if goodness else 1)
    curves = 2 * min(config.eval_images, images) * scored
    return config.epochs * (epoch + curves) + facts.validation * scored, facts.test * scored


def _probe(config: PretrainConfig, probe: ProbeConfig, facts: Facts, machine: Machine) -> float:
    """Returns the estimated seconds of the probes of all layers; the baselines are shared with other cells."""
    features = config.width * config.depth + (_last_width(config) if config.depth > 1 else 0)
    images = facts.train + facts.validation + facts.test
    extracting = 2 * images * 2 * _weights(config, facts) / machine.flops
    row = 4 * facts.classes * len(GRID) * features / (machine.flops / 3) + 4 * 4 * features / machine.bytes
    return extracting + 1.3 * probe.epochs * facts.train * row
