"""The loop: one for every method, network, view and device. It knows no file, no setting and no method by name.

A unit's loss goes backward and its optimizer steps before the next unit runs: its graph and its gradients are gone by
then, and several processes reduce each unit's gradients in its own backward. Letters: B images of a process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ffmodels.batch import Batch
from ffmodels.methods.base import Method

Losses = dict[str, Tensor]
Watch = Callable[[Losses, Batch, Any], object]
Turn = tuple[Sequence[nn.Module], Sequence[Any]]
"""Units that take a step, and an optimizer for each."""


def step(
    method: Method,
    classes: int,
    units: Sequence[nn.Module],
    optimizers: Sequence[Any],
    batch: Batch,
    *,
    backward: Callable[[Tensor], object],
    watch: Watch,
    weight: float = 1.0,
) -> None:
    """Takes one step of every unit, the lowest first.

    Args:
        method: what is trained.
        classes: K of the labels.
        units: wrapped or not.
        optimizers: one for each; None where a unit has nothing to train.
        batch: this process's share.
        backward: runs a loss backward.
        watch: is given a unit's losses by name, detached, the batch, and the optimizer that is about to step. What is
            not finite must not reach the weights. To keep the losses is to keep small tensors in the holes that large
            ones leave: it adds them up.
        weight: rows of this process times processes / rows of all: so scaled, the average of the processes' gradients
            is the gradient of the mean over all rows.
    """
    h = method.inputs(batch, classes)
    for unit, optimizer in zip(units, optimizers, strict=True):
        h, losses = unit(h, batch)
        if not losses:  # frozen
            continue
        if optimizer is not None:
            backward(torch.stack([*losses.values()]).sum() * weight)
        losses = {name: loss.detach() for name, loss in losses.items()}  # the graph is gone
        watch(losses, batch, optimizer)
        del losses
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()


def train(
    method: Method,
    classes: int,
    turns: Sequence[Turn],
    batches: Iterable[tuple[Batch, float]],
    *,
    begin: Callable[[int], object],
    backward: Callable[[Tensor], object],
    watch: Watch,
    before: int = 0,
) -> None:
    """Takes a step for each batch.

    Args:
        method: as in `step`, with those that follow.
        classes: of it.
        turns: units and optimizers, which the steps take one after another.
        batches: this process's share of each batch, and its weight.
        begin: is told the number of a step, from 0, before it is taken: sets learning rates and seeds.
        backward: as in `step`.
        watch: as in `step`.
        before: steps of the run before these, which have had their turns.
    """
    for units, _ in turns:
        for unit in units:
            unit.train()
    for number, (batch, weight) in enumerate(batches):
        units, optimizers = turns[(before + number) % len(turns)]
        begin(number)
        step(method, classes, units, optimizers, batch, backward=backward, watch=watch, weight=weight)


@torch.no_grad()
def measure(method: Method, classes: int, units: Sequence[nn.Module], batches: Iterable[tuple[Batch, float]]) -> Losses:
    """Returns the mean of each loss over some batches; no weight and no statistic of a network changes.

    Args:
        method: what is trained.
        classes: K of the labels.
        units: not wrapped: each process measures batches of its own.
        batches: with the share of the whole that each is.
    """
    sums: Losses = {}
    training = [unit.training for unit in units]
    for unit in units:
        unit.eval()
    for batch, share in batches:
        h = method.inputs(batch, classes)
        for unit in units:
            h, losses = unit(h, batch)
            for name, loss in losses.items():
                sums[name] = sums.get(name, torch.zeros_like(loss)) + loss * share
    for unit, was in zip(units, training, strict=True):
        unit.train(was)
    return sums
