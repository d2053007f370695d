"""Figures of a study's factors: what each level changes, and what a number does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from operator import itemgetter
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from fftrain.report.cells import SHARE
from fftrain.report.curves import Curve
from fftrain.report.factors import EFFECT
from fftrain.report.figures import ACROSS, BASELINES, COLUMN, LOOKS, PAGE_WIDTH, legend
from fftrain.report.lettering import PRINT, label


@matplotlib.rc_context(PRINT)
def effect_dots(found: pd.DataFrame) -> Figure:
    """Draws the `effects` of one data set, a panel for each figure; a hollow dot has no interval."""
    lines = found[EFFECT].drop_duplicates()
    words = (
        f"{line.setting}{f' (with {line.beside})' if line.beside else ''}: {line.level} less {line.less}"
        for line in lines.itertuples()
    )
    names = [fill(text, 36, break_on_hyphens=False) for text in words]
    lines = lines.assign(y=range(len(lines)))
    panels = [*found.groupby(["figure", "unit"], sort=False)]
    size = (PAGE_WIDTH, 0.13 * sum(1.8 + name.count("\n") for name in names) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for ax, ((name, unit), rows) in zip(axes, panels, strict=True):
        scale, rows = 100 if unit == SHARE else 1, rows.merge(lines, on=EFFECT)
        reach = (scale * (rows["high"] - rows["value"])).fillna(0.0)
        ax.axvline(0, color="#888888", lw=0.8)
        for known, face in ((True, LOOKS[0]["color"]), (False, "white")):
            some = rows["low"].notna() == known
            look: dict[str, Any] = {
                **LOOKS[0],
                "markerfacecolor": face,
                "linestyle": "none",
                "elinewidth": 1.0,
                "capsize": 2,
            }
            ax.errorbar(scale * rows["value"][some], rows["y"][some], xerr=reach[some], **look)
        for number, (_, group) in enumerate(lines.groupby("setting", sort=False)):
            if number % 2:
                ax.axhspan(group["y"].min() - 0.5, group["y"].max() + 0.5, color="#eeeeee", lw=0, zorder=0)
        ax.set(title=fill(name, 26), xlabel="points" if unit == SHARE else unit)
        ax.grid(axis="x")
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


@matplotlib.rc_context(PRINT)
def sweep_lines(curves: Sequence[Curve], setting: str) -> Figure:
    """Draws figures over a number, a panel for each; on a logarithmic axis where levels span a decade."""
    panels = [*dict.fromkeys(curve.panel for curve in curves)]
    levels = sorted({float(level) for curve in curves for level in curve.means})
    wide = levels[0] > 0 and levels[-1] >= 10 * levels[0]
    places = np.log(levels) if wide else np.array(levels)
    apart = np.diff(places).min() > 0.12 * (places[-1] - places[0])  # so that a tick for each has room
    looks = _looks({curve.name: curve.style for curve in curves})
    rows, across = -(-len(panels) // ACROSS), min(ACROSS, len(panels))
    size = (PAGE_WIDTH if across > 1 else COLUMN, 2.1 * rows + 0.16 * len(looks) + 0.2)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, across, squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, panel in zip(axes.flat, panels, strict=False):
        for curve in (curve for curve in curves if curve.panel == panel):
            points = sorted(((float(level), mean) for level, mean in curve.means.items()), key=itemgetter(0))
            x = [level for level, _ in points]
            y = np.array([mean.scale * (mean.value or 0.0) for _, mean in points])
            ax.plot(x, y, label=label(curve.name), **looks[curve.name])
            if curve.style != "random":
                reach = np.array([mean.scale * mean.reach for _, mean in points])
                ax.fill_between(x, y - reach, y + reach, color=looks[curve.name]["color"], alpha=0.15, lw=0)
        if wide:
            ax.set_xscale("log")
            ax.xaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_major_formatter("{x:g}")
        if apart:
            ax.set_xticks(levels, [f"{level:g}" for level in levels])
            ax.minorticks_off()
        ax.set(title=fill(panel, 30), xlabel=fill(setting, 34))
        ax.grid()
    legend(figure, list(axes.flat))
    return figure


def _looks(styles: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Returns how lines of these names and styles are drawn: the second time a colour is hollow."""
    looks: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(name for name, style in styles.items() if style != "random"):
        looks[name] = {**LOOKS[i % len(LOOKS)], **({"markerfacecolor": "white"} if i // len(LOOKS) % 2 else {})}
    markers = zip((name for name, style in styles.items() if style == "random"), cycle("^1234+x"), strict=False)
    return looks | {name: {**BASELINES["random"], "marker": marker} for name, marker in markers}
