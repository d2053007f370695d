"""predsim (Nokland & Eidnes 2019, arXiv 1901.06656): each block predicts the class, and images of a class look alike.

    L = (1 - beta) cross_entropy(W h, y) + beta mean (S(g(h)) - S(y))^2,

S the cosines of all pairs of images, each image's features centred by their own mean; of the label, of its one-hot
vector. g is linear, on a map a 3x3 convolution of which the deviation over space is taken. beta = 0 is `pred`, the rule
of Mono-Forward (arXiv 2501.09238); beta = 1 is `sim`. The batch is that of all processes. Letters: B images, R of all
processes, C channels, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ffcore.settings import setting
from ffmodels.backbones.base import Backbone, BlockInfo, as_it_is
from ffmodels.batch import Batch
from ffmodels.conditions import Condition
from ffmodels.methods.base import Logits, Method, Needs, Readout
from ffmodels.projector import in_full_precision


class PredSim(Method):
    """The class is predicted, and images of a class are made alike: pred, sim, or both."""

    beta: float = setting(0.99, ge=0, le=1, description="Weight of what is alike: 0 is pred alone, 1 is sim alone.")

    def needs(self) -> Needs:
        """Returns that it reads labels."""
        return Needs(labels=True)

    def head(self, block: BlockInfo, classes: int) -> nn.Module:
        """Returns a classifier of the block's features that begins at 0 and what is made alike, as far as asked for."""
        return _Head(block, classes, self.beta)

    def readout(
        self, backbone: Backbone, condition: Condition, heads: Mapping[int, nn.Module], classes: int
    ) -> Readout | None:
        """Returns the logits of each head, the last block's last; None where nothing is predicted."""
        return None if self.beta == 1 else Logits(backbone, heads)


class _Head(nn.Module):
    def __init__(self, block: BlockInfo, classes: int, beta: float) -> None:
        super().__init__()
        self.features, self.normalise = block.features, block.normalise
        self.classes, self.beta = classes, beta
        if beta < 1:
            self.linear = nn.Linear(block.dim, classes)
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)
        if beta > 0:
            C = block.shape[0]
            on_map = len(block.shape) > 1
            self.alike = nn.Conv2d(C, C, 3, padding=1, bias=False) if on_map else nn.Linear(C, C, bias=False)

    def logits(self, h: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.features(h))
        return logits

    def forward(self, h: Tensor, batch: Batch) -> Tensor:
        losses = []
        if self.beta < 1:
            losses.append((1 - self.beta) * functional.cross_entropy(self.logits(h), batch.labels))
        if self.beta > 0:
            seen, labels = batch.gather(_of_space(self.alike(self.normalise(h)))), batch.gather(batch.labels)
            target = functional.one_hot(labels, self.classes).float()
            losses.append(self.beta * in_full_precision(similarity_loss, seen, target))
        return torch.stack(losses).sum()


def similarity_loss(seen: Tensor, target_RK: Tensor) -> Tensor:
    """Returns how far the cosines of all pairs of images are from those of their targets: the mean square, a scalar.

    Args:
        seen: float [R, F], or maps [R, C, H, W], of which the deviation of each channel is taken: of one pixel, itself.
        target_RK: what the images should be alike in: one-hot labels.
    """
    return (_cosines(_of_space(seen)) - _cosines(target_RK)).square().mean()


def _of_space(seen: Tensor) -> Tensor:
    """Returns the deviation of each channel over space, [R, C]: of one pixel, itself."""
    if seen.ndim == 2:
        return seen
    seen = as_it_is(seen).flatten(2)
    return (seen.var(-1, unbiased=False) + 1e-8).sqrt() if seen.shape[-1] > 1 else seen.squeeze(-1)


def _cosines(x_RF: Tensor) -> Tensor:
    z_RF = functional.normalize(x_RF - x_RF.mean(1, keepdim=True), dim=1, eps=1e-6)
    return z_RF @ z_RF.T
