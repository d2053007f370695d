"""Folders -> one tidy frame: what lies below a study's folder, or any folder with runs, beside what was planned."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ffcore.errors import RunError
from ffcore.files import read_json
from fftrain.config import flat
from fftrain.report.cells import ALIKE, EMPTY, SHARE, UNREADABLE, Cell, failure_of, found_cells, planned_cells, what_of
from fftrain.report.factors import Factors, factors
from fftrain.report.names import folders, renamed, short_names
from fftrain.report.records import FoundRun, pair_records
from fftrain.study import STUDY_FILE

NUMBERS = ("value", "low", "high")
READER, PROBE = "pretext accuracy by reader", "probe accuracy"
# What a measure of the classes is called at the blocks that are best on validation, and at the last blocks together.
AT_CHOSEN, AT_LAST = ", chosen", ", last"
CHOSEN, LAST = PROBE + AT_CHOSEN, PROBE + AT_LAST


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Everything below a folder.

    Args:
        root: the folder.
        study: its study.json; None for a plain folder.
        cells: the runs that there are or should be.
        pairs: the names of two cells that are compared, where that was done.
        frame: every measured number, a row each: CELL, PLACE, `unit`, `value`, and where it has an interval `low` and
            `high`.
        problems: name, state and reason of what is not there, or not whole.
    """

    root: Path
    study: dict[str, Any] | None
    cells: list[Cell]
    pairs: list[tuple[str, str]]
    frame: pd.DataFrame
    problems: list[tuple[str, str, str]]

    @cached_property
    def runs(self) -> list[FoundRun]:
        """The runs that were read."""
        return [cell.run for cell in self.cells if cell.run is not None]

    @cached_property
    def of_classes(self) -> list[str]:
        """What else was measured of the classes, on validation and test, beside probes."""
        rows = self.frame[(self.frame["target"] == "class") & (self.frame["unit"] == SHARE)]
        splits = rows.groupby("measure", sort=False)["split"].agg(set).to_dict()
        return [measure for measure, of in splits.items() if of >= {"validation", "test"} and measure != PROBE]

    @cached_property
    def factors(self) -> list[Factors]:
        """What its cells differ in, of each data set."""
        return factors(self.cells)

    @property
    def tidy(self) -> pd.DataFrame:
        """The frame with a column for each setting in which the runs differ."""
        settings = pd.DataFrame({c.name: flat(c.run.config) for c in self.cells if c.run}, dtype=object).T
        settings = settings.drop(columns=[*ALIKE], errors="ignore")
        differ = settings.loc[:, [settings[key].map(str).nunique() > 1 for key in settings]]
        found = self.frame.dropna(axis="columns", how="all")
        if not len(found):
            return found
        return found.join(differ, on="run").astype(object).fillna("").astype({"seed": int, "value": float})


def collect(root: Path) -> Collection:
    """Reads a study's folder, or the runs below any other.

    Raises:
        RunError: where there is no run at all, or study.json is damaged; a damaged run is named in `problems`.
    """
    study, rows = None, list[dict[str, Any]]()
    pairs, problems = list[tuple[str, str]](), list[tuple[str, str, str]]()
    if (root / STUDY_FILE).is_file():
        study = read_json(root / STUDY_FILE)
        try:
            names = short_names(folders(study))
            study = renamed(study, names)
            cells = planned_cells(root, study, names)
            pairs, rows, problems = _pairs(root, study, cells)
        except UNREADABLE as error:
            raise RunError(f"{root / STUDY_FILE} is damaged ({what_of(error)}): run `fftrain study` again") from error
    else:
        cells = found_cells(root)
    lacking = [(c.name, "incomplete" if c.state == "done" else c.state, c.reason) for c in cells if c.reason]
    rows = [*(row for cell in cells for row in cell.rows), *rows]
    # Objects: texts are compared faster so than as pandas keeps them.
    frame = pd.DataFrame(rows, columns=[*EMPTY, *NUMBERS], dtype=object).astype(dict.fromkeys(NUMBERS, float))
    return Collection(root=root, study=study, cells=cells, pairs=pairs, frame=frame, problems=[*lacking, *problems])


def _pairs(
    root: Path, study: Mapping[str, Any], cells: Sequence[Cell]
) -> tuple[list[tuple[str, str]], list[dict[str, Any]], list[tuple[str, str, str]]]:
    """Returns which cells were compared, the rows of that, and which comparisons are missing or damaged."""
    by_name = {cell.name: cell for cell in cells}
    pairs, rows, problems = [], [], []
    for a, b in study.get("pairs", ()):
        name, first, second = f"{a}--{b}", by_name[a], by_name[b]
        path = root / "pairs" / f"{name}.json"
        if not path.is_file():
            failure = failure_of(root / "failed" / f"pair-{name}.json")
            problems.append((name, "failed", failure) if failure else (name, "missing", "not compared"))
            continue
        try:
            head = {"run": name, "dataset": first.dataset, "view": first.view, "seed": first.seed}
            head["varied"] = ", ".join(cell.varied for cell in (first, second) if cell.varied)
            rows += [{**EMPTY, **head, **record} for record in pair_records(read_json(path))]
            pairs.append((a, b))
        except (RunError, *UNREADABLE) as error:
            problems.append((name, "damaged", f"{path} is damaged ({what_of(error)}): delete it, then compare again"))
    return pairs, rows, problems


def with_choices(found: Collection) -> pd.DataFrame:
    """Returns the frame with what AT_CHOSEN and AT_LAST name, and whether a reading is the `usual` one of its run."""
    cells = {cell.name: cell for cell in found.cells}
    frame = found.frame
    places = [*zip(frame["run"], frame["probed_on"], strict=True)]
    readings = {(run, on): cells[run].reading(on) for run, on in {*places} if run in cells}
    usual = [readings.get(place) == reading for place, reading in zip(places, frame["reading"], strict=True)]
    frame = frame.assign(usual=pd.Series(usual, index=frame.index, dtype=bool))
    of_classes = frame[(frame["target"] == "class") & (frame["unit"] == SHARE)]
    place = ["run", "measure", "probed_on", "reading", "source"]
    best = of_classes[of_classes["split"] == "validation"].sort_values("value", ascending=False, kind="stable")
    test = of_classes[of_classes["split"] == "test"]
    at_best = test.merge(best.drop_duplicates(place)[[*place, "blocks"]], on=[*place, "blocks"])
    # Several blocks together, and below two of them the last.
    at_last = test.sort_values("blocks", key=ranks, kind="stable").drop_duplicates(place, keep="last")
    made = [rows.assign(measure=rows["measure"] + at) for rows, at in ((at_best, AT_CHOSEN), (at_last, AT_LAST))]
    return pd.concat([frame, *made], ignore_index=True)


def ranks(blocks: pd.Series) -> pd.Series:
    """Returns by what names of blocks are sorted."""
    return blocks.map({name: i for i, name in enumerate(in_order(blocks))})


def in_order(blocks: Iterable[str]) -> list[str]:
    """Returns the names of blocks: single ones by number, then several together, then what is none."""

    def key(name: str) -> tuple[bool, int, str]:
        number = re.search(r"\d+", name)
        return name.startswith("blocks") or not number, int(number[0]) if number else 0, name

    return sorted({*blocks}, key=key)
