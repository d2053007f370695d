"""Ink on any ground, anywhere on a picture -> ink as a model of drawings was trained on it.

People draw light or dark, on paper, blackboards and transparent canvases, at any size and place. A plane through the
outermost pixels is the ground; ink is what differs from it, whichever way; where the model's own pictures are all
placed alike, it is cut out and placed so. A picture that is as the model's own is left as it is.

Letters: N images, C channels, H W pixels of the model's size, Y X those of a picture.
"""

from __future__ import annotations

from math import ceil, floor

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps

from ffcore.images import UInt8Array, fit
from ffcore.ink import GRAY, SEEN, FloatArray, Ink, fullest, places, ring_of, stroke_of, tellers

INVERTED, CLEARED, PLACED, BLANK = "inverted", "cleared", "placed", "blank"
SIDE = 512  # pixels of a picture's longer side that are looked at
STEADY = 4.0  # levels within which a ground is even, at least
UNEVEN = 2.5  # of a ground's deviations: what is not ink
FAINT = 12.0  # levels, above what the ground is uneven, below which there is no ink
BARE = 24.0  # levels by which the ground of a picture without ink deviates from a plane, at most: more is a photograph
FULL = 0.9  # of how far from the ground the model's own ink is: what is below is faint, and made full
COARSE = 160  # pixels of a picture's longer side by which dust is told
SPECK = 0.02  # of the largest piece of ink: smaller ones are dust
FINE = 8  # pixels for one of the model's while ink is placed
THIN, HAIR = 0.85, 0.6  # of the model's own strokes: thinner ones are thickened when they are placed; and placed for it
BROAD = 1.5  # times as wide as the model's own strokes is what may be a sheet that was drawn on, at least
RIM = 0.01  # of its sides: what lies at their edges is not looked at
APART = 0.02  # of its edge, at most, has ink on it
ROUNDS = 8


def settled(images_NCHW: UInt8Array, ink: Ink, *, place: bool) -> npt.NDArray[np.bool_]:
    """Returns which images are as the model's own: by ground and ink and, where `place`, by where the ink is; [N]."""
    C, H, W = images_NCHW.shape[1:]
    levels_NHW = images_NCHW[:, 0] if C == 1 else images_NCHW.mean(1, dtype=np.float32)
    ring_NR = levels_NHW[:, ring_of(H, W)]
    ground_NR = (ring_NR >= ceil(ink.ground - ink.close)) & (ring_NR <= floor(ink.ground + ink.close))
    own_N: npt.NDArray[np.bool_] = 2 * np.count_nonzero(ground_NR, axis=1) > ring_NR.shape[1]
    full = ink.ground + (ink.ink - ink.ground) * FULL * ink.full
    full_NHW = levels_NHW >= ceil(full) if ink.lighter else levels_NHW <= floor(full)
    own_N &= 2 * np.count_nonzero(full_NHW, axis=(1, 2)) > tellers(H * W)
    if place and own_N.any():
        own_N[own_N] = _in_place(ink.amount(levels_NHW[own_N].astype(np.float32)), ink)
    return own_N


def take(
    image: Image.Image, ink: Ink, shape: tuple[int, int, int], *, clear: bool, place: bool
) -> tuple[UInt8Array, set[str]]:
    """Returns a picture's ink as a model takes it, uint8 [C, H, W], and what was done for it.

    Where a sheet lies on something else, as a card with a transparent margin or a scan with a border, it is what is
    looked at. Of a model whose strokes are broad, or of any width, it may be the ink itself.

    Args:
        image: of mode L or RGB.
        ink: how the model's own pictures are drawn.
        shape: C, H, W.
        clear: find the ground and the ink by themselves; else they are as the model's own.
        place: put the ink where the model's own pictures have it, if they are placed alike.

    Returns:
        The image, and of these what is so: `inverted` (the ink was darker than its ground where the model's is
        lighter, or the other way round), `cleared` (the ground, or faint ink, was made the model's own), `placed` (cut
        out, made as long as the model's own and put where that has it, thin strokes made as wide), `blank` (there is no
        ink on it).
    """
    C, H, W = shape
    values_YXC = _values(image)
    if clear:
        amount_YX, lighter, own, uneven = _find(values_YXC, ink)
        if amount_YX is not None and (sheet := _sheet(amount_YX, ink)):
            on_it = _find(values_YXC[sheet], ink)
            if on_it[0] is not None and np.mean(on_it[0][ring_of(*on_it[0].shape)] >= SEEN) <= APART:
                amount_YX, lighter, own, uneven = (*on_it[:2], False, on_it[3])
    else:
        amount_YX, lighter, own, uneven = ink.amount(values_YXC.mean(2)), ink.lighter, True, 0.0
    did = {INVERTED} if lighter != ink.lighter else set()
    if amount_YX is None or amount_YX.max() < SEEN:
        pixels_CHW = fit(image, height=H, width=W, channels=C)
        did |= {BLANK} if uneven < BARE else set()
        return 255 - pixels_CHW if INVERTED in did else pixels_CHW, did
    if not own:
        did.add(CLEARED)
    amount_HW = fit(_picture(amount_YX), height=H, width=W, channels=1)[0] / np.float32(255)
    if place and ink.longest is not None:
        thin = stroke_of(amount_HW) < HAIR * (ink.stroke or 0)
        if thin or not _in_place(amount_HW[None], ink)[0]:
            amount_HW = _placed(amount_YX, ink, H, W)
            did.add(PLACED)
    level_HW = np.rint(ink.ground + (ink.ink - ink.ground) * amount_HW)
    return np.repeat(np.clip(level_HW, 0, 255).astype(np.uint8)[None], C, axis=0), did


