"""Ray, started on this machine or joined where it runs already. Nothing of it is imported before it is asked for."""

from __future__ import annotations

import importlib.util
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
# What Ray's errors have of a token that is missing or another's, and where one is asked for.
UNKNOWN, AUTH = "AuthenticationError", "RAY_AUTH_MODE"
# The cluster that this machine is in.
AUTO = "auto"
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
    need_ray()
    local = address is None
    if address is not None:
        _check_answers(address)
    ray = importlib.import_module("ray")
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


def need_ray() -> None:
    """Looks for Ray, which then tells nobody that it is used, and shows every line. Raises UsageError without it."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--engine ray needs a package that is not installed: run pip install 'ffstudy[ray]'")
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"})
    if not sys.stderr.isatty():
        os.environ["RAY_COLOR_PREFIX"] = "0"


def _check_answers(address: str) -> None:
    """Raises UsageError where an address is none, FFStudyError where no Ray answers: `ray.init` tries for ever.

    A cluster that asks for a token is shown this machine's; Ray looks for it when it is loaded.
    """
    if address != AUTO:
        _check_listening(address)
    if address.startswith("ray://"):
        return  # a client gives up by itself
    said = _health(address)
    if UNKNOWN in said:
        os.environ.setdefault(AUTH, "token")
        if _health(address):
            raise FFStudyError(
                f"the cluster at --address {address} wants its token: copy ~/.ray/auth_token here from the machine "
                "that started it, or set RAY_AUTH_TOKEN to what `ray get-auth-token` prints there"
            )
    elif said:
        what = "no Ray cluster of this machine answers" if address == AUTO else "what listens there is no Ray cluster"
        raise FFStudyError(f"--address {address}: {what}; write the address that ray start printed")


def _check_listening(address: str) -> None:
    """Raises UsageError where an address is none, FFStudyError where nothing listens there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or "/" in host or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--address is {address!r}: write auto, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECTING).close()
    except OSError as error:
        why = getattr(error, "strerror", None) or error
        raise FFStudyError(f"nothing listens at --address {address} ({why}): start Ray there") from error


def _health(address: str) -> str:
    """Returns what is wrong with the cluster at an address, as Ray's own command says it; "" where it answers."""
    words = ["-P", "-m", "ray.scripts.scripts", "health-check", "--skip-version-check", "--address", address]
    try:
        found = subprocess.run(
            [sys.executable, *words], capture_output=True, encoding="utf-8", errors="replace", timeout=ANSWERING
        )
    except subprocess.TimeoutExpired:
        return "no answer"
    return (found.stderr or "unhealthy") if found.returncode else ""
