"""Letters in figures: their sizes in print, and names from data that matplotlib would take for something else."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text

# Letters that are read at the width of a paper's column, in points. No text of a figure is a formula: a `$` is a `$`.
PRINT: dict[Any, Any] = {
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 8.0),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 7.0),
    **dict.fromkeys(("axes.linewidth", "grid.linewidth"), 0.5),
    "lines.linewidth": 1.2,
    "lines.markersize": 4.0,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.hashsalt": "ffstudy",
    "text.parse_math": False,
}
HAIR_SPACE = "\u200a"
UNDRAWN = r"(Glyph \d+ .* missing from|Matplotlib currently does not support)"


def label(name: str) -> str:
    """Returns a name as a legend's label: matplotlib leaves those out that begin with `_`."""
    return HAIR_SPACE + name if name.startswith("_") else name


@contextmanager
def letters(figure: Figure) -> Iterator[None]:
    """Lets a figure be written with the letters of its names.

    Where matplotlib's font lacks one, the texts stay texts, which whoever shows the SVG draws in a font that has it.
    """
    known = get_font(findfont(FontProperties())).get_charmap()
    texts = "".join(text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))
    lacking = any(ord(letter) not in known for letter in texts if not letter.isspace())
    with matplotlib.rc_context({**PRINT, **({"svg.fonttype": "none"} if lacking else {})}), warnings.catch_warnings():
        if lacking:  # they are measured in that font all the same
            warnings.filterwarnings("ignore", UNDRAWN, UserWarning)
        yield
