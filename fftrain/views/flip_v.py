"""Is it mirrored? A task of the study (arXiv 2309.11955)."""

from __future__ import annotations

from typing import ClassVar

from fftrain.views.base import Flip


class FlipV(Flip):
    """Mirrored top to bottom, or not."""

    names: ClassVar[tuple[str, ...]] = ("none", "vertical")
    axes: ClassVar[tuple[tuple[int, ...], ...]] = ((), (2,))
