"""Parts handed to sessions by Ray Data, which starts those of a node that dies again elsewhere."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from ffcore.cluster import joined
from ffcore.errors import FFStudyError, UsageError
from ffserve.notes import note
from ffserve.parts.job import Job, Listed
from ffserve.parts.work import Session


class Room(NamedTuple):
    """What a cluster has for sessions."""

    ray: Any
    cpus: int
    """Of a session."""
    gpus: int
    """Likewise."""
    sessions: int
    """At the same time."""


@contextmanager
def room(address: str | None, cpus: int, gpus: int, sessions: int | None) -> Iterator[Room]:
    """Starts Ray, or joins a cluster, for the block.

    Args:
        address: as for `ffcore.cluster.joined`.
        cpus: that a session takes of a node.
        gpus: likewise.
        sessions: at the same time; None means as many as there is room for.

    Raises:
        UsageError: where no node has what a session takes, or as `joined` does.
        FFStudyError: as `joined` does.
    """
    with joined(address) as (ray, dashboard):
        if dashboard:
            note(f"dashboard: http://{dashboard}")
        fitting = sum(_fitting(node["Resources"], cpus, gpus) for node in ray.nodes() if node["Alive"])
        if not fitting:
            raise UsageError(f"--engine-cpus is {cpus}{' beside a GPU' * gpus}, which no node has")
        yield Room(ray, cpus, gpus, sessions or fitting)


def answered(job: Job, listed: Listed, room: Room, run: str = "") -> Iterator[dict[str, Any]]:
    """Yields what became of each part, in order, as `Session.answered` returns it.

    Args:
        job: what is done.
        listed: its images.
        room: what there is for sessions.
        run: see `Session`.

    Raises:
        FFStudyError: what a session raises, or where Ray fails.
    """
    from ray import data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    rows = [{"number": number, "key": key} for number, key in enumerate(listed.keys)]
    parts: Any = data.from_items(rows, override_num_blocks=listed.parts)
    pool = data.ActorPoolStrategy(size=min(room.sessions, listed.parts))
    per_session = {"num_cpus": room.cpus, "num_gpus": room.gpus or None}
    said = parts.map(Session, fn_constructor_args=(job, run), compute=pool, **per_session)
    try:
        for row in said.iter_rows():
            told = json.loads(row["said"])
            if "failed" in told:
                error = FFStudyError(told["failed"])
                error.exit_code = told["exit_code"]
                raise error
            yield told
    except room.ray.exceptions.RayTaskError:
        raise  # a bug
    except room.ray.exceptions.RayError as error:
        raise FFStudyError(f"Ray failed ({' '.join(str(error).split())[:200]}): the same command goes on") from error


def _fitting(resources: dict[str, float], cpus: int, gpus: int) -> int:
    """Returns how many sessions a node has room for."""
    room = int(resources.get("CPU", 0)) // cpus
    return min(room, int(resources.get("GPU", 0))) if gpus else room
