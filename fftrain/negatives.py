"""What a negative is made of, drawn for a whole epoch.

Letters: N images of a data set, B batch, C channels, H W pixels, P = H*W, K classes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# How often a mask is blurred, at least and at most (Hinton 2022, section 3.2).
BLURS = (6, 10)


def wrong_labels(labels_N: npt.NDArray[np.int64], classes: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draws a wrong label for every image: uniform over the K - 1 others, never the right one.

    Permuting the labels of a batch instead, as public implementations do, leaves about 1 in K right.

    Args:
        labels_N: the right labels, int64.
        classes: K, at least 2.
        rng: where the draws come from.
    """
    return (labels_N + rng.integers(1, classes, size=len(labels_N))) % classes


def draw_hybrids(images: int, pixels: int, rng: np.random.Generator) -> dict[str, npt.NDArray[np.generic]]:
    """Draws what a hybrid of every image is made of.

    Args:
        images: N.
        pixels: P, of one channel.
        rng: where the draws come from.

    Returns:
        partner: int64 [N], the index of another image, uniform over the N - 1 others.
        bits: uint8 [N, ceil(P / 8)], the random bits of its mask, packed.
        blurs: int64 [N], how often the mask is blurred, uniform over BLURS.
    """
    return {
        "partner": (np.arange(images) + rng.integers(1, max(2, images), size=images)) % max(1, images),
        "bits": rng.integers(256, size=(images, -(-pixels // 8)), dtype=np.uint8),
        "blurs": rng.integers(BLURS[0], BLURS[1] + 1, size=images),
    }


def masks(bits_BQ: Tensor, blurs_B: Tensor, height: int, width: int) -> Tensor:
    """Returns masks with large regions, bool [B, 1, H, W]: random bits, blurred both ways, above 0.5.

    Each blur is [1/4, 1/2, 1/4], the border repeated; repeated blurs are one product with a power of its matrix.

    Args:
        bits_BQ: packed random bits, uint8 [B, ceil(H*W / 8)].
        blurs_B: how often each is blurred, int64, within BLURS.
        height: H.
        width: W.
    """
    places = torch.arange(8, device=bits_BQ.device)
    bits_BP = (bits_BQ[:, :, None].int() >> places & 1).flatten(1)[:, : height * width]
    rows, columns = (_blur_powers(size, bits_BQ.device)[blurs_B - BLURS[0]] for size in (height, width))
    blurred_BHW = rows @ bits_BP.view(-1, height, width).float() @ columns.mT
    return (blurred_BHW > 0.5)[:, None]


def hybrids(images_BCHW: Tensor, partners_BCHW: Tensor, bits_BQ: Tensor, blurs_B: Tensor) -> Tensor:
    """Returns hybrids: the image where its mask is true, its partner elsewhere; one mask for all channels.

    Hinton 2022, section 3.2; the other arguments are those of `masks`.
    """
    height, width = images_BCHW.shape[2:]
    return torch.where(masks(bits_BQ, blurs_B, height, width), images_BCHW, partners_BCHW)


@lru_cache(maxsize=16)
def _blur_powers(size: int, device: torch.device) -> Tensor:
    """Returns the matrices that blur a line as often as each of BLURS, float32 [len, size, size]."""
    blur = np.eye(size) / 2
    for i in range(size):
        blur[i, max(i - 1, 0)] += 1 / 4
        blur[i, min(i + 1, size - 1)] += 1 / 4
    powers = [np.linalg.matrix_power(blur, times) for times in range(BLURS[0], BLURS[1] + 1)]
    return torch.tensor(np.stack(powers), dtype=torch.float32, device=device)
