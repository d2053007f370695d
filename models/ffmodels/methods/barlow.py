"""Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230) at each block, as Siddiqui et al. 2023 (arXiv 2302.01647) do.

Two views of an image go through the network; behind a projector, p1 and p2 are standardised over the batch (1e-5 is
added to variances), and

    c = p1^T p2 / B,    L = sum_i (1 - c_ii)^2 + redundancy * sum_(i != j) c_ij^2.

On a map the projector begins with a 1x1 convolution, normalised and rectified, of which it reads means over parts.
The batch is that of all processes. Letters: B images of all processes, P width of the projector.
"""

from __future__ import annotations

from torch import Tensor, nn

from ffcore.settings import setting
from ffmodels.backbones.base import BlockInfo
from ffmodels.batch import Batch
from ffmodels.methods.base import Method, Needs
from ffmodels.projector import in_full_precision, projector


class Barlow(Method):
    """Barlow Twins: two views agree in each feature, and features do not repeat each other; no labels."""

    projector: int = setting(512, ge=2, description="Width of the projector.")
    grid: int = setting(1, ge=1, le=16, description="Pixels a side of the map that the projector keeps: 1 is none.")
    redundancy: float = setting(0.0051, ge=0, description="Weight of what two features have in common (lambda).")

    def needs(self) -> Needs:
        """Returns that it takes two views, in full batches."""
        return Needs(views=2, drop_last=True)

    def head(self, block: BlockInfo, classes: int) -> nn.Module:
        """Returns a projector and the loss."""
        return _Head(block, projector(block, self.projector, self.grid), self.redundancy)


class _Head(nn.Module):
    def __init__(self, block: BlockInfo, network: nn.Module, redundancy: float) -> None:
        super().__init__()
        self.normalise = block.normalise
        self.projector = network
        self.redundancy = redundancy

    def forward(self, h: Tensor, batch: Batch) -> Tensor:
        one, other = (batch.gather(p) for p in self.projector(self.normalise(h)).chunk(2))
        return barlow_loss(one, other, self.redundancy)


def barlow_loss(one_BP: Tensor, other_BP: Tensor, redundancy: float) -> Tensor:
    """Returns the loss of two views' projections, a scalar, at least float32; what never changes has c = 0."""
    return in_full_precision(_loss, one_BP, other_BP, redundancy=redundancy)


def _loss(one_BP: Tensor, other_BP: Tensor, redundancy: float) -> Tensor:
    one_BP, other_BP = _standardised(one_BP), _standardised(other_BP)
    c_PP = one_BP.T @ other_BP / one_BP.shape[0]
    own_P = c_PP.diagonal()
    apart = c_PP.square().sum() - own_P.square().sum()
    return (1 - own_P).square().sum() + redundancy * apart


def _standardised(p_BP: Tensor) -> Tensor:
    centred_BP = p_BP - p_BP.mean(0)
    return centred_BP / (centred_BP.square().mean(0) + 1e-5).sqrt()
