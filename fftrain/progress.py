"""What a person sees while a command works, on standard error; silent unless a command asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


class Reporter:
    """Says nothing: what the Python functions use unless they are given another."""

    def note(self, text: str) -> None:
        """Says one line."""

    def track(self, items: Iterable[T], total: int, what: str) -> Iterator[T]:
        """Passes the items on, showing how many of `total` are done."""
        yield from items


class TerminalReporter(Reporter):
    """Writes lines to standard error, and a progress bar where that is a terminal."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Writes one line."""
        self.console.print(text, markup=False)

    def track(self, items: Iterable[T], total: int, what: str) -> Iterator[T]:
        """Passes the items on, with a progress bar."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal) as bar:
            yield from bar.track(items, total=total, description=what)
