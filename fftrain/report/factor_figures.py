"""Figures of a study's factors: what each level changes, and what a number does."""

from __future__ import annotations

from textwrap import fill
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from fftrain.report.cells import SHARE
from fftrain.report.factors import EFFECT
from fftrain.report.figures import LOOKS, PAGE_WIDTH
from fftrain.report.lettering import PRINT


@matplotlib.rc_context(PRINT)
def effect_dots(found: pd.DataFrame) -> Figure:
    """Draws the `effects` of one data set, a panel for each figure; a hollow dot has no interval."""
    lines = found[EFFECT].drop_duplicates()
    words = (f"{line.setting}: {line.level} less {line.less}" for line in lines.itertuples())
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
