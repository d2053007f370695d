"""Cross-entropy on a linear head: BP where gradients are never cut (`cut=never at=last`), local where they are.

Cut at each block it is the classifier of Mono-Forward and of `pred` (Nokland & Eidnes 2019), here on the pooled
features. Letters: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from ffmodels.backbones.base import Backbone, BlockInfo
from ffmodels.batch import Batch
from ffmodels.conditions import Condition
from ffmodels.methods.base import Logits, Method, Needs, Readout


class CrossEntropy(Method):
    """Cross-entropy of the label on a linear head."""

    def needs(self) -> Needs:
        """Returns that it reads labels."""
        return Needs(labels=True)

    def head(self, block: BlockInfo, classes: int) -> nn.Module:
        """Returns a linear classifier on the block's features."""
        return _Head(block, classes)

    def readout(
        self, backbone: Backbone, condition: Condition, heads: Mapping[int, nn.Module], classes: int
    ) -> Readout | None:
        """Returns the logits of each head, the last block's last."""
        return Logits(backbone, heads)


class _Head(nn.Module):
    def __init__(self, block: BlockInfo, classes: int) -> None:
        super().__init__()
        self.features = block.features
        self.linear = nn.Linear(block.dim, classes)

    def logits(self, h: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.features(h))
        return logits

    def forward(self, h: Tensor, batch: Batch) -> Tensor:
        return functional.cross_entropy(self.logits(h), batch.labels)
