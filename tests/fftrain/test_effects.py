"""Effects of a study's settings: held against loops over its cells and SciPy's t-test, on numbers that are drawn."""

from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace
from zlib import crc32

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from fftrain.report.cells import EMPTY, Cell
from fftrain.report.effects import effects, effects_table, headline
from fftrain.report.frame import NUMBERS, Collection
from fftrain.report.means import with_choices
from fftrain.report.sections import of_effects
from fftrain.study import plan
from tests.fftrain.reports import records

SPEC = {
    "dataset": "digits",
    "seed": [0, 1, 2],
    "evaluation": ["linear"],
    "settings": {"epochs": 1},
    "parts": {"mlp": {"width": 40, "depth": 2}},
}
CROSSED = {"method": ["forward-forward", "cross-entropy"], "cut": ["block", "never"], "at": ["all", "last"]}
CHOSEN, LAST = "probe accuracy, chosen", "probe accuracy, last block"
PLACES = [
    ("validation", "block1", 0.9),
    ("validation", "block2", 0.1),
    ("test", "block1", None),
    ("test", "block2", None),
]


def cells_of(**spec):
    """The cells of a spec as a report finds them, none of which was run."""
    keys = ("name", "dataset", "view", "method", "seed", "settings", "evaluations")
    plans = [{key: cell[key] for key in keys} for cell in plan(SPEC | spec, "made", {}).to_dict()["cells"]]
    asked = [{(e["dataset"], e["reading"], e["target"]): e for e in cell.pop("evaluations")} for cell in plans]
    return [Cell(**cell, planned=tuple(p for p in of if p[2])) for cell, of in zip(plans, asked, strict=True)]


def drawn(cell, reading=""):
    """What is measured of a cell's blocks, the first of which validation chooses: the same in any order of cells."""
    reading = reading if reading != cell.reading("digits") else ""
    return dict(
        zip((CHOSEN, LAST), np.random.default_rng(crc32(f"{cell.name} {reading}".encode())).random(2), strict=True)
    )


def told(cells, *, missing=(), **measures):
    """The effects in cells with drawn figures, but those whose names are missing."""
    rows = []
    for cell in cells:
        about = {key: getattr(cell, key) for key in ("dataset", "view", "method", "seed")}
        about |= {"run": cell.name, "probed_on": "digits", "source": cell.method}
        for _, reading, target in cell.planned:
            values = [*drawn(cell, reading).values()]
            rows += [
                {"measure": "probe accuracy", "reading": reading, "target": target, "split": split, "blocks": blocks}
                | {**about, "value": values[blocks == "block2"] if value is None else value}
                for split, blocks, value in PLACES
            ]
        rows += [{"measure": name.replace("_", " "), "value": drawn(cell)[LAST], **about} for name in measures]
    rows = [{**EMPTY, **row} for row in rows if row["run"] not in missing]
    frame = pd.DataFrame(rows, columns=[*EMPTY, *NUMBERS], dtype=object).astype(dict.fromkeys(NUMBERS, float))
    found = Collection(root=None, study={}, cells=cells, pairs=[], frame=frame, problems=[])
    return effects(found, headline(found, with_choices(found)))


def line(found, figure=CHOSEN, **wanted):
    """The one effect on a figure that has these values."""
    [row] = found[(found[["figure", *wanted]] == [figure, *wanted.values()]).all(axis=1)].to_dict("records")
    return row


def described(found):
    """The effects in words, and how many pairs were planned."""
    kept = found[["setting", "beside", "level", "less", "planned"]].drop_duplicates()
    return [*kept.itertuples(index=False, name=None)]


def axes(cell):
    """Method, cut and at of a cell of the crossed study; one that is cut at each block has no `at`."""
    config = cell.settings
    return config["method"]["name"], config["cut"], "" if config["cut"] == "block" else config["at"]


def agrees(row, differences):
    """Whether an effect is the mean over seeds of means over pairs, with SciPy's interval."""
    means = [np.mean(of_seed) for of_seed in differences.values()]
    interval = ttest_1samp(means, 0.0).confidence_interval(0.95)
    assert (row["seeds"], row["pairs"]) == (len(means), sum(map(len, differences.values())))
    assert row["value"] == pytest.approx(np.mean(means), rel=1e-12)
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), rel=1e-9)
    return True


WANTED = {
    ("method", "cross-entropy", "forward-forward"): (9, lambda a, b: a[0] != b[0] and a[1:] == b[1:]),
    ("cut", "never", "block"): (12, lambda a, b: a[0] == b[0] and a[1] != b[1]),  # whichever blocks carry the loss
    ("at", "last", "all"): (6, lambda a, b: a[:2] == b[:2] and a[2] != b[2]),
}


def differences(cells, figure, level, less, paired):
    """By seed, the differences of the pairs of cells that a loop finds."""
    found = defaultdict(list)
    for a, b in itertools.product(cells, cells):
        if a.seed == b.seed and level in axes(a) and less in axes(b) and paired(axes(a), axes(b)):
            found[a.seed].append(drawn(a)[figure] - drawn(b)[figure])
    return found


@pytest.mark.parametrize("figure", [CHOSEN, LAST])
def test_effects_are_those_of_a_loop_over_pairs_and_of_scipy(figure):
    cells = cells_of(**CROSSED)
    found = told(cells)
    for (setting, level, less), (count, paired) in WANTED.items():
        row = line(found, figure, setting=setting, level=level, less=less)
        assert row["planned"] == row["pairs"] == count
        assert agrees(row, differences(cells, figure, level, less, paired))
    # What differs in method and cut is told of the recipe that comes first alone.
    assert described(found) == [
        ("recipe", "", "bp", "ff", 3),
        *((s, "", a, b, WANTED[s, a, b][0]) for s, a, b in WANTED),
    ]


