"""How the tests of `features`, `evaluate` and `doctor` run a command."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from ffserve import console, measure_cli
from tests.helpers import Ended, one_line


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Returns what runs a command in this process: run("features", "images/", "--out", "f.npz") -> Ended."""
    app = console.app("Measure.")
    measure_cli.register(app)

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["ffserve", *map(str, arguments)])
        monkeypatch.setattr(console, "_debug", False)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            console.run(app, "ffserve")
        return Ended(end.value.code, *capsys.readouterr())

    return run


def failed(ended: Ended, code: int, *words: str) -> None:
    """Checks that a command printed one line on standard error and nothing on standard output."""
    one_line(ended, code, *words)
    assert ended.out == ""
    assert len(ended.err.splitlines()) == 1, ended.err
