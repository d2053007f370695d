"""Figures of the report, as SVG text: vector, legible in print at column width, told apart without colour too.

Letters: B batch, C channels, H W pixels, K classes, N points.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from ffcore.images import decode
from fftrain.report.curves import Curve
from fftrain.report.lettering import PRINT, label, letters
from fftrain.report.means import Mean, block_order
from fftrain.report.tables import Gap

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
# Tol's "muted" palette and black: ten classes that colour-blind readers tell apart too.
CLASS_COLOURS = (
    *("#332288", "#CC6677", "#117733", "#88CCEE", "#882255"),
    *("#DDCC77", "#44AA99", "#AA4499", "#999933", "#000000"),
)
MARKERS = "os^DvPX*<>ph"
# Widths of one and of two columns of a paper in inches.
COLUMN, PAGE_WIDTH = 3.4, 7.0
BELOW: Any = "outside lower center"
POINTS = 300
ACROSS = 3


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


def _styles(curves: Sequence[Curve], methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Returns a style for each name: its method's; a second one of a method is hollow, a third dashed otherwise.

    Args:
        curves: what is drawn.
        methods: every method of the report, so that each looks alike in all figures.
    """
    looks = {**dict(zip(methods, cycle(LOOKS), strict=False)), **BASELINES}
    found: dict[str, dict[str, Any]] = {}
    seen: dict[str, int] = {}
    for curve in curves:
        if curve.name in found:
            continue
        count = seen[curve.style] = seen.get(curve.style, -1) + 1
        style = {**looks.get(curve.style, LOOKS[-1])}
        if count:
            style["markerfacecolor"] = "white"
            style["linestyle"] = ((0, (1, 1)), "-.", "--", (0, (5, 1, 1, 1)))[(count - 1) % 4]
        found[curve.name] = style
    return found


