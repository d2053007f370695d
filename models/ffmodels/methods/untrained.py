"""No training: what a network's features are worth before anything was learned, beside every method."""

from __future__ import annotations

from torch import Tensor, nn

from ffmodels.backbones.base import BlockInfo
from ffmodels.batch import Batch
from ffmodels.methods.base import Method


class Untrained(Method):
    """The network as it was drawn: it is never trained, whatever the epochs."""

    trains = False

    def head(self, block: BlockInfo, classes: int) -> nn.Module:
        """Returns a loss of zero."""
        return _Nothing()


class _Nothing(nn.Module):
    def forward(self, h: Tensor, batch: Batch) -> Tensor:
        return h.float().sum() * 0.0
