"""What looks at the losses of a step before its optimizer takes it. Letters: B batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ffmodels.batch import Batch


class Watch:
    """Adds up an epoch's losses, keeps what is not finite from the weights, and cuts gradients that are too long.

    On a CPU a unit's losses are looked at before its optimizer steps. To look makes a GPU wait: there a flag on the
    device lets the optimizer leave the step out, and the sums tell when the epoch ends. All processes decide alike.

    Args:
        accelerator: devices and processes.
        names: of all losses, in their order.
        clip: the largest norm of a unit's gradient; None: any.
    """

    def __init__(self, accelerator: Accelerator, names: Sequence[str], clip: float | None = None) -> None:
        self.accelerator = accelerator
        self.names = [*names]
        self.clip = clip
        # In one place: small tensors that outlive a step lie in the holes that large ones leave, and break them up.
        self.sums = torch.zeros(len(self.names), device=accelerator.device)

    def __call__(self, losses: Mapping[str, Tensor], batch: Batch, optimizer: Any) -> None:
        """Takes a unit's losses before its optimizer steps. Raises FloatingPointError with their names on a CPU."""
        accelerator, rows = self.accelerator, 0 if batch.empty else len(batch.labels)
        found = torch.stack([*losses.values()])
        at = self.names.index(next(iter(losses)))
        self.sums[at : at + len(losses)] += found * rows
        total = found.sum()
        if accelerator.num_processes > 1:
            total = accelerator.reduce(total, "sum")
        if accelerator.device.type == "cpu":
            if not torch.isfinite(total):
                raise FloatingPointError(" and ".join(losses))
        elif optimizer is not None and accelerator.scaler is None:  # which has a flag of its own
            optimizer.optimizer.found_inf = (~torch.isfinite(total)).float()
        if self.clip is not None and optimizer is not None:
            accelerator.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], self.clip)

    def means(self, images: int) -> dict[str, float]:
        """Returns the mean of each loss over so many images. Raises FloatingPointError where one is not finite."""
        totals: list[float] = self.accelerator.reduce(self.sums, "sum").tolist()
        bad = [name for name, total in zip(self.names, totals, strict=True) if not math.isfinite(total)]
        if bad:
            raise FloatingPointError(" and ".join(bad))
        return {name: total / images for name, total in zip(self.names, totals, strict=True)}
