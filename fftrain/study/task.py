"""What a worker of Ray does for one cell of a study: what the plain engine does. It knows nothing of Ray.

A worker is kept for the next cell (with a share of a GPU Ray starts a new one for each): to load torch and to plan take
longer than a small cell.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ffcore.errors import SettingError
from ffcore.plugins import trust
from fftrain.config import DataSettings
from fftrain.data import ImageData
from fftrain.progress import TerminalReporter
from fftrain.study.folder import Study
from fftrain.study.planning import outside, plan
from fftrain.study.work import LOCKED, Engine, do_cell

# Seconds between two looks at whether a worker's node is alive.
WATCHING = 0.25


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every cell of a study is told.

    Args:
        path: the study's folder.
        planned: its spec, name and overrides, as JSON.
        working: the folder that paths are relative to.
        token: a file in the study's folder.
        versions: of packages, as the driver has them.
        redo_damaged: move a damaged cell to discarded/ and do it over.
    """

    path: str
    planned: str
    working: str
    token: str
    versions: tuple[tuple[str, str], ...]
    redo_damaged: bool


def unfit(job: Job) -> str:
    """Says why this node cannot do cells of a study; "" where it can."""
    for name, wanted in job.versions:
        if (own := version(name)) != wanted:
            return f"has {name} {own}, and this machine {wanted}: install the same"
    if not Path(job.token).exists():
        return f"does not see {job.path}: name an --out on storage that all nodes share"
    return ""


def do(job: Job, name: str, called: str, patience: float) -> tuple[Any, ...]:
    """Does what is left of one cell.

    Args:
        job: of which study.
        name: the cell's.
        called: what it is called in what a person sees.
        patience: seconds to wait for another process that is at it, which may be ending.

    Returns:
        The values of its Outcome.

    Raises:
        SettingError: where this node cannot do it.
    """
    _end_with(os.getppid())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # by which Ray stops a task; it may have been ignored
    if reason := unfit(job):  # a node that came later
        raise SettingError(f"node {socket.gethostname()} {reason}")
    study, data = _planned(job)
    [cell] = [cell for cell in study.spec.cells if cell.name == name]
    Engine().prepare([cell], [cell])
    until = time.monotonic() + patience
    while True:
        outcome = do_cell(study, cell, called, data, job.redo_damaged, TerminalReporter())
        if outcome.said != LOCKED or time.monotonic() > until:
            return tuple(outcome)
        time.sleep(0.5)


@cache
def _end_with(parent: int) -> None:
    """Ends this process as soon as its parent has: a worker of Ray goes on where its node has died, and would write
    into a cell that another node does by then.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCHING)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@cache
def _planned(job: Job) -> tuple[Study, dict[DataSettings, ImageData]]:
    """Returns the driver's study, planned as it goes on by --out alone, and the data that are kept for it."""
    with suppress(OSError):  # where it is not there
        os.chdir(job.working)
    content, name, overrides = json.loads(job.planned)
    for each in outside(content):  # a person named it to the driver
        trust(each)
    return Study(job.path, plan(content, name, overrides)), {}
