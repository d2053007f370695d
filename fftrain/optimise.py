"""Units, each with what optimises it, and the learning rate over the epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ffmodels.units import Unit
from fftrain.config import RunConfig


def prepare(units: Sequence[Unit], config: RunConfig, accelerator: Accelerator) -> tuple[list[nn.Module], list[Any]]:
    """Returns the units, each wrapped by itself where it has something to train, and an optimizer for each."""
    wrapped: list[nn.Module] = []
    optimizers: list[Any] = []
    for unit in units:
        if config.epochs == 0 or not any(p.requires_grad for p in unit.parameters()):
            wrapped.append(unit.to(accelerator.device))
            optimizers.append(None)
            continue
        wrapped.append(accelerator.prepare(unit))
        adam = torch.optim.AdamW(wrapped[-1].parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
        optimizers.append(accelerator.prepare(adam))
    return wrapped, optimizers


def rate(config: RunConfig, epochs: float) -> float:
    """Returns the share of the learning rate after so many epochs."""
    if config.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * epochs / config.epochs)) / 2
