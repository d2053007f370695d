"""Folders -> one tidy frame: what lies below a study's folder, or any folder with runs, beside what was planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ffcore.errors import RunError
from ffcore.files import read_json
from fftrain.config import flat
from fftrain.report.cells import (
    ALIKE,
    EMPTY,
    UNREADABLE,
    Cell,
    failure_of,
    found_cells,
    planned_cells,
    what_of,
)
from fftrain.report.names import folders, renamed, short_names
from fftrain.report.records import FoundRun, pair_records
from fftrain.study import STUDY_FILE

NUMBERS = ("value", "low", "high")


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

    @property
    def runs(self) -> list[FoundRun]:
        """The runs that were read."""
        return [cell.run for cell in self.cells if cell.run is not None]

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


def select(frame: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    """Returns the rows that have these values."""
    kept = np.ones(len(frame), dtype=bool)
    for column, value in wanted.items():
        kept &= frame[column].to_numpy() == value
    return frame[kept]


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
