"""What a person sees while a command works, on standard error; silent unless a command asks for it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

T = TypeVar("T")
# Where no bar can be drawn, seconds without a line after which one says how far the work is.
QUIET = 30.0


def duration(seconds: float) -> str:
    """Returns a time as people say it."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def time_left(elapsed: float, done: float, rest: float) -> str:
    """Returns about how long the rest takes, if it goes on as the part that is done."""
    return f"about {duration(elapsed * rest / done)} left"


class Reporter:
    """Says nothing: what the Python functions use unless they are given another."""

    def note(self, text: str) -> None:
        """Says one line."""

    def track(self, items: Iterable[T], total: int, what: str, ahead: float = 0.0) -> Iterator[T]:
        """Passes the items on, showing how many of `total` are done and about how long the rest takes.

        Args:
            items: what is passed on.
            total: how many they are.
            what: what is done with them.
            ahead: the work that comes after them, in items of these: it counts for the time that is left.
        """
        yield from items


class TerminalReporter(Reporter):
    """Writes lines to standard error, and a progress bar where that is a terminal; a line now and then elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.said = time.monotonic()

    def note(self, text: str) -> None:
        """Writes one line."""
        self.console.print(text, markup=False)
        self.said = time.monotonic()

    def track(self, items: Iterable[T], total: int, what: str, ahead: float = 0.0) -> Iterator[T]:
        """Passes the items on, with a progress bar or a line now and then."""
        if not self.console.is_terminal:
            yield from self._told(items, total, what, ahead)
            return
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), _Left())
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(what, total=total, ahead=ahead)
            yield from bar.track(items, total=total, task_id=task)

    def _told(self, items: Iterable[T], total: int, what: str, ahead: float) -> Iterator[T]:
        """Passes the items on; where nothing was said for a while, says how far they are."""
        began = time.monotonic()
        for done, item in enumerate(items, start=1):
            yield item
            now = time.monotonic()
            if now - self.said >= QUIET:
                self.note(f"{what}: {done:,} of {total:,}, {time_left(now - began, done, total - done + ahead)}")


class _Left(ProgressColumn):
    """About how long the rest takes, what comes after the bar's items included."""

    max_refresh = 1.0

    def render(self, task: Task) -> Text:
        """Returns the time in words; nothing before the first item is done."""
        if not task.completed or not task.elapsed or task.total is None:
            return Text("")
        return Text(time_left(task.elapsed, task.completed, task.total - task.completed + task.fields["ahead"]))
