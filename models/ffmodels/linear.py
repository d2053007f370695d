"""Linear classifiers on features, and the standardisation that is folded into them.

Letters: B batch, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ffcore.files import AnyPath
from ffmodels.run import load_weights

# What a chunk of float64 may take, in bytes, and its rows at most.
BYTES, ROWS = 2**25, 512


@dataclass(frozen=True)
class Standardisation:
    """Mean and deviation of each feature over a training split, float32 [F]."""

    mean_F: Tensor
    std_F: Tensor

    @classmethod
    def of(cls, features_NF: Tensor) -> Standardisation:
        """Measures features [N, F] of a training split: in float64, chunks merged by Chan et al. (1979)."""
        mean_F = torch.zeros(features_NF.shape[1], dtype=torch.float64)
        squares_F, count = torch.zeros_like(mean_F), 0
        for chunk in torch.split(features_NF, max(1, min(ROWS, BYTES // (8 * features_NF.shape[1])))):
            x = chunk.to(torch.float64, copy=True)
            chunk_mean_F, total = x.mean(0), count + len(x)
            away_F = chunk_mean_F - mean_F
            squares_F += x.sub_(chunk_mean_F).square_().sum(0) + away_F.square() * (count * len(x) / total)
            mean_F += away_F * (len(x) / total)
            count = total
        return cls(mean_F.float(), (squares_F / count).sqrt().float())

    @classmethod
    def none(cls, features: int) -> Standardisation:
        """Returns the one that leaves features as they are."""
        return cls(torch.zeros(features), torch.ones(features))

    @property
    def scale_F(self) -> Tensor:
        """1 / deviation; 0 for a feature that never changes, so that a dead unit stays out of the sum."""
        return torch.where(self.std_F > 1e-6, 1 / self.std_F.clamp(min=1e-6), 0.0)

    def apply_(self, features_NF: Tensor) -> Tensor:
        """Standardises the features in place and returns them."""
        return features_NF.sub_(self.mean_F).mul_(self.scale_F)


class LinearHead(nn.Module):
    """features_BF -> logits_BK, float32."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, features_BF: Tensor) -> Tensor:
        """Returns the logits."""
        logits: Tensor = self.linear(features_BF)
        return logits

    @classmethod
    def folded(cls, weight_KF: Tensor, bias_K: Tensor, standardisation: Standardisation) -> LinearHead:
        """Returns the head that reads raw features and computes what (weight, bias) do on standardised ones."""
        weight = weight_KF.double() * standardisation.scale_F.double()
        bias = bias_K.double() - weight @ standardisation.mean_F.double()
        head = cls(weight_KF.shape[1], weight_KF.shape[0])
        head.load_state_dict({"linear.weight": weight.float(), "linear.bias": bias.float()})
        return head


def load_head(path: AnyPath, features: int, classes: int) -> LinearHead:
    """Loads a probe, in evaluation mode, on the CPU.

    Raises:
        RunError: where the file is missing, damaged, or of another shape.
    """
    head = LinearHead(features, classes)
    load_weights(head, Path(path))
    return head.eval().requires_grad_(False)


def blocks_name(blocks: Sequence[int]) -> str:
    """Names a choice of blocks as people count them: (1,) -> 'block2', (1, 2, 3) -> 'blocks2-4'."""
    first, last = blocks[0] + 1, blocks[-1] + 1
    return f"block{first}" if first == last else f"blocks{first}-{last}"


def last_blocks(count: int) -> tuple[int, ...]:
    """Returns the blocks that are read together: the last 3 (Hinton 2022), all below 3."""
    return tuple(range(max(0, count - 3), count))
