"""What each block knows: the frame -> figures by block, as lines and tables show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fftrain.parts import RANDOM, RAW
from fftrain.report.cells import KIND, SHARE
from fftrain.report.figures import PANELS, PRINT, draw, labels, legend, panelled, styles
from fftrain.report.frame import READER, Collection, in_order
from fftrain.report.means import Group, Mean
from fftrain.report.section import Section, Table

# Where figures of blocks are cut off, in %.
FLOOR = -20.0


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A figure of each block: a line of a panel, and a row of a table. `style` is a method, `random` or `raw`."""

    dataset: str
    panel: str
    name: str
    style: str
    means: Mapping[str, Mean]


def block_curves(found: Sequence[Group], measure: str, target: str = "", split: str = "test") -> list[Curve]:
    """Returns the figures of each block of every data set, view and reading, with the baselines.

    Args:
        found: the groups.
        measure: `probe accuracy`, `explained variance` or another.
        target: whose labels are told, `class` or `pretext`; "" where none are.
        split: what they were measured on.
    """
    several = len({group.network for group in found} - {""}) > 1
    parts = []
    for group in found:
        rows = group.rows
        rows = rows[(rows["measure"] == measure) & (rows["target"] == target) & (rows["split"] == split)]
        words = {RANDOM: RANDOM + (f" {group.network}" if several else ""), RAW: RAW}
        names = [
            words.get(s, group.label) + (f", reading {r}" if s == RANDOM else "")
            for s, r in zip(rows["source"], rows["reading"], strict=True)
        ]
        panels = [
            f"{group.dataset} {group.view}"
            + (f", probed on {on}" if on != group.dataset else "")
            + ("" if usual else f", reading {reading}")
            for on, usual, reading in zip(rows["probed_on"], rows["usual"], rows["reading"], strict=True)
        ]
        parts.append(rows.assign(line=names, panel=panels))
    curves = []
    frame = pd.concat(parts) if parts else pd.DataFrame()
    lines = frame.groupby(["dataset", "panel", "line", "source"], sort=False) if len(frame) else ()
    for (dataset, panel, name, style), rows in lines:
        kinds = {*rows[KIND].itertuples(index=False, name=None)}
        # The baselines of several methods are one where their seeds are.
        of = (group for group in found if (group.dataset, group.view, group.method, group.varied) in kinds)
        cells = {cell.seed: cell for group in of for cell in group.cells}
        means = {
            blocks: Mean.of(part.drop_duplicates("seed"), cells.values())
            for blocks, part in rows.groupby("blocks", sort=False)
        }
        curves.append(Curve(dataset=dataset, panel=panel, name=name, style=style, means=means))
    order, panels = {RANDOM: 1, RAW: 2}, [*dict.fromkeys(curve.panel for curve in curves)]
    return sorted(curves, key=lambda curve: (panels.index(curve.panel), order.get(curve.style, 0)))


def readout_curves(found: Sequence[Group]) -> list[Curve]:
    """Returns the pretext accuracy that the methods themselves tell from each block."""
    curves = []
    for group in found:
        rows = group.rows
        rows = rows[(rows["measure"] == READER) & (rows["split"] == group.split)]
        rows = rows[rows["blocks"].str.startswith("block")]
        means = {str(b): Mean.of(part, group.cells) for b, part in rows.groupby("blocks", sort=False)}
        about = {"panel": f"{group.dataset} {group.view}", "name": f"{group.label}, readout", "style": group.method}
        curves += [Curve(dataset=group.dataset, **about, means=means)] if len(means) > 1 else []  # one is no line
    return curves


def cka_curves(found: Collection) -> list[Curve]:
    """Returns the similarity of like blocks of two methods, and of both before training."""
    rows = found.frame[found.frame["measure"] == "cka"]
    ends = rows["blocks"].str.split(" and ", expand=True) if len(rows) else pd.DataFrame({0: [], 1: []})
    rows = rows.assign(blocks=ends[0])[ends[0] == ends[1]]
    return [
        Curve(
            dataset=dataset,
            panel=f"{dataset} {view}" + (f", {varied}" if varied else ""),
            name=source,
            style=RANDOM if source.startswith("untrained ") else source.split(" and ")[0],
            means={blocks: Mean.of(part, ()) for blocks, part in lines.groupby("blocks", sort=False)},
        )
        for (dataset, view, varied, source), lines in rows.groupby(["dataset", "view", "varied", "source"], sort=False)
    ]


def by_block(
    title: str, text: str, name: str, what: str, curves: Sequence[Curve], whole: Sequence[Group], unit: str = SHARE
) -> Section:
    """Returns a part with a figure for each data set, and the table of what they draw."""
    unit = "%" if unit == SHARE else unit
    ylabel = f"{what} ({unit})"
    methods, pictures = list(dict.fromkeys(group.method for group in whole)), []
    drawn = [curve for curve in curves if any(curve.means)]
    for dataset in dict.fromkeys(curve.dataset for curve in drawn):
        mine = [curve for curve in drawn if curve.dataset == dataset]
        lines = "; ".join(dict.fromkeys(curve.name for curve in mine))
        alt = f"Line chart: {ylabel} by block on {dataset}; lines {lines}"
        pictures.append(draw(f"{name} {dataset}", alt, block_lines, mine, ylabel, FLOOR, methods))
    blocks = in_order({block for curve in curves for block in curve.means})
    names = {block: block or "value" for block in blocks}
    table = curve_table(f"{title}, in {unit}", "pretrained on", curves, names)
    return Section(title, text, table, pictures=pictures)


def curve_table(title: str, of: str, curves: Sequence[Curve], places: Mapping[str, str]) -> Table:
    """Returns what a figure draws, a line for each curve.

    Args:
        title: what it shows.
        of: what the panels are called.
        curves: what is drawn.
        places: the keys of `Curve.means` in order -> what they are called.
    """
    rows = [[c.panel, c.name, *(c.means[key].short if key in c.means else "" for key in places)] for c in curves]
    return Table(title=title, columns=(of, "of", *places.values()), rows=rows, folded=any(places))


@matplotlib.rc_context(PRINT)
def block_lines(curves: Sequence[Curve], ylabel: str, floor: float, methods: Sequence[str] = ()) -> Figure:
    """Draws figures of each block, a panel for each of `Curve.panel`; shares below `floor` % are cut off."""
    panels = list(dict.fromkeys(curve.panel for curve in curves))
    looks = styles([(curve.name, curve.style) for curve in curves], methods)
    shown = labels(looks)
    figure, axes = panelled(panels, len(looks), sharey=True)
    order = in_order({block for curve in curves for block in curve.means})
    for i, (ax, panel) in enumerate(zip(axes, panels, strict=False)):
        mine = [curve for curve in curves if curve.panel == panel]
        blocks = [block for block in order if block != "pixels" and any(block in curve.means for curve in mine)]
        for k, curve in enumerate(mine):
            shift = 0.5 * ((k + 0.5) / len(mine) - 0.5)
            _line(ax, curve.means, blocks, {**looks[curve.name], "label": shown[curve.name]}, shift)
        ax.set_xticks(range(len(blocks)), [name.removeprefix("block").removeprefix("s") for name in blocks])
        ax.set(title=fill(panel, 34), xlabel="block", ylabel="" if i % PANELS else ylabel)
        ax.grid()
    if all(mean.scale == 100 for curve in curves for mean in curve.means.values()):
        low, high = axes[0].get_ylim()
        axes[0].set_ylim(max(floor, min(low, high - 10)), min(104, high))
    legend(figure, axes)
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
