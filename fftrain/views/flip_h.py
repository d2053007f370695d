"""Is it mirrored? A task of the study (arXiv 2309.11955)."""

from __future__ import annotations

from typing import ClassVar

from fftrain.views.base import Flip


class FlipH(Flip):
    """Mirrored left to right, or not."""

    names: ClassVar[tuple[str, ...]] = ("none", "horizontal")
    axes: ClassVar[tuple[tuple[int, ...], ...]] = ((), (3,))