def _in_place(amount_NHW: FloatArray, ink: Ink) -> npt.NDArray[np.bool_]:
    """Returns which ink is as long as the model's own and where that has it, bool [N]; a pixel or two is rounding."""
    if ink.longest is None:
        return np.ones(len(amount_NHW), dtype=bool)
    low_N2, high_N2, middle_N2 = places(amount_NHW, mass=ink.mass)
    longest_N = (high_N2 - low_N2).max(1)
    away_N2 = np.abs(middle_N2 - np.array(ink.centre))
    near_N: npt.NDArray[np.bool_] = (np.abs(longest_N - ink.longest) <= 2) & (away_N2.max(1) <= 1)
    return near_N


def _values(image: Image.Image) -> FloatArray:
    """Returns a picture's levels, float32 [Y, X, C], of no more than SIDE pixels a side."""
    scale = SIDE / max(image.size)
    if scale < 1:
        image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BOX)
    values = np.asarray(image, dtype=np.float32)
    return values[:, :, None] if values.ndim == 2 else values


def _find(values_YXC: FloatArray, ink: Ink) -> tuple[FloatArray | None, bool, bool, float]:
    """Returns how much ink there is, 0 to 1 [Y, X], whether it is lighter than its ground, whether both are as the
    model's own, or its negative, and how uneven the ground is. None where nothing stands out from a ground, neither by
    single pixels nor by several together; ink on it would be what is far from it.

    The ink's colour is that of the pixels that are farthest from the ground; full ink is as far from the ground as
    that colour can be.
    """
    ground_YXC, uneven = _ground(values_YXC)
    away_YXC = values_YXC - ground_YXC
    far_YX = np.abs(away_YXC).max(2)
    count = tellers(far_YX.size)
    farthest = np.argpartition(far_YX, -count, axis=None)[-count:]
    towards_C = np.median(away_YXC.reshape(-1, away_YXC.shape[2])[farthest], axis=0)
    size = np.abs(towards_C).max()
    together = fullest(np.abs(_joined(away_YXC)).max(2)[None])[0]
    if size < FAINT + UNEVEN * uneven or together < (FAINT + UNEVEN * uneven) / 2:
        return None, bool(ground_YXC.mean() < 128), False, uneven
    lighter = bool(towards_C.mean() > 0)
    step_C = towards_C / size
    used = np.abs(step_C) >= 0.2
    full_YX = (np.where(step_C > 0, 255 - ground_YXC, ground_YXC)[:, :, used] / np.abs(step_C[used])).min(2)
    own_full = ink.full or 1.0
    faint = bool(size < FULL * own_full * np.median(full_YX))
    if faint:
        full_YX = np.full_like(full_YX, size / own_full)
    own_ground = ink.ground if lighter == ink.lighter else 255 - ink.ground  # of the model, or its negative
    close = bool(np.abs(np.median(ground_YXC, axis=(0, 1)) - own_ground).max() <= ink.close)
    own = close and not faint and uneven <= STEADY and bool(np.ptp(towards_C) <= GRAY)
    along_YX = away_YXC[:, :, used] @ step_C[used] / (step_C[used] @ step_C[used])
    even = UNEVEN * uneven
    return np.clip((along_YX - even) / np.maximum(full_YX - even, 1), 0, 1), lighter, own, uneven


def _sheet(amount_YX: FloatArray, ink: Ink) -> tuple[slice, slice] | None:
    """Returns where a sheet lies, if what was found is one, not strokes: an upright box, full along all its sides."""
    if ink.longest is None or ink.stroke is None:
        return None
    low_12, high_12, _ = places(amount_YX[None], mass=False)
    lengths = (high_12 - low_12)[0]
    if stroke_of(amount_YX) * ink.longest / max(lengths.max(), 1) < BROAD * ink.stroke:
        return None
    rim = 1 + np.ceil(RIM * lengths).astype(int)
    (top, left), (bottom, right) = low_12[0].astype(int) + rim, high_12[0].astype(int) - rim
    if min(bottom - top, right - left) < 3:
        return None
    inside = (slice(top, bottom), slice(left, right))
    return inside if np.mean(amount_YX[inside][ring_of(bottom - top, right - left)] >= 0.5) > 1 - APART else None


def _joined(values_YXC: FloatArray) -> FloatArray:
    """Returns the mean of each pixel and its neighbours."""
    padded = np.pad(values_YXC, ((1, 1), (1, 1), (0, 0)), mode="edge")
    down = padded[:-2] + padded[1:-1] + padded[2:]
    found: FloatArray = (down[:, :-2] + down[:, 1:-1] + down[:, 2:]) / 9
    return found