def test_levels_the_other_way_round_flip_the_sign():
    mlp = {"width": [40, 20], "depth": 2}
    found = told(cells_of(parts={"mlp": mlp}))
    turned = told(cells_of(parts={"mlp": {**mlp, "width": [20, 40]}}))
    for figure in (CHOSEN, LAST):
        a, b = line(found, figure, setting="backbone.width"), line(turned, figure, setting="backbone.width")
        assert (a["level"], a["less"], b["level"], b["less"]) == ("20", "40", "40", "20")
        assert a["value"] == pytest.approx(-b["value"])
        assert (a["low"], a["high"]) == pytest.approx((-b["high"], -b["low"]))


@pytest.mark.parametrize(
    ("spec", "search"), [({"recipe": "ff"}, False), ({"recipe": "ff", "seed": 0}, False), (CROSSED, True)]
)
def test_seeds_alone_are_no_factor_and_of_a_search_none_is_told(spec, search):
    found = told([replace(cell, search=search) for cell in cells_of(**spec)])
    assert not len(found)
    assert of_effects(found) == []


def test_a_cell_that_lacks_takes_its_pairs_from_all_seeds_and_it_is_said():
    cells = cells_of(**CROSSED)
    [lost] = [cell for cell in cells if (cell.seed, *axes(cell)) == (1, "forward-forward", "never", "last")]
    found = told(cells, missing=[lost.name])
    whole = [cell for cell in cells if axes(cell) != axes(lost)]
    for (setting, level, less), (count, paired) in WANTED.items():
        row = line(found, setting=setting, level=level, less=less)
        assert agrees(row, differences(whole, CHOSEN, level, less, paired))
        assert (row["pairs"], row["planned"]) == (count - 3, count)
    table = effects_table(found)
    said = {row["setting"]: row["pairs"] for row in records([table.columns, *table.rows])}
    assert said == {"recipe": "3", "method": "6 of 9", "cut": "9 of 12", "at": "3 of 6"}


def test_seeds_that_share_no_pair_have_no_interval():
    cells = cells_of(**CROSSED, seed=[0, 1])
    ways = [("block", ""), ("never", "all")]
    lost = [cell.name for cell in cells if axes(cell)[1:] != ways[cell.seed]]
    row = line(told(cells, missing=lost), setting="method")
    assert (row["seeds"], row["pairs"], row["planned"]) == (2, 2, 6)
    assert np.isnan([row["low"], row["high"]]).all()


def test_one_seed_has_no_interval_and_it_is_said():
    found = told(cells_of(**CROSSED, seed=0))
    assert found["low"].isna().all()
    assert not found["value"].isna().any()
    [part] = of_effects(found)
    assert part.note == "An effect of one seed has no interval."
    assert "[" not in "".join(itertools.chain(*part.tables[0].rows))


def test_nothing_measured_is_no_part():
    cells = cells_of(**CROSSED)
    found = told(cells, missing=[cell.name for cell in cells])
    assert [row[-1] for row in described(found)] == [3, 9, 12, 6]
    assert of_effects(found) == []


def test_a_setting_of_one_method_is_compared_within_it():
    spec = {"view": "two-shifts", "method": ["barlow", "info-nce"], "seed": 0}
    found = told(cells_of(**spec, parts={**SPEC["parts"], "info-nce": {"supervised": [False, True]}}))
    assert described(found) == [("method", "", "info-nce", "barlow", 2), ("method.supervised", "", "True", "False", 1)]


def test_levels_that_others_do_not_share_are_compared_with_the_first_beside_them():
    tables = {"norm": [1.0, 2.0, 3.0], "sum_squares": [2.0, 8.0, 9.0]}
    grids = [{"parts": {"forward-forward": {"goodness": g, "threshold": t}}} for g, t in tables.items()]
    found = told(cells_of(grid=grids, recipe="ff", seed=0))
    goodness, *thresholds = described(found)
    assert goodness == ("method.goodness", "", "sum_squares", "norm", 1)  # at 2
    pairs = [("2", "1"), ("3", "1"), ("8", "2"), ("9", "2")]
    assert thresholds == [("method.threshold", "", level, less, 1) for level, less in pairs]


def test_what_always_goes_with_a_setting_stands_beside_it():
    spec = {"recipe": ["ff", "bp"], "settings": {"epochs": 1, "lr": 1e-3}, "recipes": {"bp": {"lr": 3e-4}}}
    assert described(told(cells_of(**spec))) == [("recipe", "lr", "bp", "ff", 3)]
    # Where it is varied too, they are compared at what they share.
    spec["settings"]["lr"] = [1e-3, 3e-4]
    assert described(told(cells_of(**spec))) == [("recipe", "", "bp", "ff", 3), ("lr", "", "0.0003", "0.001", 3)]


def test_readings_are_compared_within_a_run():
    cells = cells_of(recipe="ff", reading=["neutral", "zeros"])
    row = line(told(cells), setting="reading", level="zeros", less="neutral")
    assert agrees(row, {c.seed: [drawn(c, "zeros")[CHOSEN] - drawn(c)[CHOSEN]] for c in cells})


def test_other_views_have_another_pretext_task():
    cells = cells_of(recipe="bp", view=["rotation", "plain"], settings={"epochs": 1, "lr": [1e-3, 3e-4]})
    found = told(cells, pretext_accuracy=True, effective_rank=True)
    figures = found.groupby("setting")["figure"].agg(set).to_dict()
    assert figures == {
        "view": {CHOSEN, LAST, "effective rank"},
        "lr": {CHOSEN, LAST, "effective rank", "pretext accuracy"},
    }
