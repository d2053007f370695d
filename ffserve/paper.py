"""Dark ink on light paper -> light ink on the even ground that a model was trained with, and the other way round.

Paper is seldom white, and light falls on it from a side: a plain negative would leave a gray ground. So a plane is laid
through the outermost pixels, which are paper, and what is darker than it is ink.

Letters: N images, C channels, H W pixels.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from ffcore.images import UInt8Array, border_means

# Of the paper's own unevenness, in its deviations, what is not ink.
MARGIN = 2.0
ROUNDS = 8


def inverts(images_NCHW: UInt8Array, border: tuple[float, float] | None) -> npt.NDArray[np.bool_]:
    """Returns which images `auto` turns into their negatives, bool [N].

    Only where the recorded border of the model's own images is one ground, near black or near white: mean at most 32
    or at least 223, and deviation at most 32. Then, where the negative's border is nearer to it.

    Args:
        images_NCHW: uint8.
        border: mean and deviation, 0 to 255, or None where they are not recorded.
    """
    mean, deviation = border or (0.0, np.inf)
    if deviation > 32 or 32 < mean < 223:
        return np.zeros(len(images_NCHW), dtype=bool)
    here_N = border_means(images_NCHW)
    turned_N: npt.NDArray[np.bool_] = np.abs(255 - here_N - mean) < np.abs(here_N - mean)
    return turned_N


def negatives(images_NCHW: UInt8Array, border: tuple[float, float]) -> UInt8Array:
    """Returns the images that `inverts` names as negatives, with their paper as the model's own ground.

    On paper that is white all over (255), or black for a model of dark ink, this is 255 less the image, exactly.

    Args:
        images_NCHW: uint8.
        border: as recorded.
    """
    dark = border[0] < 128  # the model's ground, so that the paper is light
    found_NCHW = images_NCHW.copy() if dark else 255 - images_NCHW
    for image_CHW in found_NCHW:
        for light_HW in image_CHW:
            light_HW[:] = _ink(light_HW)
    return found_NCHW if dark else 255 - found_NCHW


@cache
def _places(H: int, W: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Returns which pixels are outermost, bool [H, W], and where each lies: 1, down, right, float64 [H, W, 3]."""
    ring_HW = np.ones((H, W), dtype=bool)
    ring_HW[1:-1, 1:-1] = False
    down, right = np.meshgrid(np.linspace(-1, 1, H), np.linspace(-1, 1, W), indexing="ij")
    return ring_HW, np.stack([np.ones((H, W)), down, right], -1)


def _ink(light_HW: UInt8Array) -> UInt8Array:
    """Returns how much darker than light paper the pixels are: 0 the paper, 255 black."""
    ring_HW, places = _places(*light_HW.shape)
    values, at = light_HW[ring_HW].astype(np.float64), places[ring_HW]
    clear = np.ones(len(values), dtype=bool)
    for _ in range(ROUNDS):  # ink that reaches the border pulls the plane down: without what lies well below it, again
        plane, *_ = np.linalg.lstsq(at[clear], values[clear])
        above = values - at @ plane
        uneven = float(np.sqrt(np.mean(above[clear] ** 2)))
        before, clear = clear, above >= -MARGIN * uneven - 0.5
        if (clear == before).all():
            break
    ground_HW = np.maximum(places @ plane - MARGIN * uneven, 1)
    return np.rint(np.clip((ground_HW - light_HW) * 255 / ground_HW, 0, 255)).astype(np.uint8)
