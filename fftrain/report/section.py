"""A part of the page: its tables and its pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from matplotlib.figure import Figure

from fftrain.report import figures
from fftrain.report.tables import Table


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure as an SVG file, and what it shows in words."""

    name: str
    alt: str
    svg: str
    small: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page. `text` names its caption in report.md; `note` and `points` are what else there is to say."""

    title: str
    text: str
    note: str = ""
    points: Sequence[str]
    tables: Sequence[Table]
    pictures: Sequence[Picture]

    @cached_property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.tables or self.pictures or self.points)

    @cached_property
    def anchor(self) -> str:
        """The name that links lead to."""
        return slug(self.title)


def section(
    title: str,
    text: str,
    *shown: Table,
    pictures: Sequence[Picture] = (),
    note: str = "",
    points: Sequence[str] = (),
) -> Section:
    """Returns a part of the page with the tables that have rows, and of these the columns that have a value."""
    kept = [table.of_values() for table in shown if table.rows]
    return Section(title=title, text=text, note=note, points=points, tables=kept, pictures=pictures)


def draw(name: str, alt: str, draw: Callable[..., Figure], *given: Any, small: bool = False) -> Picture:
    """Draws a picture, and returns it under a file's name."""
    return Picture(name=slug(name), alt=alt, svg=figures.svg(draw(*given), alt), small=small)


def slug(text: str) -> str:
    """Returns a text as a file's name and a link's target."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
