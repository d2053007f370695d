"""How models are timed: each in a child process that answers requests line by line, and what their times amount to."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

# One request runs about this long, in seconds, and this many times.
REQUEST_S = 0.25
FEWEST, MOST = 5, 200
# The first runs of a request find other programs' data in the caches: they are not counted.
WARM_UP = 3


class ChildError(Exception):
    """A child process died, does not answer in time, or says that something is wrong."""


class Child:
    """A process that measures one model. `ready` is what it said when it had loaded it.

    Args:
        command: the program and its arguments.
        limit: seconds that it may take to load, and to answer each request; after them it is killed.

    Raises:
        ChildError: where it does not become ready.
    """

    def __init__(self, command: Sequence[str], *, limit: float) -> None:
        self._limit = limit
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        self.began = time.perf_counter()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=environment(),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.ready = self._answer("load")
        except BaseException:
            self.close()
            raise

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a request and returns the answer. Raises ChildError where none comes; the child is gone then."""
        assert self._process.stdin is not None
        try:
            with suppress(OSError):  # where it has ended there is no answer, and the reason is looked for there
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
            return self._answer("answer")
        except ChildError:
            self.close()
            raise

    def close(self) -> None:
        """Ends the process. May be called again."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):  # what was not sent has no reader any more
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)
        self._process.stdout.close()
        self._errors.close()

    def _read(self) -> None:
        """Puts what the child prints into the queue, None at the end."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries print notices of their own
                self._lines.put(line)
        self._lines.put(None)

    def _answer(self, what: str) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=self._limit)
        except queue.Empty:
            self._process.kill()
            raise ChildError(f"it did not {what} within {self._limit:g} s (--time-limit)") from None
        if line is None:
            raise ChildError(self._why_it_ended())
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise ChildError(f"it answered with what is no JSON: {line.strip()[:100]}") from None
        if "error" in answer:
            raise ChildError(str(answer["error"]))
        return answer

    def _why_it_ended(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        return last_words(self._errors.read()) or f"it ended with {exit_words(code)} and said nothing"


def environment() -> dict[str, str]:
    """Returns the environment of a child.

    Threads of OpenMP (torch) that wait give way soon, as in training: they stop each other where other programs run.
    """
    own = dict(os.environ)
    if "OMP_WAIT_POLICY" not in own:
        own.setdefault("GOMP_SPINCOUNT", "2000")
    return own


def last_words(errors: bytes) -> str:
    """Returns the last line that a program printed on standard error, without the program's name."""
    lines = errors.decode("utf-8", "backslashreplace").strip().splitlines()
    return lines[-1].strip().partition("error: ")[-1] or lines[-1].strip() if lines else ""


def exit_words(code: int) -> str:
    """Returns how a process ended, in words."""
    return f"signal {-code}" + (" (out of memory?)" if code == -9 else "") if code < 0 else f"exit code {code}"


def repeats_for(seconds: float, limit: float) -> int:
    """Returns how often a run that takes `seconds` is repeated in one request, which may take `limit` seconds."""
    wanted = max(FEWEST, min(MOST, round(REQUEST_S / max(seconds, 1e-9))))
    return max(1, min(wanted, int(limit / 4 / max(seconds, 1e-9)) - WARM_UP))


def summary(
    rounds: Sequence[Sequence[float]], batch: int, reference: Sequence[Sequence[float]] | None
) -> dict[str, Any]:
    """Returns what the times of one model at one batch size amount to.

    Args:
        rounds: seconds of each run, round by round.
        batch: images of a run.
        reference: the same of the model that this one is compared with, None where that has failed.

    Returns:
        `p50_s`: the median over rounds of their medians; `p95_s`, `p99_s`: percentiles of all runs; `images_per_s`:
        at p50; `speed`: the median over rounds of how many times as fast as the reference it is.
    """
    medians = [float(np.median(seconds)) for seconds in rounds]
    p95, p99 = np.percentile(np.concatenate([np.asarray(seconds) for seconds in rounds]), (95, 99))
    found: dict[str, Any] = {
        "batch": batch,
        "runs": sum(map(len, rounds)),
        "p50_s": float(np.median(medians)),
        "p95_s": float(p95),
        "p99_s": float(p99),
        "images_per_s": batch / float(np.median(medians)),
    }
    if reference is not None:
        ratios = [np.median(theirs) / mine for theirs, mine in zip(reference, medians, strict=False)]
        found |= {"speed": float(np.median(ratios)), "speed_range": [float(min(ratios)), float(max(ratios))]}
    return found


def load_average() -> list[float] | None:
    """Returns the load average over 1, 5 and 15 minutes, None where the system has none."""
    return [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None
