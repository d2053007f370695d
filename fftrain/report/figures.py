"""How figures of the report are made: SVG text, legible in print at column width, told apart without colour too."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text

# Okabe and Ito's palette, safe for colour-blind readers; markers and dashes differ as well.
LOOKS: Sequence[Mapping[str, Any]] = (
    {"color": "#0072B2", "marker": "o"},
    {"color": "#D55E00", "marker": "s"},
    {"color": "#56B4E9", "marker": "D", "linestyle": (0, (5, 1))},
    {"color": "#E69F00", "marker": "v", "linestyle": (0, (3, 1, 1, 1))},
    {"color": "#CC79A7", "marker": "P", "linestyle": (0, (7, 2))},
    {"color": "#666666", "marker": "X", "linestyle": "-."},
)
BASELINES: Mapping[str, Mapping[str, Any]] = {
    "random": {"color": "#009E73", "marker": "^", "linestyle": "--"},
    "raw": {"color": "#000000", "linestyle": ":"},
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
DASHES: Sequence[Any] = ((0, (1, 1)), "-.", "--", (0, (5, 1, 1, 1)))
MARKERS = "os^DvPX*<>ph"
# Widths of one and of two columns of a paper in inches; panels side by side.
COLUMN, PAGE_WIDTH, PANELS = 3.4, 7.0, 3
BELOW: Any = "outside lower center"
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


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure as an SVG file, and what it shows in words."""

    name: str
    alt: str
    svg: str
    small: bool = False


def draw(name: str, alt: str, draw: Callable[..., Figure], *given: Any, small: bool = False) -> Picture:
    """Draws a picture, and returns it under a file's name."""
    return Picture(name=slug(name), alt=alt, svg=svg(draw(*given), alt), small=small)


def slug(text: str) -> str:
    """Returns a text as a file's name and a link's target."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def svg(figure: Figure, alt: str) -> str:
    """Returns a figure as SVG text with what it shows in words; the same for the same figure."""
    text = io.StringIO()
    with letters(figure):
        figure.savefig(text, format="svg", metadata={"Date": None})
    body = text.getvalue()[text.getvalue().index("<svg") :]
    # A hundredth of a point is enough, and halves the file.
    cut = partial(re.sub, r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}")
    body = re.sub(r'(?<= )(d|x|y)="[^"]*"', lambda values: cut(values[0]), body)
    return body.replace("<svg ", f'<svg role="img" aria-label="{html.escape(alt)}" ', 1)


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


def labels(names: Iterable[str]) -> dict[str, str]:
    """Returns names as the labels of a legend: matplotlib leaves those out that begin with `_`."""
    return {name: HAIR_SPACE + name if name.startswith("_") else name for name in names}


def styles(drawn: Iterable[tuple[str, str]], methods: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Returns how lines look: like their method; a second one that looks so is hollow, a third dashed otherwise.

    Args:
        drawn: of each line its name and its style, a method or a baseline.
        methods: every method of the report, so that each looks alike in all figures.
    """
    looks = {**dict(zip(methods, cycle(LOOKS), strict=False)), **BASELINES}
    found: dict[str, dict[str, Any]] = {}
    seen = Counter[str]()
    for name, style in drawn:
        if name not in found:
            look = looks.get(style, LOOKS[-1])
            alike = seen[look["color"]]  # lines of its method, and of others where methods are more than looks
            hollow = {"markerfacecolor": "white", "linestyle": DASHES[(alike - 1) % len(DASHES)]}
            found[name] = {**look, **(hollow if alike else {})}
            seen[look["color"]] += 1
    return found


def panelled(panels: Sequence[str], lines: int, *, sharey: bool = False) -> tuple[Figure, list[Axes]]:
    """Returns a figure with axes for each panel, a few side by side, and room below for the names of its lines."""
    rows, across = -(-len(panels) // PANELS), min(PANELS, len(panels))
    size = (PAGE_WIDTH if across > 1 else COLUMN, 2.1 * rows + 0.16 * lines + 0.2)
    figure = Figure(figsize=size, layout="constrained")
    axes = [*figure.subplots(rows, across, squeeze=False, sharey=sharey).flat]
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    return figure, axes


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Puts one legend for all panels below them."""
    handles = {name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    # A letter takes about an eighteenth of an inch, the handle nine of them.
    across = max(1, min(4, int(18 * figure.get_figwidth() / (9 + max(map(len, handles))))))
    figure.legend([*handles.values()], [*handles], loc=BELOW, ncols=across, handlelength=3)


def cut(names: Sequence[str], size: int) -> list[Sequence[str]]:
    """Returns names in parts of a size: what goes into one figure."""
    return [names[start : start + size] for start in range(0, len(names), size)]
