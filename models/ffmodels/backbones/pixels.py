"""The pixels themselves: what an image is worth without a network, beside every network."""

from __future__ import annotations

from torch import Tensor, nn

from ffcore.settings import setting
from ffmodels.backbones.base import Backbone, BackboneSettings, Between, Shape


class Pixels(BackboneSettings):
    """The image as it is, in one block that has nothing to train."""

    between: Between = setting("none", description="How the image is normalised where it is read.")

    def make(self, shape: Shape) -> Backbone:
        """Returns the network: its features are the pixels, in [0, 1] unless they are normalised."""
        return _Network(nn.Identity(), [nn.Identity()], shape=shape, between=self.between, groups=self.groups)


class _Network(Backbone):
    def pool(self, h: Tensor) -> Tensor:
        return h.flatten(1)
