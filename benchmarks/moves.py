"""How far one has to follow the code: how often a command goes from one file of the project to another.

A profiler hook counts each call that begins in another of the project's files than its caller, on the main thread; what
libraries do between is passed through. Imports are not counted, nor what runs while they run.

    python benchmarks/moves.py                 # one epoch, a report of two runs, exports, predictions
    python benchmarks/moves.py --list pretrain # which moves, the most frequent first
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # as the commands do, before torch is loaded
ROOT = Path(__file__).resolve().parent.parent
PLACES = tuple(f"{ROOT / place}{os.sep}" for place in ("ffcore", "models", "fftrain", "export", "ffserve"))


class Moves:
    """Counts calls from a file of the project into another, while it is on."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._imports = 0

    def __enter__(self) -> Moves:
        sys.setprofile(self._see)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _see(self, frame: FrameType, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if frame.f_code.co_name == "<module>":  # an import begins, or ends
            self._imports += {"call": 1, "return": -1}.get(event, 0)
        if event != "call" or self._imports or not file.startswith(PLACES):
            return
        above = frame.f_back
        while above is not None and not above.f_code.co_filename.startswith(PLACES):
            above = above.f_back
        if above is not None and above.f_code.co_filename != file:
            names = (str(Path(name).relative_to(ROOT)) for name in (above.f_code.co_filename, file))
            self.counts[tuple(names)] += 1  # type: ignore[index]


def command(program: str, *words: object) -> Callable[[], None]:
    """Returns what runs a program in this process, its output swallowed."""

    def run() -> None:
        from importlib import import_module

        main = import_module(f"{program}.cli").main
        sys.argv = [program, *map(str, words)]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                main()
            except SystemExit as end:
                if end.code:
                    raise RuntimeError(said.getvalue()) from end

    return run


def main(
    show: Annotated[str | None, typer.Option("--list", help="Show the moves of this one.")] = None,
    most: Annotated[int, typer.Option(help="How many moves are shown.")] = 30,
) -> None:
    """Count moves between files."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        small = ["--dataset", "digits", "--epochs", 1, "--threads", 1, "backbone.width=32", "backbone.depth=2"]
        steps = {
            "pretrain": command("fftrain", "pretrain", "--recipe", "ff", *small, "--out", runs / "ff"),
            "second run": command("fftrain", "pretrain", "--recipe", "bp", *small, "--out", runs / "bp"),
            "evaluate": command("fftrain", "evaluate", runs / "ff", "linear", "linear.epochs=1", "--threads", 1),
            "report": command("fftrain", "report", runs),
            "export": command("ffexport", runs / "ff"),
            "export without a probe": command("ffexport", runs / "bp"),
            "dump": command("fftrain", "dump-images", "digits", runs / "png"),
            "predict": command("ffserve", "predict", "--model", runs / "ff", runs / "png" / "0" / "test-00003.png"),
            "predict a folder": command("ffserve", "predict", "--model", runs / "ff", runs / "png" / "0"),
        }
        for name, step in steps.items():
            with Moves() as found:
                step()
            if show in (None, name):
                files = {file for pair in found.counts for file in pair}
                print(f"{name}: {found.counts.total()} moves between {len(files)} files")
            if show == name:
                for (one, other), count in found.counts.most_common(most):
                    print(f"{count:6}  {one} -> {other}")


if __name__ == "__main__":
    typer.run(main)
