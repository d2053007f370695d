"""Images moved, turned, scaled and cropped, each by numbers of its own. Letters: B batch, C channels, H W pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from fftrain.loader import scaled

Row = tuple[Tensor, Tensor, Tensor]


def warp(images_BCHW: Tensor, x: Row, y: Row) -> Tensor:
    """Returns images of which each pixel comes from another place, between pixels linearly, beyond the edge repeated.

    An image's result is the same bit for bit whatever others are with it.

    Args:
        images_BCHW: uint8, or float in [0, 1].
        x: (a, b, c) of each image, float32 [B] each: the pixel at (x, y) comes from a x + b y + c to the right, all
            in pixels from the middle.
        y: likewise, downwards.

    Returns:
        float32 [B, C, H, W].
    """
    images_BCHW = scaled(images_BCHW)
    _, _, height, width = images_BCHW.shape
    device = images_BCHW.device
    right_W = torch.arange(width, device=device) - (width - 1) / 2
    down_H1 = (torch.arange(height, device=device) - (height - 1) / 2)[:, None]
    grid = []
    for row, size in ((x, width), (y, height)):
        a, b, c = (values.view(-1, 1, 1) * (2 / size) for values in row)
        grid.append(a * right_W + b * down_H1 + c)
    return functional.grid_sample(
        images_BCHW, torch.stack(grid, -1), mode="bilinear", padding_mode="border", align_corners=False
    )
