"""What a command says when it is stopped, by Ctrl-C or a signal: how far it is, and what goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ffserve.console import Stopped
from fftrain.progress import Reporter

# Of a command that does its work in one piece.
AGAIN = "stopped: the same command starts again"


@contextmanager
def stopping(reporter: Reporter, say: Callable[[], str]) -> Iterator[None]:
    """Says a line where what runs within is stopped; then it ends as it would have.

    Args:
        reporter: who says it.
        say: gives the line, of what is there by then.
    """
    try:
        yield
    except (KeyboardInterrupt, Stopped):
        reporter.note(say())
        raise
