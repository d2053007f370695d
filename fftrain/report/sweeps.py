"""The factors -> figures over a number, such as a threshold, a width or a rate, of cells that are alike in all else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from fftrain.report.cells import SHARE, Cell
from fftrain.report.curves import Curve
from fftrain.report.effects import factors
from fftrain.report.factors import Factors, named, worded
from fftrain.report.frame import Collection
from fftrain.report.means import Mean
from fftrain.report.tables import Table


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
    for of_data in factors(found):
        for key, lines in of_data.numbers():
            for view in dict.fromkeys(of_data.cells[line[0]].view for line in lines):
                mine = [line for line in lines if of_data.cells[line[0]].view == view]
                curves = [*_curves(of_data, key, mine, rows)]
                about = {"dataset": of_data.cells[0].dataset, "setting": ", ".join(map(named, of_data.together(key)))}
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
    untrained = both["source"] == "random"
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
        style = "random" if baseline else name
        yield Curve(dataset=of_data.cells[0].dataset, panel=panel, name=name, style=style, means=means)


def sweep_table(sweep: Sweep) -> Table:
    """Returns the figures that a sweep draws, a column for each level."""
    levels = sorted({level for curve in sweep.curves for level in curve.means}, key=float)
    rows = [
        [curve.panel, curve.name, *(curve.means[k].text(short=True) if k in curve.means else "" for k in levels)]
        for curve in sweep.curves
    ]
    columns = ("figure", "of", *(worded(float(level)) for level in levels))
    return Table(title=f"By {sweep.setting}, {sweep.dataset} {sweep.view}", columns=columns, rows=rows, folded=True)
