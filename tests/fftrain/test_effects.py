"""Effects of a study's settings, and figures over them, of numbers that are drawn.

They are held against loops over its cells and SciPy's t-test.
"""

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
from fftrain.report.effects import effects, effects_table, headline, of_effects
from fftrain.report.figures import BASELINES
from fftrain.report.frame import NUMBERS, Collection, with_choices
from fftrain.report.sweeps import of_sweeps, sweep_lines, sweep_table, sweeps
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


def collected(cells, *, missing=(), untrained=False, **measures):
    """What a report reads of cells with drawn figures, but of those that are missing, and their headline figures."""
    rows = []
    for cell in cells:
        about = {key: getattr(cell, key) for key in ("dataset", "view", "method", "seed")}
        about |= {"run": cell.name, "probed_on": "digits", "source": cell.method}
        for _, reading, target in cell.planned:
            values = [*drawn(cell, reading).values()]
            found = [
                {"measure": "probe accuracy", "reading": reading, "target": target, "split": split, "blocks": blocks}
                | {**about, "value": values[blocks == "block2"] if value is None else value}
                for split, blocks, value in PLACES
            ]
            rows += found
            width = cell.settings["backbone"]["width"]
            rows += [{**row, "source": "random", "value": width / 100 + cell.seed / 1000} for row in found if untrained]
        rows += [{"measure": name.replace("_", " "), "value": drawn(cell)[LAST], **about} for name in measures]
    rows = [{**EMPTY, **row} for row in rows if row["run"] not in missing]
    frame = pd.DataFrame(rows, columns=[*EMPTY, *NUMBERS], dtype=object).astype(dict.fromkeys(NUMBERS, float))
    found = Collection(root=None, study={}, cells=cells, pairs=[], frame=frame, problems=[])
    return found, headline(found, with_choices(found))


def told(cells, **given):
    """The effects in cells with drawn figures."""
    return effects(*collected(cells, **given))


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


def test_constants_that_go_with_the_choices_of_a_method_stand_beside_their_effects():
    constants = {("norm", "softplus"): {"threshold": 1.0}, ("norm", "symba"): {"alpha": 0.1}}
    constants |= {("sum_squares", "softplus"): {"threshold": 2.0}, ("sum_squares", "symba"): {"alpha": 0.2}}
    tables = [{"goodness": goodness, "loss": loss, **of} for (goodness, loss), of in constants.items()]
    spec = {"method": "forward-forward", "cut": ["block", "never"]}
    cells = cells_of(**spec, grid=[{"parts": {"forward-forward": table}} for table in tables])
    found = told(cells)
    beside = "method.threshold, method.alpha"
    factors = {"goodness": ("sum_squares", "norm"), "loss": ("symba", "softplus")}
    assert described(found) == [
        ("cut", "", "never", "block", 12),
        ("method.goodness", beside, "sum_squares", "norm", 12),
        ("method.loss", beside, "symba", "softplus", 12),
    ]
    for name, (level, less) in factors.items():
        differences = defaultdict(list)
        for a, b in itertools.product(cells, cells):
            (one, other), keys = ((c.settings["method"] for c in (a, b)), {"goodness", "loss"} - {name})
            alike = (
                a.seed == b.seed and a.settings["cut"] == b.settings["cut"] and all(one[k] == other[k] for k in keys)
            )
            if alike and (one[name], other[name]) == (level, less):
                differences[a.seed].append(drawn(a)[CHOSEN] - drawn(b)[CHOSEN])
        assert agrees(line(found, setting=f"method.{name}"), differences)
    # Of two constants beside one choice, cells differ in the constant: what the choice does cannot be told.
    grid = [{"parts": {"forward-forward": table}} for table in (*tables, {**tables[0], "threshold": 3.0})]
    settings = [(setting, pairs) for setting, *_, pairs in described(told(cells_of(**spec, seed=0, grid=grid)))]
    assert settings == [("cut", 5), ("method.goodness", 2), ("method.loss", 2), *2 * [("method.threshold", 2)]]


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


THETAS = {"norm": [1.0, 2.0, 3.0], "sum_squares": [2.0, 8.0, 90.0]}


def thetas(**spec):
    """Cells over the threshold of two goodnesses, at two widths."""
    grids = [{"parts": {"forward-forward": {"goodness": g, "threshold": t}}} for g, t in THETAS.items()]
    return cells_of(grid=grids, recipe="ff", parts={"mlp": {"width": [40, 20], "depth": 2}}, **spec)


