"""A part of the page: its tables and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fftrain.report.figures import Picture, slug

NOT_MEASURED, NOT_PUBLISHED = "not measured", "not published"
# What stands where there is no value.
NO_VALUE = ("", NOT_MEASURED, NOT_PUBLISHED)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: what it shows, its columns, and its cells as text; `folded` where few will read it."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    folded: bool = False

    @classmethod
    def of(cls, title: str, records: Sequence[Mapping[str, str]], *, folded: bool = False) -> Table:
        """Returns a table of records that have the same keys."""
        columns = [*records[0]] if records else []
        return cls(title=title, columns=columns, rows=[[*record.values()] for record in records], folded=folded)

    def of_values(self) -> Table:
        """Returns the table without the columns in which no row has a value."""
        kept = [i for i in range(len(self.columns)) if any(row[i] not in NO_VALUE for row in self.rows)]
        columns = [self.columns[i] for i in kept]
        return replace(self, columns=columns, rows=[[row[i] for i in kept] for row in self.rows])


class Section:
    """A part of the page: of its tables those that have rows, and of these the columns that have a value.

    Args:
        title: what it is called; links lead to its `anchor`.
        text: what its caption is called in report.md.
        shown: the tables; it is `empty` where neither they nor `pictures` nor `points` are there.
        note: what else there is to say, and `points` one by one.
    """

    def __init__(
        self,
        title: str,
        text: str,
        *shown: Table,
        pictures: Sequence[Picture] = (),
        note: str = "",
        points: Sequence[str] = (),
    ) -> None:
        self.title, self.anchor, self.text, self.note = title, slug(title), text, note
        self.tables = [table.of_values() for table in shown if table.rows]
        self.pictures, self.points = pictures, points
        self.empty = not (self.tables or pictures or points)
