from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOLD = """
import sys, time
from pathlib import Path
from ffcore.files import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


def one_line(ended: Ended, code: int, *words: str) -> None:
    """Checks that a command failed as it should: one line, the exit code, no traceback."""
    assert ended.code == code, ended
    lines = [line for line in ended.err.splitlines() if "error:" in line]
    assert len(lines) == 1, ended.err
    assert "Traceback" not in ended.err
    assert "internal error" not in ended.err
    for word in words:
        assert word in lines[0], lines[0]


def python(*arguments: object, **kwargs) -> subprocess.CompletedProcess[str]:
    """Runs `python ARGUMENTS` from the checkout, as a user does."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, check=False, **kwargs
    )


@contextmanager
def holding(folder: Path):
    """Lets another process, which is given, hold a folder in the block."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()  # else a test that fails waits for it


def until(what, seconds=240.0):
    """Waits for something, and returns it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come")
