"""The parts of the page about settings: what each changes, and figures over those that are numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pandas as pd

from fftrain.report import factor_figures
from fftrain.report.effects import effects_table
from fftrain.report.factors import EFFECT
from fftrain.report.section import Section, draw, section
from fftrain.report.sweeps import Sweep, sweep_table

# Panels side by side, and lines of a panel that are still told apart.
PANELS, LINES = 3, 12


def of_effects(effects: pd.DataFrame) -> list[Section]:
    """Returns what each setting changes; no part where nothing differs in one setting alone."""
    measured, pictures = effects.dropna(subset="figure"), []
    for dataset, rows in measured.groupby("dataset", sort=False):
        names = [*dict.fromkeys(rows["figure"])] if len(rows[EFFECT].drop_duplicates()) > 1 else []
        for number, shown in enumerate(_cut(names, PANELS), start=1):
            alt = f"Dot chart: what each setting changes on {dataset}: {'; '.join(shown)}"
            some = rows[rows["figure"].isin(shown)]
            pictures.append(draw(f"effects {dataset} {number}", alt, factor_figures.effect_dots, some))
    once = "An effect of one seed has no interval." if (measured["seeds"] < 2).any() else ""
    table = effects_table(effects if len(measured) else measured)
    found = section("Effects of the settings", "effects", table, pictures=pictures, note=once)
    return [] if found.empty else [found]


def of_sweeps(sweeps: Sequence[Sweep]) -> list[Section]:
    """Returns figures over the numbers that have three levels or more; no part where none has."""
    pictures = []
    for sweep in sweeps:
        panels = [*dict.fromkeys(curve.panel for curve in sweep.curves)]
        names = [*dict.fromkeys(curve.name for curve in sweep.curves if curve.style != "random")]
        place = f"{sweep.dataset} {sweep.view}"
        for number, (some, shown) in enumerate(product(_cut(names, LINES), _cut(panels, 2 * PANELS)), start=1):
            curves = [c for c in sweep.curves if c.panel in shown and (c.name in some or c.style == "random")]
            if len({level for curve in curves for level in curve.means}) < 2:  # a line has two ends
                continue
            lines = "; ".join(dict.fromkeys(curve.name for curve in curves))
            alt = f"Line charts over {sweep.setting} on {place}: {'; '.join(shown)}; lines {lines}"
            name = f"over {sweep.setting} {place} {number}"
            pictures.append(draw(name, alt, factor_figures.sweep_lines, curves, sweep.setting))
    tables = map(sweep_table, sweeps)
    return [section("Over a setting's range", "sweeps", *tables, pictures=pictures)] if pictures else []


def _cut(names: Sequence[str], size: int) -> list[Sequence[str]]:
    """Returns names in parts of a size."""
    return [names[start : start + size] for start in range(0, len(names), size)]
