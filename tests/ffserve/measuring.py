"""How the tests of `features`, `evaluate` and `doctor` look at a command that failed."""

from __future__ import annotations

from tests.helpers import Ended, one_line


def failed(ended: Ended, code: int, *words: str) -> None:
    """Checks that a command printed one line on standard error and nothing on standard output."""
    one_line(ended, code, *words)
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1, ended.err
