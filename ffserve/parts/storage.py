"""Places by name: paths, and URLs of any storage that fsspec knows; s3:// by pyarrow, which brings its own client."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import ArrowException
from pyarrow.fs import FileSystem, S3FileSystem

from ffcore.errors import FFStudyError, ImageError, UsageError, WriteError
from ffcore.files import replacing

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
# Where S3 is that is not Amazon's, as AWS's own programs read it.
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_LONGEST = 200
# What storages call that which changes with a file.
_TOLD = (
    *("size", "mtime", "ETag", "etag", "Content-MD5", "md5Hash"),
    *("Last-Modified", "LastModified", "last_modified", "updated", "created", "blob_id"),
)
_OF_FILE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_DENIED = "AWS Error ACCESS_DENIED"  # in what pyarrow says of S3
_TRY_AGAIN = (408, 425, 429)  # of the statuses of HTTP that are the asker's fault


class Place(NamedTuple):
    """A file or folder."""

    system: Any
    """An fsspec file system."""
    path: str
    """As that knows it."""
    root: str
    """What stands before such a path in a URL; "" of a path."""


def is_url(name: str) -> bool:
    """Returns whether a name is a URL, but that of a file here."""
    return _URL.match(name) is not None and plain(name) == name


def plain(name: str) -> str:
    """Returns a file:// URL as the path that it is, any other name as it is."""
    return name[7:] if name[:7].lower() == "file://" else name


def placed(name: str) -> Place:
    """Returns the place of a name.

    Raises:
        UsageError: where its kind of URL cannot be read here.
        FFStudyError: where the storage does not answer.
    """
    found = _URL.match(name := plain(name))
    if found is None:
        return Place(fsspec.filesystem("file"), name, "")
    path = name[found.end() :].strip("/")
    if not path:
        raise UsageError(f"{name!r} names no place: write {found[0]}PLACE/...")
    try:
        if found[1].lower() == "s3":
            return Place(_s3(path.partition("/")[0]), path, found[0])
        system, path = fsspec.core.url_to_fs(name.rstrip("/"))
    except ImportError as error:
        lacks = getattr(error.__cause__ or error, "name", None)
        raise UsageError(f"{name!r} cannot be reached: {lacks} is not installed: run pip install {lacks}") from error
    except ValueError as error:
        known = "s3://, gs://, az://, http://, https:// and others of fsspec are known"
        raise UsageError(f"{name!r} cannot be reached ({said(error)}): {known}") from error
    except OSError as error:
        raise FFStudyError(f"{name!r} cannot be reached: {said(error)}") from error
    return Place(system, path, name.rstrip("/").removesuffix(path))


@cache
def _s3(bucket: str) -> Any:
    endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)
    system = S3FileSystem(endpoint_override=endpoint) if endpoint else FileSystem.from_uri(f"s3://{bucket}")[0]
    return ArrowFSWrapper(system)


@contextmanager
def reaching(name: str, done: str) -> Iterator[None]:
    """Tells what a storage does not have from one that does not answer, in the block.

    Args:
        name: the place, in messages.
        done: what is done with it: `read`, `listed`.

    Raises:
        ImageError: where it is not there, or not for us to see.
        FFStudyError: where the storage fails: it may answer the next time.
    """
    try:
        yield
    except FFStudyError:
        raise
    except Exception as error:  # each kind of storage has errors of its own
        if _is_of_file(error) or (isinstance(error, OSError) and not is_url(name)):
            raise ImageError(f"{name!r} cannot be {done}: {said(error)}") from error
        raise FFStudyError(f"{name!r} cannot be {done} ({said(error)}): the same command tries again") from error


def _is_of_file(error: BaseException) -> bool:
    real = _real(error)
    status = getattr(real, "status", None)
    if isinstance(status, int):
        return 400 <= status < 500 and status not in _TRY_AGAIN
    return isinstance(real, (*_OF_FILE, ArrowException)) or _DENIED in str(real)


def _real(error: BaseException) -> BaseException:
    """Returns what is behind an error: fsspec's HTTP says of whatever fails that the file is not there."""
    cause = error.__cause__
    hidden = isinstance(error, FileNotFoundError) and error.errno is None and not isinstance(cause, LookupError)
    return cause if hidden and cause is not None else error


def said(error: BaseException) -> str:
    """Returns what a storage says is wrong, in a line."""
    real = _real(error)
    words = getattr(real, "strerror", None)
    if isinstance(real, FileNotFoundError):
        words = words or os.strerror(errno.ENOENT)
    words = words[:1].lower() + words[1:] if words else str(getattr(real, "message", None) or real)
    return " ".join(words.split())[:_LONGEST] or type(real).__name__


def stamp_at(name: str) -> str | None:
    """Returns what changes with the content of a file. Raises as `reaching` does."""
    with reaching(name, "read"):
        if is_url(name):
            place = placed(name)
            return stamp_of(place.system.info(place.path))
        status = os.stat(name)
        return f"{status.st_size} {status.st_mtime_ns}"


def stamp_of(told: Mapping[str, Any]) -> str | None:
    """Returns what changes with a file's content, of what a storage tells of it; None where it tells nothing."""
    return " ".join(f"{told[key]}" for key in _TOLD if told.get(key) is not None) or None


class Folder:
    """A folder that files are written into, each whole or not at all.

    Args:
        name: a path or a URL.
        run: who writes, see `clear`.
    """

    def __init__(self, name: str, run: str = "") -> None:
        bare = name.rstrip("/")
        self.name, self.run = name if bare[-1:] in ("", ":") else bare, run
        self.system, self.path, self.root = placed(self.name)

    def at(self, name: str) -> str:
        """Returns a file's path, as the folder's system knows it."""
        return f"{self.path}/{name}"

    def names(self) -> list[str]:
        """Returns the names of what is there, sorted. Raises as `reaching` does."""
        with reaching(self.name, "listed"), suppress(FileNotFoundError):
            inside = self.system.ls(self.path, detail=False)
            return sorted(name.rstrip("/").rpartition("/")[2] for name in inside)
        return []

    def read(self, name: str) -> bytes | None:
        """Returns a file's content; None where it is not there. Raises as `reaching` does."""
        with reaching(f"{self.name}/{name}", "read"), suppress(FileNotFoundError, NotADirectoryError):
            content: bytes = self.system.cat_file(self.at(name))
            return content
        return None

    def put(self, name: str, content: bytes) -> None:
        """Writes a file that is not there with this content. Raises as `read` and `writing` do."""
        if self.read(name) != content:
            with self.writing(name) as path:
                path.write_bytes(content)

    def clear(self) -> None:
        """Removes what those who write under the same `run` and were stopped have left half-written."""
        if self.run and not self.root:
            for partial in Path(self.path).glob(f".*.{self.run}*.partial"):
                partial.unlink(missing_ok=True)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Gives an empty file to write to, which takes its place when the block ends well.

        Raises:
            WriteError: where it cannot be written.
        """
        if not self.root:
            with replacing(Path(self.path, name), by=self.run) as partial:
                yield partial
            return
        with tempfile.TemporaryDirectory() as near:
            yield (partial := Path(near, "whole"))
            try:
                self.system.put_file(str(partial), self.at(name))  # what is stored is seen when all of it is
            except OSError as error:
                raise WriteError(
                    f"{self.name}/{name} cannot be written ({said(error)}): name a place that can"
                ) from error
