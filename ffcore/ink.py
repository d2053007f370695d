"""How a model's own pictures are drawn: ink on an even ground, and where it lies; or no ink, as photographs.

Letters: N images, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcore.images import UInt8Array

FloatArray = npt.NDArray[np.float32]

SEEN = 0.2  # share of full ink that counts as ink where places are measured
CLOSE = 4.0  # levels by which a ground may differ from the model's own and be left as it is, at least
# Of a model's own pictures, where they are drawings:
GRAY = 16  # levels by which the channels of a gray picture may differ, as JPEG leaves them
EVEN = 0.7  # share of the outermost pixels that are ground, at least
STROKE = 0.13  # of the shorter side: how wide strokes are, at most; or
BETWEEN = 0.3  # share of what lies within ink that is neither ground nor full ink, at most
ALIKE = 0.04  # of the shorter side: how much places may deviate that are alike
STANDS_OUT = 24.0  # levels from its ground, of full ink, at least
ONE_WAY = 0.98  # share of the pictures whose ink is lighter, or darker, than the ground as that of all is, at least
AS_WIDE = 1.7  # times as wide the upper quartile of strokes as the lower, at most, where all are alike


@dataclass(frozen=True, kw_only=True)
class Ink:
    """Levels are 0 to 255, places and lengths in pixels of the model's images."""

    ground: float
    ink: float
    longest: float | None = None
    """The longer side of the box around the ink; None where the pictures are not placed alike."""
    centre: tuple[float, float] | None = None
    """Row and column where the middle of the ink lies; None likewise."""
    mass: bool = True
    """Whether that is the middle of its mass, or of its box."""
    stroke: float | None = None
    """How wide strokes are; None where some are much wider than others."""
    full: float = 1.0
    """How much ink a picture has where it is fullest, at least: 0 to 1, 0 where it is not known."""
    close: float = CLOSE
    """By how much a ground may differ and be the model's own."""

    @property
    def lighter(self) -> bool:
        """Whether the ink is lighter than its ground."""
        return self.ink > self.ground

    def amount(self, levels: npt.NDArray[Any]) -> FloatArray:
        """Returns how much ink levels of any shape are, 0 to 1."""
        found: FloatArray = np.clip((levels - np.float32(self.ground)) / (self.ink - self.ground), 0, 1)
        return found.astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Ink:
        """Reads it back. Raises ValueError, TypeError or KeyError where a value is not legal."""
        row, column = values["centre"] or (None, None)
        given = {name: values[name] for name in ("ground", "ink", "longest", "stroke")} | {"row": row, "column": column}
        given |= {name: values[name] for name in ("full", "close") if name in values}
        numbers = {name: float(value) for name, value in given.items() if value is not None}
        if not all(0 <= number <= 65536 for number in numbers.values()) or numbers["ground"] == numbers["ink"]:
            raise ValueError(f"ink {dict(values)}")
        return cls(
            ground=numbers["ground"],
            ink=numbers["ink"],
            longest=numbers.get("longest"),
            centre=(numbers["row"], numbers["column"]) if "row" in numbers else None,
            mass=bool(values["mass"]),
            stroke=numbers.get("stroke"),
            full=min(numbers.get("full", 1.0), 1.0),
            close=numbers.get("close", CLOSE),
        )


