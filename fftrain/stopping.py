"""What a command says when it is stopped, by Ctrl-C or SIGTERM: how far it is, and what goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from fftrain.progress import Reporter

# Of a command that does its work in one piece.
AGAIN = "stopped: the same command starts again"


@contextmanager
def stopping(reporter: Reporter, say: Callable[[], str]) -> Iterator[None]:
    """Says a line where what runs within is stopped; then it ends as it would have.

    SIGTERM unwinds as Ctrl-C does, so that no partial file is left, and ends the process in the end. Of several
    processes it ends each at once: one that waits for the others could not answer.

    Args:
        reporter: who says it.
        say: gives the line, of what is there by then.
    """
    stopped_by: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopped_by.append(number)
        raise KeyboardInterrupt

    alone = os.environ.get("WORLD_SIZE", "1") == "1" and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if alone:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        reporter.note(say())
        if stopped_by:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        if alone:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
