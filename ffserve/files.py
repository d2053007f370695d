"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ffserve.errors import FFServeError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives an empty file beside `path` to write to, and renames it into place when the block ends well.

    A file that is there stays as it was until then. A kill leaves at most the hidden file beside it.

    Raises:
        FFServeError: where the folder cannot be written, or the disk is full.
    """
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()  # which fails before any work where the folder cannot be written
        yield partial
        with partial.open("r+b") as file:  # Windows syncs only what can be written
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise FFServeError(f"{path} cannot be written ({error.strerror or error}): name a file that can") from error
    finally:
        with suppress(OSError):
            partial.unlink()
