"""Forward-Forward without labels (Hinton 2022, section 3.2): the negative is a hybrid of two images.

One mask with large regions for all channels chooses between the image and another: random bits, blurred 6 to 10 times
with [1/4, 1/2, 1/4] both ways, the border repeated, above 0.5. The losses are those of a pair in `forward-forward`.

Letters: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ffmodels.batch import Batch
from ffmodels.draws import Draws
from ffmodels.methods.base import Needs
from ffmodels.pairs import PairMethod

# How often a mask is blurred, at least and at most.
BLURS = (6, 10)


class HybridForwardForward(PairMethod):
    """Goodness of images high, of hybrids of two low: each against a threshold, or one against the other; no labels."""

    def needs(self) -> Needs:
        """Returns that each image comes with another."""
        return Needs(partner=True)

    def inputs(self, batch: Batch, classes: int) -> Tensor:
        """Returns the images, then their hybrids: float32 [2B, C, H, W]."""
        [images_BCHW] = batch.views
        assert batch.partner is not None
        _, _, height, width = images_BCHW.shape
        mask_B1HW = masks(batch.draws, height, width)
        return torch.cat([images_BCHW, torch.where(mask_B1HW, images_BCHW, batch.partner)])


def masks(draws: Draws, height: int, width: int) -> Tensor:
    """Returns a mask for each image, true where the image stands and false where its partner does: bool [B, 1, H, W].

    Repeated blurs are one product with a power of the matrix of one.
    """
    words = draws.bits("mask", -(-height * width // 64))
    places = torch.arange(64, device=words.device)
    bits_BP = ((words[:, :, None] >> places) & 1).flatten(1)[:, : height * width]
    times_B = draws.integers("blurs", 0, BLURS[1] - BLURS[0] + 1)
    rows, columns = (_blurs(size, words.device)[times_B] for size in (height, width))
    return (rows @ bits_BP.view(-1, height, width).float() @ columns.mT > 0.5)[:, None]


@lru_cache(maxsize=16)
def _blurs(size: int, device: torch.device) -> Tensor:
    """Returns the matrices that blur a line as often as each of BLURS, float32 [len, size, size], kept there."""
    blur = np.eye(size) / 2
    for i in range(size):
        blur[i, max(i - 1, 0)] += 1 / 4
        blur[i, min(i + 1, size - 1)] += 1 / 4
    powers = [np.linalg.matrix_power(blur, times) for times in range(BLURS[0], BLURS[1] + 1)]
    return torch.tensor(np.stack(powers), dtype=torch.float32, device=device)
