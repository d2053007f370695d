"""Two views of an image, shifted, turned and scaled a little: for digits and drawings, which are not to be mirrored.

Letters: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ffcore.settings import setting
from ffmodels.draws import Draws
from fftrain.geometry import warp
from fftrain.views.base import TwoViews


class TwoShifts(TwoViews):
    """Two views of each image, shifted, rotated and scaled at random; of any number of channels."""

    shift: float = setting(0.1, ge=0, le=1, description="Largest shift along each axis, as a share of the side.")
    rotate: float = setting(15.0, ge=0, le=180, description="Largest rotation in degrees, either way.")
    scale: float = setting(0.1, ge=0, lt=1, description="Largest change of size: 0.1 is 0.9 to 1.1 of it.")

    def view(self, images_BCHW: Tensor, draws: Draws, name: str) -> Tensor:
        """Returns one changed image of each, float32."""
        right_B, down_B, angle_B, size_B = draws.uniform(name, 4, low=-1.0).unbind(1)
        angle_B = angle_B * math.radians(self.rotate)
        cosine_B, sine_B = (turn(angle_B) / (1 + self.scale * size_B) for turn in (torch.cos, torch.sin))
        # Where each pixel comes from, in pixels from the middle: turned back about it, then shifted back.
        _, _, height, width = images_BCHW.shape
        return warp(
            images_BCHW,
            (cosine_B, sine_B, right_B * self.shift * width),
            (-sine_B, cosine_B, down_B * self.shift * height),
        )
