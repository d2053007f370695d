"""Vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) of torchvision's encoder blocks, one a block.

Its tokens are a map between blocks, [B, D, H, W], as a convolutional network's channels are: features are their mean,
and there is no class token, since a token that gathers over all blocks gathers nothing that one block is trained for.
Letters: B batch, D width, H W tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import EncoderBlock

from ffcore.errors import SettingError
from ffcore.settings import setting
from ffmodels.backbones.base import Backbone, BackboneSettings, Shape


class ViT(BackboneSettings):
    """Vision transformer, an encoder block a block, over patches of pixels."""

    patch: int = setting(4, ge=1, description="Pixels of a patch's side.")
    width: int = setting(192, ge=1, description="Width of a token.")
    depth: int = setting(6, ge=1, le=1000, description="Number of blocks.")
    heads: int = setting(3, ge=1, description="Attention heads of a block.")
    hidden: int = setting(768, ge=1, description="Hidden units of a block's two layers.")
    dropout: float = setting(0.0, ge=0, lt=1, description="Share that is dropped in a block in training.")

    def make(self, shape: Shape) -> Backbone:
        """Returns patch embedding and blocks. Raises SettingError for sizes that do not divide."""
        if shape[1] % self.patch or shape[2] % self.patch:
            raise SettingError(
                f"backbone.patch is {self.patch}, but images have {shape[1]}x{shape[2]} pixels: choose one that "
                "divides both"
            )
        if self.width % self.heads:
            raise SettingError(f"backbone.heads is {self.heads}: it must divide backbone.width, {self.width}")
        blocks = [_Block(self.heads, self.width, self.hidden, self.dropout) for _ in range(self.depth)]
        return Backbone(
            _Stem(shape, self.patch, self.width), blocks, shape=shape, between=self.between, groups=self.groups
        )


class _Stem(nn.Module):
    """Patches, each embedded linearly, and a learned vector for each place."""

    def __init__(self, shape: Shape, patch: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(shape[0], width, patch, patch)
        nn.init.trunc_normal_(self.embed.weight, std=math.sqrt(1 / (shape[0] * patch * patch)))
        nn.init.zeros_(self.embed.bias)  # type: ignore[arg-type]
        self.places = nn.Parameter(torch.empty(1, width, shape[1] // patch, shape[2] // patch).normal_(std=0.02))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        embedded: Tensor = self.embed(images_BCHW) + self.places
        return embedded


class _Block(nn.Module):
    """An encoder block over a map of tokens."""

    def __init__(self, heads: int, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.encoder = EncoderBlock(heads, width, hidden, dropout, dropout)

    def forward(self, h_BDHW: Tensor) -> Tensor:
        tokens_BTD: Tensor = self.encoder(h_BDHW.flatten(2).mT)
        return tokens_BTD.mT.reshape(h_BDHW.shape)
