"""What was measured of a run: RUN/evaluations/NAME-DIGEST.jsonl, a flat record a line; arrays lie beside it as .npz.

The first line says what was measured: the `seconds` that it took, `settings`, the data's digest, the weights' SHA-256.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffcore.errors import RunError
from ffcore.files import write_text

Record = dict[str, Any]
FOLDER = "evaluations"
# What the first line tells of all.
ABOUT = ("evaluation", "dataset", "reading", "target")


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One evaluation of a run, as its file holds it.

    Args:
        path: the file.
        about: its first record: `evaluation` (a name), `dataset`, `reading`, `target`, `settings`, `data`, `weights`,
            `files` that belong to it, `rest` where some of it was measured anew in another file, and `value`, the
            seconds that it took.
        records: the others: `measure`, `value`, and where they apply `split`, `source`, `blocks`.
    """

    path: Path
    about: Mapping[str, Any]
    records: Sequence[Record]

    @property
    def name(self) -> str:
        """The evaluation's name."""
        return str(self.about["evaluation"])

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it was measured with."""
        found: Mapping[str, Any] = self.about["settings"]
        return found

    @property
    def arrays(self) -> Path:
        """Where its arrays lie, if it has any."""
        return self.path.with_suffix(".npz")

    @property
    def whole(self) -> bool:
        """Whether all of it is there, and all files that belong to it."""
        run = self.path.parent.parent
        return (
            bool(self.records)
            and not self.about.get("rest")
            and all((run / name).is_file() for name in self.about.get("files", ()))
        )

    def value(self, **wanted: Any) -> float | None:
        """Returns the number of the first record that has these values; None where none has."""
        for record in self.records:
            if all(record.get(key) == value for key, value in wanted.items()):
                return float(record["value"])
        return None

    def write(self) -> None:
        """Writes the file, whole or not at all. Raises WriteError."""
        lines = [json.dumps(record, allow_nan=False) for record in (self.about, *self.records)]
        write_text(self.path, "\n".join(lines) + "\n")


def check(record: Record) -> None:
    """Raises ValueError where a record is not of a number, KeyError where it says nothing."""
    value, measure = record["value"], record["measure"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{measure} is {value!r}")


def evaluations(run: Path, weights: str | None = None) -> list[Evaluated]:
    """Reads everything that was measured of a run, by name.

    Args:
        run: a run folder.
        weights: the SHA-256 of those that it was measured of; None means any.

    Raises:
        RunError: where a file is damaged.
    """
    found = [read(path) for path in sorted((run / FOLDER).glob("*.jsonl"))]
    return [one for one in found if weights in (None, one.about["weights"])]


def read(path: Path) -> Evaluated:
    """Reads one evaluation. Raises RunError where its file is damaged."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        if not lines:
            raise ValueError("it is empty")
        about, *records = map(json.loads, lines)
        for record in (about, *records):
            check(record)
        if lacking := {*ABOUT, "settings", "weights"} - about.keys():
            raise ValueError(f"its first line lacks {min(lacking)}")
        if not isinstance(about["settings"], dict):
            raise ValueError(f"its settings are {about['settings']!r}")
        return Evaluated(path=path, about=about, records=records)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"{path} is damaged ({error}): delete it, then evaluate the run again") from error


def lines(records: Sequence[Record]) -> list[dict[str, str]]:
    """Returns records as people read them: a row for each measure, source and blocks, a column for each split."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    splits = dict.fromkeys(record.get("split") or "value" for record in records)
    for record in records:
        value = record["value"]
        text = f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
        if "low" in record and "high" in record:
            text += f" [{record['low']:.4f}, {record['high']:.4f}]"
        row = rows.setdefault((record["measure"], record.get("source", ""), record.get("blocks", "")), {})
        row[record.get("split") or "value"] = text
    return [
        {"measure": measure, "features of": source, "blocks": blocks, **{split: row.get(split, "") for split in splits}}
        for (measure, source, blocks), row in rows.items()
    ]
