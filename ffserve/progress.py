"""How far a command is, on standard error, where a person sees it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol


class Advance(Protocol):
    """Counts on."""

    def __call__(self, count: int) -> object:
        """Counts `count` more."""


def progress(what: str, *, streamed: bool = False) -> AbstractContextManager[Advance]:
    """Shows a count, a rate and the time, how much there is to come not being known.

    Args:
        what: what is counted, such as `images`.
        streamed: results are printed as they come, and show how far it is where a person sees them.
    """
    if not sys.stderr.isatty() or (streamed and sys.stdout.isatty()):
        return nullcontext(lambda count: None)
    return _bar(what)


@contextmanager
def _bar(what: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} {task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda count: bar.advance(task, count)
