"""A study as a factorial experiment: what one setting changes where all others are alike, over pairs and seeds."""

from __future__ import annotations

from textwrap import fill
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import stdtrit

from fftrain.parts import RANDOM
from fftrain.report.cells import SHARE
from fftrain.report.factors import EFFECT, PAIR
from fftrain.report.figures import LOOKS, PAGE_WIDTH, PANELS, PRINT, cut, draw
from fftrain.report.frame import AT_CHOSEN, AT_LAST, CHOSEN, PROBE, READER, Collection, ranks
from fftrain.report.records import PRETEXT
from fftrain.report.section import Section, Table

LEVEL = 0.95
FIGURE = ["figure", "split", "unit"]
# What is told first, of all that was measured.
FIRST = {measure: i for i, measure in enumerate((CHOSEN, PROBE, PRETEXT, "effective rank"))}


def headline(found: Collection, frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the figures that stand for a run: at the blocks that validation chose, at the last one, and of no block.

    Args:
        found: what lies in the folder.
        frame: its frame with what validation chose.

    Returns:
        rows of the frame, of runs and of their untrained networks, on the split that most runs were read on, test where
        as many were, each with its `figure`. A reading that is not the usual one stands in `run` too.
    """
    methods = {cell.name: cell.method for cell in found.cells if not cell.search}
    told = [PROBE, *found.of_classes]
    mine = (frame["source"] == frame["run"].map(methods)) | (frame["source"] == RANDOM) & frame["run"].isin(methods)
    left = ["seconds", "points", READER, *(measure + AT_LAST for measure in told)]
    rows = frame[mine & (frame["probed_on"] == frame["dataset"]) & ~frame["measure"].isin(left)]
    rows = rows[rows["usual"] | (rows["target"] != "pretext")]
    rows = rows.astype({"measure": str, "target": str})  # of no rows, too
    at_chosen = rows["measure"].isin([measure + AT_CHOSEN for measure in told])
    at_last = rows["blocks"].str.fullmatch(r"block\d+") & ~at_chosen
    target = rows["target"]
    unusual = (target == "class") & ~rows["usual"]
    rows = rows.assign(
        rank=rows["measure"].map(FIRST).where(target != "pretext").fillna(len(FIRST)),
        figure=rows["measure"]
        + (" of the " + target + " label").mask(target.isin(["", "class"]), "")
        + at_last.map({True: ", last block", False: ""}),
        run=rows["run"].mask(unusual, rows["run"] + ", reading " + rows["reading"]),
    )[at_chosen | at_last | (rows["blocks"] == "")]
    runs = rows.groupby(["figure", "split"])["run"].nunique().unstack("split", fill_value=0)
    split = runs[sorted(runs)].idxmax(axis=1)  # that which most runs have been read on; test, where as many have
    rows = rows[rows["split"] == rows["figure"].map(split)].sort_values("blocks", key=ranks, kind="stable")
    rows = rows.sort_values("rank", kind="stable").drop_duplicates(["run", "source", "figure"], keep="last")
    return rows.drop(columns="rank")


def effects(found: Collection, rows: pd.DataFrame) -> pd.DataFrame:
    """Returns what each level of each setting changes, beside the first one.

    Differences of pairs of one seed are averaged, then those of the seeds; the interval is Student's, over seeds. Pairs
    that some seed lacks are left out, so that seeds differ in the seed alone; where no pair is of all seeds, all are
    averaged, without an interval.

    Args:
        found: what lies in the folder.
        rows: its `headline`.

    Returns:
        EFFECT, how many pairs of cells were `planned`, FIGURE, `value`, `low` and `high` (none of one seed), `seeds`
        and `pairs`. An effect of which nothing was measured has one row, without FIGURE.
    """
    pairs = pd.DataFrame([*(pair for of in found.factors for pair in of.pairs()), *_readings(found)], columns=PAIR)
    own = rows[rows["source"] != RANDOM]
    task = own["figure"].isin(own["figure"][(own["measure"] == PRETEXT) | (own["target"] == "pretext")])
    own = own.assign(task=task)[["run", *FIGURE, "task", "value"]]
    both = pairs.merge(own, on="run").merge(
        own.rename(columns={"run": "other", "value": "less_value"}), on=["other", *FIGURE, "task"]
    )
    both = both[~(both["task"] & (both["setting"] == "view"))]  # of another view it is another task
    both = both.assign(value=both["value"] - both["less_value"])
    keys = [*EFFECT, *FIGURE]
    seeds = both.groupby(keys)["seed"].transform("nunique")
    both["whole"] = both.groupby([*keys, "alike"])["seed"].transform("nunique") == seeds
    comparable = both.groupby(keys)["whole"].transform("any")
    both = both[both["whole"] | ~comparable]
    by_seed = both.groupby([*keys, "seed"], sort=False).agg(
        mean=("value", "mean"), pairs=("value", "size"), whole=("whole", "all")
    )
    by = by_seed.groupby(keys, sort=False)
    mean, seeds = by["mean"].mean(), by["mean"].size()
    reach = (by["mean"].sem() * stdtrit(seeds - 1, (1 + LEVEL) / 2)).where(by["whole"].all())
    told = pd.DataFrame(
        {"value": mean, "low": mean - reach, "high": mean + reach, "seeds": seeds, "pairs": by["pairs"].sum()}
    )
    planned = pairs.groupby(EFFECT, sort=False).size().rename("planned").reset_index()
    every = planned.merge(told.reset_index(), on=EFFECT, how="left")
    return every.fillna({"seeds": 0, "pairs": 0}).astype({"seeds": int, "pairs": int})


def _readings(found: Collection) -> list[dict[str, object]]:
    """Returns the pairs of one run's figures in two readings."""
    pairs = []
    for cell in found.cells:
        usual = cell.reading(cell.dataset)
        others = [r for on, r, target in cell.probed if (on, target) == (cell.dataset, "class") and r != usual]
        about = {"dataset": cell.dataset, "setting": "reading", "beside": "", "less": usual, "seed": cell.seed}
        about |= {"alike": str(cell.kind), "other": cell.name}
        pairs += [{**about, "level": r, "run": f"{cell.name}, reading {r}"} for r in others]
    return pairs


def of_effects(effects: pd.DataFrame) -> list[Section]:
    """Returns what each setting changes; no part where nothing differs in one setting alone."""
    measured, pictures = effects.dropna(subset="figure"), []
    for dataset, rows in measured.groupby("dataset", sort=False):
        names = [*dict.fromkeys(rows["figure"])] if len(rows[EFFECT].drop_duplicates()) > 1 else []
        for number, shown in enumerate(cut(names, PANELS), start=1):
            alt = f"Dot chart: what each setting changes on {dataset}: {'; '.join(shown)}"
            some = rows[rows["figure"].isin(shown)]
            pictures.append(draw(f"effects {dataset} {number}", alt, _dots, some))
    once = "An effect of one seed has no interval." if (measured["seeds"] < 2).any() else ""
    table = effects_table(effects if len(measured) else measured)
    found = Section("Effects of the settings", "effects", table, pictures=pictures, note=once)
    return [] if found.empty else [found]


def effects_table(found: pd.DataFrame) -> Table:
    """Returns the `effects`, a line for each level, and how many pairs there are of those that were planned."""
    figures = found[["figure", "unit"]].dropna().drop_duplicates().itertuples(index=False, name=None)
    titles = {figure: f"{figure} ({'points' if unit == SHARE else unit})" for figure, unit in figures}
    lines = []
    for effect, rows in found.groupby(EFFECT, sort=False):
        most, planned = rows["pairs"].max(), rows["planned"].iloc[0]
        line = dict(zip(("data set", "setting", "with", "level", "less"), effect, strict=True))
        line["pairs"] = f"{most}" if most == planned else f"{most} of {planned}"
        line["seeds"] = f"{rows['seeds'].max()}"
        lines.append({**line, **dict.fromkeys(titles.values(), "")})
        for row in rows.dropna(subset="figure").to_dict("records"):
            scale = 100 if row["unit"] == SHARE else 1
            interval = "" if pd.isna(row["low"]) else f" [{scale * row['low']:+.1f}, {scale * row['high']:+.1f}]"
            fewer = "" if row["pairs"] == most else f" ({row['pairs']} pairs)"
            lines[-1][titles[row["figure"]]] = f"{scale * row['value']:+.1f}{interval}{fewer}"
    return Table.of("What each level changes, beside another: mean difference and 95 % interval over seeds", lines)


@matplotlib.rc_context(PRINT)
def _dots(found: pd.DataFrame) -> Figure:
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
    dot: dict[str, Any] = {**LOOKS[0], "linestyle": "none", "elinewidth": 1.0, "capsize": 2}
    for ax, ((name, unit), rows) in zip(axes, panels, strict=True):
        scale, rows = 100 if unit == SHARE else 1, rows.merge(lines, on=EFFECT)
        reach = (scale * (rows["high"] - rows["value"])).fillna(0.0)
        ax.axvline(0, color="#888888", lw=0.8)
        for known, face in ((True, LOOKS[0]["color"]), (False, "white")):
            some = rows["low"].notna() == known
            x, y = scale * rows["value"][some], rows["y"][some]
            ax.errorbar(x, y, xerr=reach[some], markerfacecolor=face, **dot)
        for number, (_, group) in enumerate(lines.groupby("setting", sort=False)):
            if number % 2:
                ax.axhspan(group["y"].min() - 0.5, group["y"].max() + 0.5, color="#eeeeee", lw=0, zorder=0)
        ax.set(title=fill(name, 26), xlabel="points" if unit == SHARE else unit)
        ax.grid(axis="x")
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    return figure
