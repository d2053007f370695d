"""InfoNCE at each block: a view of an image is told from all other images by its other view; or by its class (SupCon).

Two views of B images go through the network. Of their projections, z_1 ... z_2B of length 1, and the positives P(i) of
each, with S_ij = z_i . z_j / temperature,

    L = mean over i of  -1/|P(i)| sum_(p in P(i)) log( exp S_ip / sum_(j != i) exp S_ij ).

P(i) is the other view of the image: NT-Xent (Chen et al. 2020, arXiv 2002.05709). With `supervised`, all views of all
images of its class: SupCon (Khosla et al. 2020, arXiv 2004.11362, L_out). The batch is that of all processes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ffcore.settings import setting
from ffmodels.backbones.base import BlockInfo
from ffmodels.batch import Batch
from ffmodels.contrast import nce_loss
from ffmodels.methods.base import Method, Needs
from ffmodels.projector import projector


class InfoNCE(Method):
    """InfoNCE: an image is told from all others by its other view, or by its class; labels only in the latter case."""

    projector: int = setting(512, ge=2, description="Width of the projector.")
    grid: int = setting(1, ge=1, le=16, description="Pixels a side of the map that the projector keeps: 1 is none.")
    temperature: float = setting(0.2, gt=0, description="By which cosines are divided.")
    supervised: bool = setting(False, description="Whether images of its class are positives too: SupCon.")

    def needs(self) -> Needs:
        """Returns that it takes two views, in full batches, and labels where it is supervised."""
        return Needs(labels=self.supervised, views=2, drop_last=True)

    def head(self, block: BlockInfo, classes: int) -> nn.Module:
        """Returns a projector and the loss."""
        return _Head(block, projector(block, self.projector, self.grid), self.temperature, self.supervised)


class _Head(nn.Module):
    def __init__(self, block: BlockInfo, network: nn.Module, temperature: float, supervised: bool) -> None:
        super().__init__()
        self.normalise = block.normalise
        self.projector = network
        self.temperature = temperature
        self.supervised = supervised

    def forward(self, h: Tensor, batch: Batch) -> Tensor:
        one, other = (batch.gather(p) for p in self.projector(self.normalise(h)).chunk(2))
        labels = batch.gather(batch.labels) if self.supervised else torch.arange(len(one), device=one.device)
        return nce_loss(torch.cat([one, other]), labels.repeat(2), self.temperature)
