"""What a program hands over, checked: counts, and what can be read."""

from __future__ import annotations

import operator
import os
from typing import Any

from ffcore.errors import UsageError


def check_count(name: str, value: Any) -> None:
    """Raises UsageError unless a value is a whole number of at least 1."""
    try:
        least = operator.index(value)
    except TypeError:
        raise UsageError(f"{name} is {value!r}: it must be a whole number of at least 1") from None
    if least < 1:
        raise UsageError(f"{name} is {value}: it must be at least 1")


def content_of(file: Any, name: str) -> bytes:
    """Returns what a file opened in binary mode holds from where it stands; from its beginning where it is at its end.

    So what was just written into it is read, and what was read before is read again.

    Raises:
        UsageError: where it is closed, or gives no bytes.
        OSError: where it cannot be read.
    """
    if getattr(file, "closed", False):
        raise UsageError(f"{name} is a file that was closed: hand it over while it is open")
    content = file.read()
    if not content and _is_seekable(file):
        file.seek(0)
        content = file.read()
    if not isinstance(content, bytes | bytearray | memoryview):
        raise UsageError(f"{name} is a file that gives {type(content).__name__}: open it in binary mode")
    return bytes(content)


def as_path(given: str | os.PathLike[str], name: str) -> str:
    """Returns a path as text. Raises UsageError where it is empty."""
    path = os.fsdecode(given)
    if not path:
        raise UsageError(f"{name} is an empty path: name a file")
    return path


def _is_seekable(file: Any) -> bool:
    return bool(getattr(file, "seekable", lambda: False)())
