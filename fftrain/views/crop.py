"""The image with its class, cropped at random from a frame of zeros around it: what supervised networks are given.

`padding` is 4 pixels with mirroring on CIFAR-10 (He et al. 2016, arXiv 1512.03385, and predsim, arXiv 1901.06656), 2
without on MNIST (predsim); Trifecta (arXiv 2311.18130) rotates too. Letters: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ffcore.errors import SettingError
from ffcore.settings import setting
from ffmodels.draws import Draws
from fftrain.geometry import warp
from fftrain.views.base import Shape, View


class Crop(View):
    """The image moved by whole pixels in a frame of zeros, mirrored and rotated at random; its label is its class."""

    padding: int = setting(4, ge=0, description="Pixels of zeros on each side: the largest shift.")
    mirror: float = setting(0.5, ge=0, le=1, description="How often an image is mirrored; 0 for digits and letters.")
    rotate: float = setting(0.0, ge=0, le=180, description="Largest rotation in degrees, either way.")

    def check(self, shape: Shape) -> None:
        """Raises SettingError where a crop could lie beside the image."""
        _, height, width = shape
        if self.padding >= min(height, width):
            raise SettingError(
                f"view.padding is {self.padding}, but images are {height}x{width}: a crop must keep some of the image"
            )

    def __call__(self, images_BCHW: Tensor, labels_B: Tensor, draws: Draws) -> tuple[tuple[Tensor, ...], Tensor]:
        """Returns a crop of each, uint8 and its pixels copied, float32 where images are rotated; and their classes."""
        B, C, H, W = images_BCHW.shape
        x = functional.pad(images_BCHW, [self.padding] * 4)
        if self.rotate:
            x = self._rotated(x, draws.uniform("rotate", low=-1.0))
        down_B, right_B = draws.integers("crop", 0, 2 * self.padding + 1, 2).unbind(1)
        mirrored_B = draws.uniform("mirror") < self.mirror
        places_W = torch.arange(W, device=x.device)
        columns_BW = right_B[:, None] + torch.where(mirrored_B[:, None], places_W.flip(0), places_W)
        rows_BH = down_B[:, None] + torch.arange(H, device=x.device)
        from_BHW = rows_BH[:, :, None] * x.shape[3] + columns_BW[:, None]
        return (x.flatten(2).gather(2, from_BHW.view(B, 1, H * W).expand(B, C, H * W)).view(B, C, H, W),), labels_B

    def _rotated(self, images_BCHW: Tensor, drawn_B: Tensor) -> Tensor:
        angle_B = drawn_B * math.radians(self.rotate)
        cosine_B, sine_B, zero_B = torch.cos(angle_B), torch.sin(angle_B), torch.zeros_like(angle_B)
        return warp(images_BCHW, (cosine_B, sine_B, zero_B), (-sine_B, cosine_B, zero_B))