def test_a_sweep_is_the_mean_of_each_level_of_cells_that_are_alike_in_all_else():
    cells = thetas(seed=[0, 1])
    [sweep] = sweeps(*collected(cells, untrained=True))
    assert (sweep.dataset, sweep.view, sweep.setting) == ("digits", "rotation", "method.threshold")
    curves = {(curve.panel, curve.name): curve.means for curve in sweep.curves}
    kinds = [*itertools.product((40, 20), THETAS)]
    named = {"random width=40", "random width=20", *(f"width={width}, goodness={of}" for width, of in kinds)}
    assert {*curves} == {*itertools.product((f"{CHOSEN} (%)", f"{LAST} (%)"), named)}
    for width, goodness in kinds:
        means = curves[f"{LAST} (%)", f"width={width}, goodness={goodness}"]
        assert [*map(float, means)] == THETAS[goodness]
        for level, mean in means.items():
            mine = {"width": width, "goodness": goodness, "threshold": float(level)}
            parts = [(cell, {**cell.settings["backbone"], **cell.settings["method"]}) for cell in cells]
            values = [drawn(cell)[LAST] for cell, part in parts if mine.items() <= part.items()]
            assert [*mean.values.values()] == values
            assert len(values) == 2
    for width in (40, 20):
        means = curves[f"{LAST} (%)", f"random width={width}"].values()
        assert [mean.value for mean in means] == pytest.approx([width / 100 + 0.0005] * 5)


def test_a_sweep_is_drawn_over_its_levels_and_what_lacks_is_said():
    cells = thetas(seed=[0, 1])
    lost = next(cell.name for cell in cells if cell.settings["method"]["threshold"] == 90.0)
    [sweep] = sweeps(*collected(cells, missing=[lost], untrained=True))
    figure = sweep_lines(sweep.curves, sweep.setting)
    for ax, panel in zip(figure.axes, (CHOSEN, LAST), strict=False):
        assert (ax.get_xscale(), ax.get_xlabel()) == ("log", "method.threshold")
        lines = {line.get_label(): line for line in ax.lines}
        for curve in (curve for curve in sweep.curves if curve.panel == f"{panel} (%)"):
            x, y = lines[curve.name].get_data()
            assert dict(zip(x, y, strict=True)) == {
                float(k): pytest.approx(100 * v.value) for k, v in curve.means.items()
            }
            assert (lines[curve.name].get_color() == BASELINES["random"]["color"]) == (curve.style == "random")
    table = sweep_table(sweep)
    [row] = [
        row
        for row in records([table.columns, *table.rows])
        if (row["figure"], row["of"]) == (f"{LAST} (%)", "width=40, goodness=sum_squares")
    ]
    assert [row["1"], row["2"][-5:], row["90"][-10:]] == ["", "(n=2)", "(n=1 of 2)"]


@pytest.mark.parametrize(
    ("widths", "thresholds", "setting"),
    [
        ([20, 40], [2.0, 4.0], []),
        ([20, 40, 80], [2.0, 4.0, 8.0], ["backbone.width, method.threshold"]),
        ([20, 40, 80], [2.0, 2.0, 4.0], []),
    ],
)
def test_numbers_of_three_levels_are_swept_those_that_go_together_once(widths, thresholds, setting):
    grids = [
        {"parts": {"mlp": {"width": width, "depth": 2}, "forward-forward": {"threshold": threshold}}}
        for width, threshold in zip(widths, thresholds, strict=True)
    ]
    found, rows = collected(cells_of(grid=grids, recipe="ff", seed=0))
    assert [sweep.setting for sweep in sweeps(found, rows)] == setting


def test_many_lines_are_drawn_in_several_pictures():
    spec = {"lr": [1e-3, 2e-3, 3e-3], "batch_size": [8, 16, 32, 64, 128], "weight_decay": [0.0, 1.0, 2.0], "epochs": 1}
    found, rows = collected(cells_of(recipe="ff", seed=0, settings=spec))
    [sweep] = [sweep for sweep in sweeps(found, rows) if sweep.setting == "lr"]
    [part] = of_sweeps([sweep])
    assert len({curve.name for curve in sweep.curves}) == 15
    assert [picture.name for picture in part.pictures] == ["over-lr-digits-rotation-1", "over-lr-digits-rotation-2"]
    assert of_sweeps([]) == []


def test_a_number_of_which_nothing_was_measured_is_not_swept():
    cells = thetas(seed=0)
    assert [*sweeps(*collected(cells, missing=[cell.name for cell in cells]))] == []


def test_a_picture_of_one_level_is_left_out():
    cells = thetas(seed=0)
    found, rows = collected(cells, missing=[cell.name for cell in cells[1:]])
    found_sweeps = [*sweeps(found, rows)]
    assert found_sweeps
    assert of_sweeps(found_sweeps) == []


def test_effects_are_of_the_split_that_most_runs_were_read_on():
    found, rows = collected(thetas(seed=0))
    assert set(rows["split"]) == {"test"}
    one = found.frame["run"] == found.cells[0].name
    found = replace(found, frame=found.frame[one | (found.frame["split"] != "test")])
    rows = headline(found, with_choices(found)).query("figure == @LAST")
    assert set(rows["split"]) == {"validation"}
    assert rows["run"].nunique() == len(found.cells)
