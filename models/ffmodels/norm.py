"""Batch normalisation by the statistics of all processes' rows: torch's SyncBatchNorm refuses CPUs.

On one process it is torch's own. Letters: B rows of a process, C channels, N numbers of a channel over all processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from ffmodels.batch import together

_counted = ContextVar("counted", default=True)


@contextmanager
def counting(rows: bool) -> Iterator[None]:
    """Says in the block whether a forward's rows count: those of an empty batch stand outside all statistics."""
    token = _counted.set(rows)
    try:
        yield
    finally:
        _counted.reset(token)


class BatchNorm(nn.BatchNorm2d):
    """Normalises each channel of [B, C] or [B, C, H, W] over all rows of all processes (Ioffe & Szegedy 2015).

    y = (x - E[x]) / sqrt(Var[x] + eps) * weight + bias. Gradients flow through the statistics to every process. In
    evaluation the running statistics stand for the batch's, and nothing changes. They do so too where a channel has a
    single number in training, which has no variance.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Takes any [B, C, ...]."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns the normalised activation, of the same shape and dtype."""
        if not self.training:
            return super().forward(input)
        if together():
            return self._together(input)
        if input.numel() == input.shape[1]:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)

    def _together(self, h: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        x = h.to(torch.promote_types(h.dtype, torch.float32))
        own = x if _counted.get() else x[:0]
        axes = [axis for axis in range(x.ndim) if axis != 1]
        line = [1, -1] + [1] * (x.ndim - 2)
        count = x.new_full((1,), own.numel() / x.shape[1])
        sums = _Sum.apply(torch.cat([own.sum(axes), count]))
        n = sums[-1].detach().clamp(min=1)
        mean_C = sums[:-1] / n
        var_C = _Sum.apply((own - mean_C.view(line)).square().sum(axes)) / n
        several = n > 1
        with torch.no_grad():
            momentum = self.momentum * several.to(n.dtype)
            self.num_batches_tracked.add_(several)
            self.running_mean.lerp_(mean_C, momentum)
            self.running_var.lerp_(var_C * (n / (n - 1).clamp(min=1)), momentum)
        mean_C = torch.where(several, mean_C, self.running_mean)
        scale_C = torch.where(several, var_C, self.running_var).add(self.eps).rsqrt() * self.weight
        return ((x - mean_C.view(line)) * scale_C.view(line) + self.bias.view(line)).to(h.dtype)


@torch.no_grad()
def settle(network: nn.Module, images: Callable[[], Tensor]) -> None:
    """Sets the running statistics of a network's batch normalisation to those of images that go through it.

    A network that was never trained has mean 0 and variance 1 there, which are no statistics of anything.

    Args:
        network: whose statistics they are; without batch normalisation nothing happens.
        images: makes what the network reads.
    """

    def measured(norm: nn.modules.batchnorm._BatchNorm, inputs: tuple[Tensor, ...]) -> None:
        h = inputs[0].to(torch.promote_types(inputs[0].dtype, torch.float32))
        if norm.running_mean is not None and norm.running_var is not None and h.numel() > h.shape[1]:
            variance_C, mean_C = torch.var_mean(h, [axis for axis in range(h.ndim) if axis != 1])
            norm.running_mean.copy_(mean_C)
            norm.running_var.copy_(variance_C)

    was = network.training
    norms = [m for m in network.eval().modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    hooks = [norm.register_forward_pre_hook(measured) for norm in norms]
    if norms:
        network(images())
    for hook in hooks:
        hook.remove()
    network.train(was)


class _Sum(torch.autograd.Function):
    """The sum over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
