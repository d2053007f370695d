"""The factors -> figures over a number, such as a threshold, a width or a rate, of cells that are alike in all else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, product
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from fftrain.parts import RANDOM
from fftrain.report.blocks import Curve, curve_table
from fftrain.report.cells import SHARE, Cell
from fftrain.report.factors import Factors
from fftrain.report.figures import BASELINES, LOOKS, PANELS, PRINT, cut, draw, labels, legend, panelled
from fftrain.report.frame import Collection
from fftrain.report.means import Mean
from fftrain.report.section import Section, Table

# Lines of a panel that are still told apart.
LINES = 12


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What was measured over a number, of a data set and view: of each curve, `means` are by level."""

    dataset: str
    view: str
    setting: str
    curves: Sequence[Curve]


def sweeps(found: Collection, rows: pd.DataFrame) -> Iterator[Sweep]:
    """Yields a sweep of each number that has three levels or more.

    Args:
        found: what lies in the folder.
        rows: its `headline`.
    """
    for of_data in found.factors:
        for key, lines in of_data.numbers():
            for view in dict.fromkeys(of_data.cells[line[0]].view for line in lines):
                mine = [line for line in lines if of_data.cells[line[0]].view == view]
                curves = [*_curves(of_data, key, mine, rows)]
                names = (name.removesuffix(".name") for name in of_data.together(key))
                about = {"dataset": of_data.cells[0].dataset, "setting": ", ".join(names)}
                if curves:
                    yield Sweep(**about, view=view, curves=curves)


def _curves(of_data: Factors, key: str, lines: Sequence[Sequence[int]], rows: pd.DataFrame) -> Iterator[Curve]:
    """Yields the lines of each figure, then those of the untrained networks."""
    names, networks = of_data.names(key, lines), of_data.names(key, lines, "backbone")
    planned: dict[tuple[str, str], list[Cell]] = {}
    places = []
    for line, name, network in zip(lines, names, networks, strict=True):
        for i in line:
            cell, level = of_data.cells[i], str(of_data.settings[i][key])
            planned.setdefault((name, level), []).append(cell)
            places.append((cell.name, level, name, f"random {network}".strip()))
    both = pd.DataFrame(places, columns=["run", "level", "name", "random"]).merge(rows, on="run")
    untrained = both["source"] == RANDOM
    random = both["random"] + (", reading " + both["reading"] if both["reading"][untrained].nunique() > 1 else "")
    both = both.assign(
        baseline=untrained,
        name=both["name"].mask(untrained, random),
        panel=[f"{f} ({'%' if unit == SHARE else unit})" for f, unit in zip(both["figure"], both["unit"], strict=True)],
        order=both["figure"].map([*dict.fromkeys(rows["figure"])].index),
    ).sort_values(["baseline", "order"], kind="stable")
    for (panel, name, baseline), part in both.groupby(["panel", "name", "baseline"], sort=False):
        means = {
            str(level): Mean.of(of.drop_duplicates("seed"), planned.get((name, level), ()))
            for level, of in part.groupby("level", sort=False)
        }
        style = RANDOM if baseline else name
        yield Curve(dataset=of_data.cells[0].dataset, panel=panel, name=name, style=style, means=means)


def of_sweeps(sweeps: Sequence[Sweep]) -> list[Section]:
    """Returns figures over the numbers that have three levels or more; no part where none has."""
    pictures = []
    for sweep in sweeps:
        panels = [*dict.fromkeys(curve.panel for curve in sweep.curves)]
        names = [*dict.fromkeys(curve.name for curve in sweep.curves if curve.style != RANDOM)]
        place = f"{sweep.dataset} {sweep.view}"
        for number, (some, shown) in enumerate(product(cut(names, LINES), cut(panels, 2 * PANELS)), start=1):
            curves = [c for c in sweep.curves if c.panel in shown and (c.name in some or c.style == RANDOM)]
            if len({level for curve in curves for level in curve.means}) < 2:  # a line has two ends
                continue
            lines = "; ".join(dict.fromkeys(curve.name for curve in curves))
            alt = f"Line charts over {sweep.setting} on {place}: {'; '.join(shown)}; lines {lines}"
            name = f"over {sweep.setting} {place} {number}"
            pictures.append(draw(name, alt, sweep_lines, curves, sweep.setting))
    tables = map(sweep_table, sweeps)
    return [Section("Over a setting's range", "sweeps", *tables, pictures=pictures)] if pictures else []


def sweep_table(sweep: Sweep) -> Table:
    """Returns the figures that a sweep draws, a column for each level."""
    levels = sorted({level for curve in sweep.curves for level in curve.means}, key=float)
    names = {level: f"{float(level):g}" for level in levels}
    return curve_table(f"By {sweep.setting}, {sweep.dataset} {sweep.view}", "figure", sweep.curves, names)


@matplotlib.rc_context(PRINT)
def sweep_lines(curves: Sequence[Curve], setting: str) -> Figure:
    """Draws figures over a number, a panel for each; on a logarithmic axis where levels span a decade."""
    panels = [*dict.fromkeys(curve.panel for curve in curves)]
    levels = sorted({float(level) for curve in curves for level in curve.means})
    wide = levels[0] > 0 and levels[-1] >= 10 * levels[0]
    places = np.log(levels) if wide else np.array(levels)
    apart = np.diff(places).min() > 0.12 * (places[-1] - places[0])  # so that a tick for each has room
    looks = _looks({curve.name: curve.style for curve in curves})
    shown = labels(looks)
    figure, axes = panelled(panels, len(looks))
    for ax, panel in zip(axes, panels, strict=False):
        for curve in (curve for curve in curves if curve.panel == panel):
            points = sorted(
                (float(level), m.scale * (m.value or 0.0), m.scale * m.reach) for level, m in curve.means.items()
            )
            x, y, reach = np.array(points).T
            ax.plot(x, y, label=shown[curve.name], **looks[curve.name])
            if curve.style != RANDOM:
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
    legend(figure, axes)
    return figure


def _looks(styles: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Returns how lines of these names and styles are drawn: the second time a colour is hollow."""
    looks: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(name for name, style in styles.items() if style != RANDOM):
        looks[name] = {**LOOKS[i % len(LOOKS)], **({"markerfacecolor": "white"} if i // len(LOOKS) % 2 else {})}
    markers = zip((name for name, style in styles.items() if style == RANDOM), cycle("^1234+x"), strict=False)
    return looks | {name: {**BASELINES[RANDOM], "marker": marker} for name, marker in markers}
