"""What optimises the units of a network: in which order they learn, and at which rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from ffcore.errors import SettingError
from ffmodels.backbones.base import Backbone
from ffmodels.units import Unit, heads_of, shifted
from fftrain.config import RunConfig
from fftrain.loop import Turn

# After which shares of the epochs a rate in steps falls to a quarter (Nokland & Eidnes 2019).
FALLS = (0.50, 0.75, 0.89, 0.94)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Epochs in which the same units learn.

    Args:
        units: that run, the lowest first; those below the first that learns are frozen.
        turns: that the steps take one after another.
        rates: of each optimizer, before the schedule.
        epochs: of it.
        learns: the first that learns.
        before: the epochs before it.
    """

    units: Sequence[Unit]
    turns: Sequence[Turn]
    rates: Sequence[tuple[Any, float]]
    epochs: int
    learns: int = 0
    before: int = 0

    @property
    def names(self) -> list[str]:
        """Of the losses."""
        return [f"block{index + 1}" for index in heads_of(self.units[self.learns :])]

    def begin(self) -> None:
        """Freezes what is below."""
        for unit in self.units[: self.learns]:
            unit.freeze()

    def set_rates(self, schedule: str, epochs: float) -> None:
        """Sets the rates as they are after so many epochs of the run."""
        for optimizer, lr in self.rates:
            for group in optimizer.param_groups:
                group["lr"] = lr * rate(schedule, (epochs - self.before) / self.epochs)


def stretches(units: Sequence[Unit], backbone: Backbone, config: RunConfig, accelerator: Accelerator) -> list[Stretch]:
    """Returns what learns when; each unit is wrapped by itself where it has something to train.

    Together: all units in every step. Greedy: a stretch for each, the lowest first. Overlap: cuts are shifted by a
    block in every other step, under one optimizer, which steps what has a gradient: a unit's own.

    Raises:
        SettingError: where epochs or rates are not those of the network's units.
    """

    def learns(unit: Unit) -> bool:
        return config.epochs > 0 and any(p.requires_grad for p in unit.parameters())

    def wrapped(unit: Unit) -> nn.Module:
        made: nn.Module = accelerator.prepare(unit) if learns(unit) else unit.to(accelerator.device)
        return made

    def optimizer(of: Sequence[nn.Module]) -> Any:
        parameters = [*dict.fromkeys(p for module in of for p in module.parameters())]
        adam = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
        return accelerator.prepare(adam)

    learning = [i for i, unit in enumerate(units) if learns(unit)]
    rates, epochs = by_unit(config, len(learning))
    ready = [*map(wrapped, units)]
    if config.order == "overlap" and learning:
        one = optimizer(ready)
        both = (ready, [*map(wrapped, shifted(units, backbone))])
        turns = [(each, [one] * len(each)) for each in both]
        return [Stretch(units=units, turns=turns, rates=[(one, config.lr)], epochs=config.epochs)]
    optimizers = [optimizer([unit]) if i in learning else None for i, unit in enumerate(ready)]
    own = [(optimizers[i], lr) for i, lr in zip(learning, rates, strict=True)]
    if config.order != "greedy" or not learning:
        return [Stretch(units=units, turns=[(ready, optimizers)], rates=own, epochs=config.epochs)]
    return [
        Stretch(
            units=units[: i + 1],
            learns=i,
            turns=[([*units[:i], ready[i]], [None] * i + [optimizers[i]])],
            rates=[own[k]],
            before=sum(epochs[:k]),
            epochs=epochs[k],
        )
        for k, i in enumerate(learning)
    ]


def by_unit(config: RunConfig, count: int) -> tuple[list[float], list[int]]:
    """Returns the rate and, in greedy order, the epochs of each unit that learns."""
    rates, epochs = config.unit_lr or (config.lr,), config.unit_epochs
    if config.unit_lr and len(rates) > max(1, count):
        raise SettingError(f"--unit-lr is {_words(rates)}, but {count} units learn: give at most one for each")
    if epochs is not None and len(epochs) != count:
        raise SettingError(f"--unit-epochs is {_words(epochs)}, but {count} units learn: give one for each")
    if config.order == "greedy" and config.epochs < count:
        raise SettingError(f"--epochs is {config.epochs}, but {count} units learn one after another: give more")
    even = [config.epochs // count + (k < config.epochs % count) for k in range(count)]
    return [rates[min(k, len(rates) - 1)] for k in range(count)], even if epochs is None else [*epochs]


def _words(values: Sequence[float]) -> str:
    return ",".join(map(str, values))


def rate(schedule: str, share: float) -> float:
    """Returns the share of the learning rate after a share of the epochs."""
    if schedule == "constant":
        return 1.0
    if schedule == "steps":
        return float(0.25 ** sum(share >= fall for fall in FALLS))
    return (1 + math.cos(math.pi * share)) / 2