def drawn(images_NCHW: UInt8Array, *, sure: bool = False) -> Ink | None:
    """Returns how pictures are drawn, from some of them; None where they are no ink on a ground.

    Ink: gray, the outermost pixels mostly one ground, and the rest thin strokes, or two-tone: full ink where it is not
    an edge; in all lighter than the ground, or in all darker. They are placed alike where the boxes around the ink are
    as long, and its middle at one place, in all.

    Args:
        images_NCHW: uint8, N at least 1.
        sure: that they are drawings, whatever they look like; None then where they are in colour, or all alike, or the
            ink is lighter than its ground in some and darker in others.
    """
    if np.ptp(images_NCHW, axis=1).max() > GRAY:
        return None
    levels_NHW = images_NCHW.mean(1, dtype=np.float32)
    H, W = levels_NHW.shape[1:]
    ring = levels_NHW[:, ring_of(H, W)]
    ground = float(np.median(ring))
    away = levels_NHW - ground
    full = float(np.quantile(np.abs(away), 0.999))
    if full <= STANDS_OUT or (np.mean(np.abs(ring - ground) <= STANDS_OUT) < EVEN and not sure):
        return None
    light_N, dark_N = away.max((1, 2)), -away.min((1, 2))
    lighter_N = (light_N > dark_N)[np.maximum(light_N, dark_N) > STANDS_OUT]
    if max(lighter_N.mean(), 1 - lighter_N.mean()) < ONE_WAY:
        return None
    ink = Ink(ground=ground, ink=255.0 if lighter_N.mean() > 0.5 else 0.0)
    amount_NHW = np.clip(away / (full if ink.lighter else -full), 0, 1)
    strokes = np.array([stroke_of(amount_HW) for amount_HW in amount_NHW])
    stroke = float(np.median(strokes))
    if stroke > STROKE * min(H, W) and _between(amount_NHW) > BETWEEN and not sure:
        return None
    inked_N: npt.NDArray[np.bool_] = np.max(amount_NHW, axis=(1, 2)) >= SEEN
    inked_NHW = amount_NHW[inked_N]
    narrow, wide = np.quantile(strokes[inked_N], (0.25, 0.75))
    ink = replace(
        ink,
        stroke=round(stroke, 2) if wide <= AS_WIDE * narrow else None,
        full=round(float(np.quantile(fullest(ink.amount(levels_NHW[inked_N])), 0.02)), 2),
        close=round(max(CLOSE, float(np.quantile(np.abs(np.median(ring, axis=1) - ground), 0.98))), 1),
    )
    for mass in (True, False):
        low_N2, high_N2, middle_N2 = places(inked_NHW, mass=mass)
        longest_N = (high_N2 - low_N2).max(1)
        if max(longest_N.std(), *middle_N2.std(0)) <= ALIKE * min(H, W):
            row, column = (round(float(value), 2) for value in middle_N2.mean(0))
            return replace(ink, longest=round(float(longest_N.mean()), 2), centre=(row, column), mass=mass)
    return ink


def tellers(pixels: int) -> int:
    """Returns how many of so many pixels, those with the most ink, tell how much there is where it is fullest."""
    return min(16, max(1, pixels // 64))


def fullest(amount_NHW: FloatArray) -> FloatArray:
    """Returns how much ink there is where it is fullest: the middle of a few pixels, [N]."""
    amount_NP = amount_NHW.reshape(len(amount_NHW), -1)
    count = tellers(amount_NP.shape[1])
    found: FloatArray = np.median(np.partition(amount_NP, -count, axis=1)[:, -count:], axis=1)
    return found


def places(amount_NHW: FloatArray, *, mass: bool) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Returns the boxes around the ink: first and one past the last row and column, and its middle; [N, 2] each."""
    seen_NHW = amount_NHW >= SEEN
    lows, highs, middles = [], [], []
    for axis in (2, 1):
        any_NL: npt.NDArray[np.bool_] = np.any(seen_NHW, axis=axis)
        length = any_NL.shape[1]
        low_N, high_N = any_NL.argmax(1), length - any_NL[:, ::-1].argmax(1)
        sum_NL = np.where(seen_NHW, amount_NHW, 0).sum(axis)
        of_mass_N = sum_NL @ np.arange(length) / np.maximum(sum_NL.sum(1), 1e-6)
        lows.append(low_N)
        highs.append(high_N)
        middles.append(of_mass_N if mass else (low_N + high_N - 1) / 2)
    low_N2, high_N2, middle_N2 = (np.stack(values, 1).astype(np.float32) for values in (lows, highs, middles))
    return low_N2, high_N2, middle_N2


def stroke_of(amount_HW: FloatArray) -> float:
    """Returns how wide strokes are, in pixels: twice their area by their outline, whose steps are 4 / pi too long."""
    seen_HW = np.pad(amount_HW >= 0.5, 1)
    outline = sum(int(np.count_nonzero(np.diff(seen_HW, axis=axis))) for axis in (0, 1))
    return float(8 / np.pi * np.count_nonzero(seen_HW) / max(outline, 1))


def ring_of(H: int, W: int) -> npt.NDArray[np.bool_]:
    """Returns which pixels are outermost, bool [H, W]."""
    ring_HW = np.ones((H, W), dtype=bool)
    ring_HW[1:-1, 1:-1] = False
    return ring_HW


def _between(amount_NHW: FloatArray) -> float:
    """Returns which share of the pixels whose neighbours are all inked is no full ink."""
    padded_NHW = np.pad(amount_NHW, ((0, 0), (1, 1), (1, 1)))
    H, W = amount_NHW.shape[1:]
    least_NHW = np.minimum.reduce([padded_NHW[:, i : i + H, j : j + W] for i in range(3) for j in range(3)])
    inside_NHW = least_NHW > 0.1
    return float(np.mean(amount_NHW[inside_NHW] < 0.8)) if inside_NHW.any() else 0.0
