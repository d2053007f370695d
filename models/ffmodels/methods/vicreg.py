"""VICReg (Bardes, Ponce & LeCun 2022, arXiv 2105.04906) at each block.

Two views of an image go through the network; of their projections p and q, with the deviation s_i (the root of the
variance and 1e-4) and the covariance C of each over the batch,

    L = invariance * mean (p - q)^2 + variance * mean relu(1 - s_i) + covariance * sum_(i != j) C_ij^2 / P,

the last two for both views, the middle one as their mean. The batch is that of all processes. Letters: B images of all
processes, P width of the projector.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from ffcore.settings import setting
from ffmodels.backbones.base import BlockInfo
from ffmodels.batch import Batch
from ffmodels.methods.base import Method, Needs
from ffmodels.projector import in_full_precision, projector


class VICReg(Method):
    """VICReg: two views agree, each feature varies, and features do not repeat each other; no labels."""

    projector: int = setting(512, ge=2, description="Width of the projector.")
    grid: int = setting(1, ge=1, le=16, description="Pixels a side of the map that the projector keeps: 1 is none.")
    invariance: float = setting(25.0, ge=0, description="Weight of how far the views are apart.")
    variance: float = setting(25.0, ge=0, description="Weight of what a deviation lacks of 1.")
    covariance: float = setting(1.0, ge=0, description="Weight of what two features have in common.")

    def needs(self) -> Needs:
        """Returns that it takes two views, in full batches."""
        return Needs(views=2, drop_last=True)

    def head(self, block: BlockInfo, classes: int) -> nn.Module:
        """Returns a projector and the loss."""
        weights = {"invariance": self.invariance, "variance": self.variance, "covariance": self.covariance}
        return _Head(block, projector(block, self.projector, self.grid), weights)


class _Head(nn.Module):
    def __init__(self, block: BlockInfo, network: nn.Module, weights: dict[str, float]) -> None:
        super().__init__()
        self.normalise = block.normalise
        self.projector = network
        self.weights = weights

    def forward(self, h: Tensor, batch: Batch) -> Tensor:
        one, other = (batch.gather(p) for p in self.projector(self.normalise(h)).chunk(2))
        return vicreg_loss(one, other, **self.weights)


def vicreg_loss(one_BP: Tensor, other_BP: Tensor, *, invariance: float, variance: float, covariance: float) -> Tensor:
    """Returns the loss of two views' projections, a scalar, at least float32; one row has no deviation."""
    weights = {"invariance": invariance, "variance": variance, "covariance": covariance}
    return in_full_precision(_loss, one_BP, other_BP, **weights)


def _loss(one_BP: Tensor, other_BP: Tensor, invariance: float, variance: float, covariance: float) -> Tensor:
    loss = invariance * functional.mse_loss(one_BP, other_BP)
    for p_BP in (one_BP, other_BP):
        centred_BP = p_BP - p_BP.mean(0)
        c_PP = centred_BP.T @ centred_BP / max(1, len(p_BP) - 1)
        own_P = c_PP.diagonal()
        loss = loss + variance * functional.relu(1 - (own_P + 1e-4).sqrt()).mean() / 2
        loss = loss + covariance * (c_PP.square().sum() - own_P.square().sum()) / p_BP.shape[1]
    return loss