@matplotlib.rc_context(PRINT)
def block_lines(curves: Sequence[Curve], ylabel: str, floor: float, methods: Sequence[str] = ()) -> Figure:
    """Draws figures of each block, a panel for each of `Curve.panel`; shares below `floor` % are cut off."""
    panels = list(dict.fromkeys(curve.panel for curve in curves))
    styles = _styles(curves, methods)
    rows, across = -(-len(panels) // ACROSS), min(ACROSS, len(panels))
    figure = Figure(
        figsize=(COLUMN if across == 1 else PAGE_WIDTH, 2.1 * rows + 0.16 * len(styles) + 0.2), layout="constrained"
    )
    axes = figure.subplots(rows, across, squeeze=False, sharey=True)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for i, (ax, panel) in enumerate(zip(axes.flat, panels, strict=False)):
        mine = [curve for curve in curves if curve.panel == panel]
        blocks = list(dict.fromkeys(k for curve in mine for k in curve.means if k != "pixels"))
        blocks.sort(key=block_order)
        for k, curve in enumerate(mine):
            shift = 0.5 * ((k + 0.5) / len(mine) - 0.5)
            _line(ax, curve.means, blocks, {**styles[curve.name], "label": label(curve.name)}, shift)
        ax.set_xticks(range(len(blocks)), [name.removeprefix("block").removeprefix("s") for name in blocks])
        ax.set(title=fill(panel, 34), xlabel="block", ylabel=ylabel if i % across == 0 else "")
        ax.grid()
    if all(mean.scale == 100 for curve in curves for mean in curve.means.values()):
        low, high = axes[0, 0].get_ylim()
        axes[0, 0].set_ylim(max(floor, min(low, high - 10)), min(104, high))
    legend(figure, list(axes.flat))
    return figure


def _line(ax: Axes, means: Mapping[str, Mean], blocks: Sequence[str], style: dict[str, Any], shift: float) -> None:
    """Draws a line over single blocks, and beside it what several blocks hold together, `shift` from its tick."""
    if "pixels" in means:
        ax.axhline(means["pixels"].scale * (means["pixels"].value or 0.0), **style)
        return
    found = [(i, means[name]) for i, name in enumerate(blocks) if name in means and means[name].value is not None]
    x = np.array([i for i, _ in found], dtype=float)
    y = np.array([mean.scale * (mean.value or 0.0) for _, mean in found])
    spread = np.array([mean.scale * mean.reach for _, mean in found])
    single = np.array([not blocks[i].startswith("blocks") for i, _ in found], dtype=bool)
    ax.plot(x[single], y[single], **style)
    ax.fill_between(x[single], (y - spread)[single], (y + spread)[single], color=style["color"], alpha=0.18, lw=0)
    together = {**style, "linestyle": "none", "label": None}
    ax.errorbar(x[~single] + shift, y[~single], spread[~single], elinewidth=0.8, **together)


def legend(figure: Figure, axes: Sequence[Axes]) -> None:
    """Puts one legend for all panels below them."""
    handles = {name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    # A letter takes about an eighteenth of an inch, the handle nine of them.
    across = max(1, min(4, int(18 * figure.get_figwidth() / (9 + max(map(len, handles))))))
    figure.legend([*handles.values()], [*handles], loc=BELOW, ncols=across, handlelength=3)


@matplotlib.rc_context(PRINT)
def training_curves(
    runs: Mapping[str, Mapping[str, Sequence[Sequence[dict[str, Any]]]]], methods: Mapping[str, str]
) -> Figure:
    """Draws accuracy and loss over the epochs, a line for each run, dashed on training images.

    Args:
        runs: panel -> name of a line -> the records of each run.
        methods: name of a line -> its method, of every one of the report.
    """
    names = dict.fromkeys(name for lines in runs.values() for name in lines)
    drawn = [Curve(dataset="", panel="", name=name, style=methods.get(name, name), means={}) for name in names]
    styles = _styles(drawn, list(dict.fromkeys(methods.values())))
    figure = Figure(
        figsize=(PAGE_WIDTH if len(runs) > 1 else COLUMN * 1.25, 3.6 + 0.16 * len(names)), layout="constrained"
    )
    axes = figure.subplots(2, len(runs), squeeze=False, sharex="col")
    for column, (panel, lines) in enumerate(runs.items()):
        for name, repeats in lines.items():
            for records in repeats:
                epochs = [record["epoch"] for record in records]
                every = max(1, len(epochs) // 8)
                for split in ("train", "validation"):
                    style = {**styles[name], "linestyle": "--" if split == "train" else "-", "lw": 0.9}
                    style |= {"markevery": every, "ms": 3, "alpha": 0.55 if split == "train" else 1.0}
                    accuracy = [100 * record[split].get("accuracy", np.nan) for record in records]
                    losses = [sum(record[split]["loss"].values()) for record in records]
                    said = label(name) if split == "validation" else None
                    axes[0, column].plot(epochs, accuracy, label=said, **style)
                    axes[1, column].plot(epochs, losses, **style)
        axes[0, column].set_title(fill(panel, 32))
        axes[0, column].set_ylim(0, 102)
        if all(np.isnan(line.get_ydata()).all() for line in axes[0, column].lines):
            middle = {"transform": axes[0, column].transAxes, "ha": "center", "va": "center"}
            axes[0, column].text(0.5, 0.5, "no labels to tell", color="0.4", **middle)
        if all((line.get_ydata() > 0).all() for line in axes[1, column].lines):
            axes[1, column].set_yscale("log")
            low, high = axes[1, column].get_ylim()
            axes[1, column].yaxis.set_major_formatter("{x:g}")
            axes[1, column].yaxis.set_minor_formatter("{x:g}" if high < 10 * low else NullFormatter())
        axes[1, column].set_xlabel("epoch")
        axes[1, column].xaxis.get_major_locator().set_params(integer=True)
        for ax in axes[:, column]:
            ax.grid()
    axes[0, 0].set_ylabel("pretext accuracy (%)")
    axes[1, 0].set_ylabel("loss, summed over blocks that learn")
    legend(figure, axes[0])
    return figure


@matplotlib.rc_context(PRINT)
def gap_points(gaps: Sequence[Gap], of: tuple[str, str]) -> Figure:
    """Draws one method's gap to another over the difficulty of the task; hollow points are published."""
    figure = Figure(figsize=(PAGE_WIDTH, 3.0), layout="constrained")
    axes = figure.subplots(1, 2)
    colours = dict(zip(dict.fromkeys(gap.dataset for gap in gaps), cycle(COLOURS), strict=False))
    markers = dict(zip(dict.fromkeys(gap.view for gap in gaps), cycle(MARKERS), strict=False))
    for ax, name in zip(axes, ("pretext", "chosen"), strict=True):
        for gap in gaps:
            look = {"color": colours[gap.dataset], "marker": markers[gap.view], "linestyle": "none"}
            x, y = gap.means["difficulty"], gap.means[name]
            if x.value is not None and y.value is not None:
                errors = {"xerr": 100 * (x.spread or 0), "yerr": 100 * (y.spread or 0)}
                ax.errorbar(100 * x.value, 100 * y.value, **errors, elinewidth=0.7, capsize=2, ms=5, **look)
            if "difficulty" in gap.published and name in gap.published:
                ax.plot(gap.published["difficulty"], gap.published[name], mfc="white", ms=5, **look)
        ax.axhline(0, color="#888888", lw=0.6)
        ax.grid()
        ax.set_xlabel(f"difficulty: 100 - pretext accuracy of {of[1]} (%)")
    axes[0].set_ylabel(f"pretext accuracy: {of[0]} less {of[1]} (points)")
    axes[1].set_ylabel(f"transfer: {of[0]} less {of[1]} (points)")
    keys: list[tuple[str, dict[str, Any]]] = [
        (dataset, {"color": colour, "marker": "s"}) for dataset, colour in colours.items()
    ]
    keys += [(view, {"color": "#666666", "marker": marker}) for view, marker in markers.items()]
    if any("difficulty" in gap.published for gap in gaps):
        keys.append(("published", {"color": "#666666", "marker": "o", "mfc": "white"}))
    handles = [Line2D([], [], linestyle="none", label=label(name), **look) for name, look in keys]
    figure.legend(handles=handles, loc=BELOW, ncols=6)
    return figure


@matplotlib.rc_context(PRINT)
def embeddings(
    rows: Mapping[str, tuple[Mapping[str, npt.NDArray[np.float32]], npt.NDArray[np.int64]]], class_names: Sequence[str]
) -> Figure:
    """Draws t-SNE points of each block, a row for each name; classes differ in colour (ten of them) and marker.

    Args:
        rows: name -> (block -> points [N, 2], class labels [N]); about POINTS are drawn.
        class_names: K names.
    """
    blocks = [*dict.fromkeys(block for points, _ in rows.values() for block in points)]
    figure = Figure(figsize=(PAGE_WIDTH, 1.75 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), len(blocks), squeeze=False)
    for (name, (points, labels)), row in zip(rows.items(), axes, strict=True):
        some = slice(None, None, -(-len(labels) // POINTS) or None)
        for block, ax in zip(blocks, row, strict=True):
            for k in range(len(class_names)) if block in points else ():
                x, y = points[block][some][labels[some] == k].T
                look: dict[str, Any] = {
                    "color": CLASS_COLOURS[k % len(CLASS_COLOURS)],
                    "marker": MARKERS[k % len(MARKERS)],
                }
                look["ms"] = 4.0 if look["marker"] == "*" else 2.8  # a star covers less than the others
                ax.plot(x, y, linestyle="none", mew=0, label=label(class_names[k]), **look)
            ax.set(xticks=[], yticks=[])
            ax.set_box_aspect(1)
        row[0].set_ylabel(fill(name, 22))
    for block, ax in zip(blocks, axes[0], strict=True):
        ax.set_title(block)
    if len(class_names) <= 20:
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc=BELOW, ncols=10, markerscale=1.6)
    return figure


@matplotlib.rc_context(PRINT)
def image_rows(rows: Mapping[str, torch.Tensor], titles: Sequence[str] = ()) -> Figure:
    """Draws rows of images float [B, C, H, W] in [0, 1], B at least 1, with a title for each column, or none."""
    count = len(next(iter(rows.values())))
    figure = Figure(figsize=(PAGE_WIDTH * count / 8, 0.9 * len(rows) + 0.15 * bool(titles)), layout="constrained")
    axes = figure.subplots(len(rows), count, squeeze=False)
    for (name, pixels_BCHW), row in zip(rows.items(), axes, strict=True):
        for pixels, ax in zip(pixels_BCHW, row, strict=True):
            # Drawn without resampling: every pixel is one of the image's.
            ax.imshow(pixels.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="none")
            ax.set(xticks=[], yticks=[])
        row[0].set_ylabel(fill(name, 22))
    for ax, title in zip(axes[0], titles, strict=False):
        ax.set_title(title, pad=2)
    return figure


def image_file(path: Path) -> Figure:
    """Draws one image file as it is served. Raises ImageError where it cannot be read."""
    pixels = torch.from_numpy(np.array(decode(path).convert("RGB"))).permute(2, 0, 1) / 255
    return image_rows({"": pixels[None]})
