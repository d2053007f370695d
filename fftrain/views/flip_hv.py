"""Is it mirrored, and how? A task of the study (arXiv 2309.11955)."""

from __future__ import annotations

from typing import ClassVar

from fftrain.views.base import Flip


class FlipHV(Flip):
    """Not mirrored, left to right, top to bottom, or both."""

    names: ClassVar[tuple[str, ...]] = ("none", "horizontal", "vertical", "both")
    axes: ClassVar[tuple[tuple[int, ...], ...]] = ((), (3,), (2,), (2, 3))
