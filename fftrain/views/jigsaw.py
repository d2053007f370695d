"""In which order are its patches? A task of the study (arXiv 2309.11955). Letters: B batch, C channels, H W pixels."""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from ffcore.errors import SettingError
from fftrain.views.base import Pretext, Shape

ORDERS = tuple(itertools.permutations(range(4)))


class Jigsaw(Pretext):
    """2x2 patches in one of their 24 orders: patch i of the result is patch order[i] of the image."""

    names: ClassVar[tuple[str, ...]] = tuple("".join(map(str, order)) for order in ORDERS)

    def check(self, shape: Shape) -> None:
        """Raises SettingError for odd heights or widths."""
        _, height, width = shape
        if height % 2 or width % 2:
            raise SettingError(f"--view jigsaw needs even sizes, not {height}x{width}: set --image-size")

    def apply(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """Returns each image with its patches in the order that its label names."""
        B, C, H, W = images_BCHW.shape
        patches = (
            images_BCHW.view(B, C, 2, H // 2, 2, W // 2).permute(0, 2, 4, 1, 3, 5).reshape(B, 4, C, H // 2, W // 2)
        )
        orders_B4 = _orders(labels_B.device)[labels_B]
        moved = patches[torch.arange(B, device=labels_B.device)[:, None], orders_B4]
        return moved.view(B, 2, 2, C, H // 2, W // 2).permute(0, 3, 1, 4, 2, 5).reshape(B, C, H, W)


@lru_cache(maxsize=16)
def _orders(device: torch.device) -> Tensor:
    """Returns every order of four patches, int64 [24, 4], kept on the device: copying it would make each step wait."""
    return torch.tensor(ORDERS, device=device)
