"""Two random crops of an image, mirrored, recoloured and blurred: SimCLR's (Chen et al. 2020, arXiv 2002.05709).

Letters: B batch, C channels, H W pixels, T crops that are tried, S pixels of a blur.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ffcore.settings import setting
from ffmodels.draws import Draws
from fftrain.geometry import warp
from fftrain.views.base import TwoViews

# Sides of a crop, each as a share of the image's: one against the other, as torchvision's RandomResizedCrop has it.
RATIOS = (3 / 4, 4 / 3)
TRIES = 10
# How bright each of three colours is (ITU-R BT.601), as torchvision has it.
BRIGHT = (0.299, 0.587, 0.114)


class TwoCrops(TwoViews):
    """Two random crops of each image; colours change where there are three, brightness and contrast everywhere."""

    smallest: float = setting(0.2, gt=0, le=1, description="Smallest share of the image's area that a crop keeps.")
    mirror: float = setting(0.5, ge=0, le=1, description="How often a crop is mirrored.")
    jitter: float = setting(0.8, ge=0, le=1, description="How often brightness, contrast and colours are changed.")
    brightness: float = setting(0.4, ge=0, le=1, description="Largest change of brightness, as a share.")
    contrast: float = setting(0.4, ge=0, le=1, description="Largest change of contrast, as a share.")
    saturation: float = setting(0.2, ge=0, le=1, description="Largest change of saturation, as a share.")
    hue: float = setting(0.1, ge=0, le=0.5, description="Largest turn of the colour circle, as a share of it.")
    gray: float = setting(0.2, ge=0, le=1, description="How often colours are taken away.")
    blur: float = setting(0.0, ge=0, le=1, description="How often it is blurred, by 0.1 to 2 pixels; for large images.")

    def view(self, images_BCHW: Tensor, draws: Draws, name: str) -> Tensor:
        """Returns one changed image of each, float32."""
        often = draws.uniform(f"{name}/often", 4).unbind(1)
        mirrored_B, changed_B, gray_B, blurred_B = (
            drawn_B < share
            for drawn_B, share in zip(often, (self.mirror, self.jitter, self.gray, self.blur), strict=True)
        )
        x = self._crop(images_BCHW, draws.uniform(f"{name}/crop", 2 + 2 * TRIES), mirrored_B)
        x = _where(changed_B, self._recoloured(x, draws.uniform(f"{name}/colour", 4, low=-1.0)), x)
        if x.shape[1] == 3:
            x = _where(gray_B, _gray(x).expand_as(x), x)
        return _where(blurred_B, _blurred(x, draws.uniform(f"{name}/blur", low=0.1, high=2.0)), x) if self.blur else x

    def _crop(self, images_BCHW: Tensor, drawn_BD: Tensor, mirrored_B: Tensor) -> Tensor:
        """Returns a part of each image at the image's size: the first drawn that fits, the whole where none does."""
        _, _, height, width = images_BCHW.shape
        right_B, down_B, *sides = drawn_BD.unbind(1)
        area_BT, ratio_BT = torch.stack(sides, 1).chunk(2, 1)
        area_BT = self.smallest + (1 - self.smallest) * area_BT
        low, high = map(math.log, RATIOS)
        ratio_BT = torch.exp(low + (high - low) * ratio_BT)
        sides_2BT = torch.stack([area_BT * ratio_BT, area_BT / ratio_BT]).sqrt()
        fits_BT = (sides_2BT <= 1).all(0)
        first_2B1 = fits_BT.byte().argmax(1, keepdim=True).expand(2, -1, 1)
        across_B, along_B = torch.where(fits_BT.any(1), sides_2BT.gather(2, first_2B1)[..., 0], 1.0)
        zero_B = torch.zeros_like(right_B)
        return warp(
            images_BCHW,
            (torch.where(mirrored_B, -across_B, across_B), zero_B, (right_B - 0.5) * (1 - across_B) * width),
            (zero_B, along_B, (down_B - 0.5) * (1 - along_B) * height),
        )

    def _recoloured(self, x: Tensor, drawn_B4: Tensor) -> Tensor:
        """Returns images of changed brightness, contrast and, where they have colours, saturation and hue."""
        bright, contrast, saturation, hue = (drawn_B.view(-1, 1, 1, 1) for drawn_B in drawn_B4.unbind(1))
        x = (x * (1 + self.brightness * bright)).clamp(0, 1)
        x = _blended(x, _gray(x).mean((1, 2, 3), keepdim=True), 1 + self.contrast * contrast)
        if x.shape[1] != 3:
            return x
        x = _blended(x, _gray(x), 1 + self.saturation * saturation)
        return _turned(x, 2 * math.pi * self.hue * hue)


def _where(chosen_B: Tensor, x: Tensor, other: Tensor) -> Tensor:
    return torch.where(chosen_B.view(-1, 1, 1, 1), x, other)


def _gray(x: Tensor) -> Tensor:
    """Returns how bright each pixel is, [B, 1, H, W]."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    red, green, blue = (BRIGHT[i] * x[:, i : i + 1] for i in range(3))
    return red + green + blue


def _blended(x: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return (other + share * (x - other)).clamp(0, 1)


def _turned(x: Tensor, angle: Tensor) -> Tensor:
    """Returns colours [B, 3, H, W] turned about the axis of grays, which turns their hues (Rodrigues' formula)."""
    gray = x.mean(1, keepdim=True)
    across = (x.roll(1, 1) - x.roll(-1, 1)) / math.sqrt(3)
    return (gray + torch.cos(angle) * (x - gray) + torch.sin(angle) * across).clamp(0, 1)


def _blurred(x: Tensor, sigma_B: Tensor) -> Tensor:
    """Returns images blurred with a Gaussian of the given deviation, over a tenth of their height at least 3 pixels."""
    reach = max(1, x.shape[2] // 20)
    places_S = torch.arange(-reach, reach + 1, device=x.device)
    weights_BS = torch.softmax(-(places_S**2) / (2 * sigma_B[:, None] ** 2), 1)
    for axis in (2, 3):
        length, padding = x.shape[axis], (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        padded = functional.pad(x, padding, mode="replicate")
        x = torch.zeros_like(x)
        for start, weight_B in enumerate(weights_BS.unbind(1)):
            x = x + weight_B.view(-1, 1, 1, 1) * padded.narrow(axis, start, length)
    return x.clamp(0, 1)  # weights add up to 1 but for rounding
