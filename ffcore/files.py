"""Files that are written whole or not at all, and folders that one process at a time writes into."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ffcore.errors import InUse, RunError, WriteError

# What Python functions take for a path.
AnyPath = str | os.PathLike[str]
LOCK_FILE = ".lock"
# Set to `off`, folders on file systems without locks are written into all the same.
LOCKS = "FFSTUDY_LOCKS"
# Bytes that are no room for anything.
NEXT_TO_NOTHING = 2**16
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = (os.strerror(errno.ENOSPC), "Not enough disk space")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextmanager
def replacing(path: Path, *errors: type[Exception], by: str = "") -> Iterator[Path]:
    """Gives an empty file beside `path` to write to, and renames it into place when the block ends well.

    A file that is there stays as it was until then. A kill leaves at most the hidden file beside it.

    Args:
        path: the file.
        errors: what writes it in the block raises where it cannot, beside OSError.
        by: who writes, in the hidden file's name.

    Raises:
        WriteError: where the folder cannot be written, or the disk is full.
    """
    kinds: tuple[type[Exception], ...] = (OSError, *errors)
    partial = path.with_name(f".{path.name[:100]}.{by}{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()  # which fails before any work where the folder cannot be written
        yield partial
        with partial.open("r+b") as file:  # Windows syncs only what can be written
            os.fsync(file.fileno())
        partial.replace(path)
    except kinds as error:
        raise unwritten(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def unwritten(path: Path, error: Exception) -> WriteError:
    """Returns what is raised where a file or folder cannot be written.

    Libraries have errors of their own for a full disk, which do not always say so: then the disk is asked.
    """
    if says_full(error) or (not isinstance(error, OSError) and _is_full(path.parent)):
        why, mend = os.strerror(errno.ENOSPC), "free some space there, or name another place"
    else:
        why, mend = getattr(error, "strerror", None) or str(error).partition("\n")[0], "name a place that can"
    return WriteError(f"{path} cannot be written ({why}): {mend}")


def says_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full: the system's by its number, that of a library in words."""
    return getattr(error, "errno", None) in _FULL or any(words in str(error) for words in _FULL_WORDS)


def _is_full(folder: Path) -> bool:
    """Whether next to nothing more can be written into a folder."""
    try:
        return shutil.disk_usage(folder).free < NEXT_TO_NOTHING
    except OSError:
        return False


@contextmanager
def claimed(folder: Path, called: Path | None = None) -> Iterator[None]:
    """Makes a folder and holds it in the block: no other process that claims it writes into it at the same time.

    The system gives a folder back whose process was killed. A process may claim a folder again that it holds. A block
    that fails leaves nothing of the claim: no lock and no empty folder that were not there before.

    Args:
        folder: the folder.
        called: what InUse calls it, where a person knows it by another name.

    Raises:
        InUse: at once where another process holds it.
        WriteError: where it cannot be made, or its file system has no locks and FFSTUDY_LOCKS is not `off`.
    """
    new = _missing(folder / LOCK_FILE)
    in_use = f"{called or folder} is in use by another process: wait for it, or name another folder"
    with ExitStack() as held:
        try:
            held.enter_context(lock(folder / LOCK_FILE, in_use, again=True))
        except WriteError:
            _remove(new)
            raise
        try:
            yield
        except BaseException:
            _remove(new)  # while it is held: another process may have it right after
            raise


@contextmanager
def lock(path: Path, held: str, *, again: bool = False) -> Iterator[None]:
    """Holds a lock in the block; `held` is what InUse says where another has it. Raises as `claimed` does.

    Args:
        path: the lock's file.
        held: of InUse.
        again: whether this process may take a lock again that it holds.
    """
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "it is a file" if path.parent.exists() else error.strerror or error
        raise WriteError(f"{path.parent} cannot be made ({reason}): name another folder") from error
    # One name for one file: a process knows by it that the lock is its own.
    taken = FileLock(path.resolve(), blocking=False, is_singleton=again)
    try:
        taken.acquire()
    except Timeout as error:
        raise InUse(held) from error
    except (OSError, NotImplementedError) as error:  # the second is what earlier versions of filelock raise for ENOSYS
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise unwritten(path, error) from error
        if os.environ.get(LOCKS) != "off":
            why = getattr(error, "strerror", None) or error
            raise WriteError(
                f"{path.parent} is on a file system without locks ({why}): name a folder on another, "
                f"or set {LOCKS}=off and let one process at a time write there"
            ) from error
    try:
        yield
    finally:
        taken.release()


def _missing(path: Path) -> list[Path]:
    """Returns a path and the folders above it that are not there yet, the innermost first.

    Raises WriteError where the system cannot even look for them.
    """
    try:
        return list(itertools.takewhile(lambda place: not place.exists(), (path, *path.parents)))
    except OSError as error:
        raise WriteError(f"{path.parent} cannot be made ({error.strerror or error}): name another folder") from error


def _remove(new: list[Path]) -> None:
    """Removes a lock and the folders that were made for it, as far as they are empty."""
    for place in new:
        with suppress(OSError):
            place.unlink() if place.name == LOCK_FILE else place.rmdir()


def sha256(path: Path) -> str:
    """Returns a file's SHA-256, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a text file, UTF-8, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads JSON.

    Raises:
        RunError: where the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror or error}): is this a run folder?") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}): restore it, or delete it and make it again") from error