def _ground(values_YXC: FloatArray) -> tuple[FloatArray, float]:
    """Returns a plane through the outermost pixels, [Y, X, C], and their deviation from it; ink among them is left out.

    It starts from those near the median of all, and takes in what lies near the plane through them, again and again.
    """
    Y, X, C = values_YXC.shape
    ring_YX, at_YX3 = ring_of(Y, X), _grid(Y, X)
    values, at = values_YXC[ring_YX], at_YX3[ring_YX]
    plane_3C = np.zeros((3, C), dtype=np.float32)
    plane_3C[0] = np.median(values, axis=0)
    away = np.abs(values - plane_3C[0]).max(1)
    near = away <= max(STEADY, 1.5 * float(np.median(away)))
    uneven = 0.0
    for _ in range(ROUNDS):
        plane_3C = np.linalg.lstsq(at[near], values[near], rcond=None)[0].astype(np.float32)
        away = np.abs(values - at @ plane_3C).max(1)
        uneven = float(np.sqrt(np.mean(away[near] ** 2)))
        before, near = near, away <= max(STEADY, UNEVEN * uneven)
        if (near == before).all():
            break
    return np.clip(at_YX3 @ plane_3C, 0, 255), uneven


def _grid(Y: int, X: int) -> FloatArray:
    """Returns where each pixel lies: 1, down, right; float32 [Y, X, 3]."""
    down, right = np.meshgrid(
        np.linspace(-1, 1, Y, dtype=np.float32), np.linspace(-1, 1, X, dtype=np.float32), indexing="ij"
    )
    return np.stack([np.ones_like(down), down, right], -1)


def _picture(amount_YX: FloatArray) -> Image.Image:
    return Image.fromarray(np.rint(amount_YX * 255).astype(np.uint8))


def _amounts(picture: Image.Image) -> FloatArray:
    return np.asarray(picture, dtype=np.float32) / np.float32(255)


def _placed(amount_YX: FloatArray, ink: Ink, H: int, W: int) -> FloatArray:
    """Returns the ink cut out, as long as the model's own and where that has it, [H, W]."""
    assert ink.longest is not None
    assert ink.centre is not None
    amount_YX = _without_dust(amount_YX)
    (low_12, high_12, _) = places(amount_YX[None], mass=ink.mass)
    (top, left), (bottom, right) = low_12[0].astype(int), high_12[0].astype(int)
    cut_YX = amount_YX[top:bottom, left:right]
    scale = ink.longest / max(cut_YX.shape)
    width = stroke_of(cut_YX) * scale
    grown = (ink.stroke - width) / 2 if ink.stroke is not None and width < THIN * ink.stroke else 0.0
    scale *= 1 - 2 * grown / ink.longest  # what grows shall not be longer in the end
    rim = round(FINE * grown)
    fine = _picture(cut_YX).resize([max(1, round(FINE * scale * side)) for side in cut_YX.shape[::-1]])
    fine = ImageOps.expand(fine, rim).filter(ImageFilter.MaxFilter(2 * rim + 1))
    small = _amounts(fine.resize([max(1, round(side / FINE)) for side in fine.size], Image.Resampling.BOX))
    middle = places(small[None], mass=ink.mass)[2][0]
    placed_HW = np.zeros((H, W), dtype=np.float32)
    where = [round(float(c - m)) for c, m in zip(ink.centre, middle, strict=True)]
    here = [slice(max(0, w), max(0, min(n, w + s))) for w, s, n in zip(where, small.shape, (H, W), strict=True)]
    there = [slice(h.start - w, h.stop - w) for h, w in zip(here, where, strict=True)]
    placed_HW[here[0], here[1]] = small[there[0], there[1]]
    return placed_HW


def _without_dust(amount_YX: FloatArray) -> FloatArray:
    """Returns the amounts without pieces of ink that are small beside the largest."""
    Y, X = amount_YX.shape
    coarse = _picture(amount_YX)
    coarse.thumbnail((COARSE, COARSE), Image.Resampling.BOX)
    seen_YX = np.asarray(coarse) >= SEEN * 255 / 4  # thin strokes pale where pixels are joined
    y, x = seen_YX.shape
    # Each pixel takes the largest number that it touches, then the number of that one, until pieces have one each.
    piece = np.arange(seen_YX.size)
    while True:
        padded_YX = np.pad(np.where(seen_YX, piece.reshape(y, x), -1), 1, constant_values=-1)
        near = np.maximum.reduce([padded_YX[i : i + y, j : j + x] for i in range(3) for j in range(3)]).ravel()
        found = np.where(seen_YX.ravel(), near[near], piece)
        if (found == piece).all():
            break
        piece = found
    counts = np.bincount(piece[seen_YX.ravel()], minlength=piece.size)
    kept = (counts[piece] >= SPECK * counts.max(initial=0)).reshape(y, x) & seen_YX
    mask = Image.fromarray(kept.astype(np.uint8)).resize((X, Y), Image.Resampling.NEAREST)
    return np.where(np.asarray(mask, dtype=bool), amount_YX, 0)
