"""A study as a factorial experiment: what one setting changes where all others are alike, over pairs and seeds."""

from __future__ import annotations

import pandas as pd
from scipy.special import stdtrit

from fftrain.report.cells import SHARE
from fftrain.report.factors import EFFECT, PAIR, Factors
from fftrain.report.frame import Collection
from fftrain.report.means import PROBE, READER, block_order, chosen, last, of_classes
from fftrain.report.records import PRETEXT
from fftrain.report.tables import Table

LEVEL = 0.95
FIGURE = ["figure", "split", "unit"]
# What is told first, of all that was measured.
FIRST = [chosen(PROBE), PROBE, PRETEXT, "effective rank"]


def factors(found: Collection) -> list[Factors]:
    """Returns the factors of each data set; cells of a search, and those whose settings are not known, have none."""
    cells = [cell for cell in found.cells if cell.settings and not cell.search]
    datasets = dict.fromkeys(cell.dataset for cell in cells)
    return [Factors([cell for cell in cells if cell.dataset == dataset]) for dataset in datasets]


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
    told = [PROBE, *of_classes(found)]
    mine = (frame["source"] == frame["run"].map(methods)) | (frame["source"] == "random") & frame["run"].isin(methods)
    left = ["seconds", "points", READER, *map(last, told)]
    rows = frame[mine & (frame["probed_on"] == frame["dataset"]) & ~frame["measure"].isin(left)]
    rows = rows[rows["usual"] | (rows["target"] != "pretext")]
    at_chosen = rows["measure"].isin([*map(chosen, told)])
    at_last = rows["blocks"].str.fullmatch(r"block\d+") & ~at_chosen
    of = rows["target"].map(lambda target: "" if target in ("", "class") else f" of the {target} label")
    unusual = (rows["target"] == "class") & ~rows["usual"]
    rows = rows.assign(
        rank=[
            FIRST.index(measure) if measure in FIRST and target != "pretext" else len(FIRST)
            for measure, target in zip(rows["measure"], rows["target"], strict=True)
        ],
        block=[block_order(name) for name in rows["blocks"]],
        figure=rows["measure"] + of + at_last.map({True: ", last block", False: ""}),
        run=rows["run"].mask(unusual, rows["run"] + ", reading " + rows["reading"]),
    )[at_chosen | at_last | (rows["blocks"] == "")]
    runs = rows.groupby(["figure", "split"])["run"].nunique().unstack("split", fill_value=0)
    split = runs[sorted(runs)].idxmax(axis=1)  # that which most runs have been read on; test, where as many have
    rows = rows[rows["split"] == rows["figure"].map(split)]
    rows = rows.sort_values(["rank", "block"], kind="stable").drop_duplicates(["run", "source", "figure"], keep="last")
    return rows.drop(columns=["rank", "block"])


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
    pairs = pd.DataFrame([*(pair for one in factors(found) for pair in one.pairs()), *_readings(found)], columns=PAIR)
    own = rows[rows["source"] != "random"]
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
