"""Ray, started on this machine or joined where it runs already. Nothing of it is imported before it is asked for."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from typing import Any, NamedTuple
from warnings import catch_warnings

from ffcore.errors import FFStudyError, UsageError
from ffcore.machine import cores

# Seconds in which a connection is made, and in which Ray answers behind it.
CONNECTING = 10.0
ANSWERING = 20.0
# Bytes of Ray's object store on this machine: nothing but words goes through it.
STORE = 100 * 2**20


class Joined(NamedTuple):
    """A cluster that this process is in."""

    ray: Any
    """The module."""
    dashboard: str
    """HOST:PORT, "" where there is none."""


@contextmanager
def joined(address: str | None = None) -> Iterator[Joined]:
    """Starts Ray, or joins a cluster, for the block; what Ray says goes to standard error: it is no result.

    At its end the cluster is left, or Ray on this machine ended with all that still runs.

    Args:
        address: of a cluster, as `ray.init` takes it; None starts Ray on this machine, with the cores that there are.

    Raises:
        UsageError: where Ray is not installed, or the address is none.
        FFStudyError: where nothing or something else listens there, or Ray cannot be had.
    """
    ray = ray_module()
    if address is not None:
        _check_answers(address)
    local = address is None
    with ExitStack() as held:
        held.enter_context(redirect_stdout(sys.stderr))
        held.callback(ray.shutdown)
        before = signal.getsignal(signal.SIGTERM)
        try:
            with catch_warnings(action="ignore"):  # what fails is said below
                found = ray.init(
                    address or "local",
                    num_cpus=cores() if local else None,
                    object_store_memory=STORE if local else None,
                    logging_level=logging.ERROR,
                )
        except (OSError, RuntimeError, ValueError) as error:
            where = "Ray on this machine" if local else f"the cluster at --address {address}"
            raise FFStudyError(f"{where} cannot be had: {' '.join(str(error).split())}") from error
        finally:
            with suppress(ValueError):  # not the main thread: then Ray has not taken it either
                signal.signal(signal.SIGTERM, before)
        yield Joined(ray, found.dashboard_url or "")


def ray_module() -> Any:
    """Returns Ray, which tells nobody that it is used, and shows every line. Raises UsageError without it."""
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"})
    if not sys.stderr.isatty():
        os.environ["RAY_COLOR_PREFIX"] = "0"
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        raise UsageError(
            "--engine ray needs a package that is not installed: run pip install 'ffstudy[ray]'"
        ) from error


def _check_answers(address: str) -> None:
    """Raises UsageError where an address is none, FFStudyError where no Ray answers: `ray.init` tries for minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--address is {address!r}: write auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECTING).close()
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise FFStudyError(f"nothing listens at --address {address} ({why}): start Ray there") from error
    if address.startswith("ray://"):
        return  # a client gives up by itself
    words = ["-m", "ray.scripts.scripts", "health-check", "--skip-version-check", "--address", address]
    try:
        subprocess.run([sys.executable, *words], capture_output=True, check=True, timeout=ANSWERING)
    except subprocess.SubprocessError as error:
        raise FFStudyError(
            f"what listens at --address {address} is no Ray cluster: write the address that ray start printed"
        ) from error
