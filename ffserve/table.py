"""Tables of text, in which nothing is cut however narrow the terminal is."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

_LEAST = 20  # columns of a terminal in which a text is broken into lines
_LONGEST = 60  # of the line under the heading of the last column


def lines(columns: Sequence[str], rows: Sequence[Sequence[str]], room: int, *, line: str = "─") -> list[str]:
    """Returns a table's lines, the first of them the names of its columns.

    Where it is wider than the room: of two columns the second is broken into lines; of more, each row is its first
    cell with its name, and below a line for each other cell that is not empty.

    Args:
        columns: their names.
        rows: a cell for each column; what cannot be printed is shown as escapes.
        room: how many columns the terminal has.
        line: the character that stands under the names.
    """
    columns, rows = [shown(column) for column in columns], [[shown(cell) for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(columns, *rows, strict=True)]
    *before, last = widths
    left = room - sum(before) - 2 * len(before)
    if last > left and (len(columns) != 2 or left < _LEAST):
        return _records(columns, rows, room)
    rule = [line * wide for wide in (*before, min(last, left, _LONGEST))]
    return [_line(row, before, room) for row in (columns, rule, *rows)]


class Growing:
    """A table that is written as its rows come: each column is as wide as what it has held so far."""

    def __init__(self, title: str, columns: Sequence[str]) -> None:
        self._title, self._columns = title, columns
        self._widths = list[int]()

    def text(self, rows: Sequence[Sequence[str]]) -> str:
        """Returns more rows, at least one, as lines; before the first the title and the names of the columns."""
        begun, found = bool(self._widths), [[shown(cell) for cell in row] for row in rows]
        least = self._widths or [len(column) for column in self._columns]
        columns = zip(least, zip(*found, strict=True), strict=True)
        self._widths = [max(wide, *map(width, cells)) for wide, cells in columns]
        if not begun:
            found = [[shown(self._title)], [], [*self._columns], ["─" * wide for wide in self._widths], *found]
        return "".join("  ".join(map(padded, line, self._widths)).rstrip() + "\n" for line in found)


def _records(columns: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> list[str]:
    found: list[str] = []
    widths = [0, max(map(width, columns[1:]), default=0)]
    for row in rows:
        found += [""] if found else []
        found.append(f"{columns[0]} {row[0]}".strip())
        cells = zip(columns[1:], row[1:], strict=True)
        found += [_line(["", column, cell], widths, room) for column, cell in cells if cell]
    return found


def _line(cells: Sequence[str], widths: Sequence[int], room: int) -> str:
    """Returns cells side by side, the last broken where it is wider than what is left of the room."""
    *first, last = cells
    start = "".join(padded(cell, wide) + "  " for cell, wide in zip(first, widths, strict=True))
    indent = width(start)
    if indent + width(last) <= room or room - indent < _LEAST:
        return (start + last).rstrip()
    parts = textwrap.wrap(last, room - indent, break_long_words=False, break_on_hyphens=False)
    return f"\n{' ' * indent}".join((start + parts[0], *parts[1:]))


def padded(text: str, wide: int) -> str:
    """Returns a text filled up with spaces to a width."""
    return text + " " * (wide - width(text))


def width(text: str) -> int:
    """Returns how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def shown(text: str) -> str:
    """Returns a text as one line of a terminal may hold it: what cannot be printed as escapes."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
