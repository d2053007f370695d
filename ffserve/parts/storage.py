"""Places by name: paths, and URLs of any storage that fsspec knows; s3:// by pyarrow, which brings its own client."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow.fs import FileSystem, S3FileSystem

from ffcore.errors import FFStudyError, UsageError, WriteError
from ffcore.files import replacing

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
# Where S3 is that is not Amazon's, as AWS's own programs read it.
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_LONGEST = 200


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
    try:
        if found[1].lower() == "s3":
            path = name[found.end() :].strip("/")
            return Place(_s3(path.partition("/")[0]), path, found[0])
        system, path = fsspec.core.url_to_fs(name.rstrip("/"))
    except (ImportError, ValueError) as error:
        raise UsageError(f"{name!r} cannot be reached: {said(error)}") from error
    except OSError as error:
        raise FFStudyError(f"{name!r} cannot be reached: {said(error)}") from error
    return Place(system, path, name.rstrip("/").removesuffix(path))


@cache
def _s3(bucket: str) -> Any:
    endpoint = next((os.environ[name] for name in _ENDPOINTS if os.environ.get(name)), None)
    system = S3FileSystem(endpoint_override=endpoint) if endpoint else FileSystem.from_uri(f"s3://{bucket}")[0]
    return ArrowFSWrapper(system)


def said(error: BaseException) -> str:
    """Returns what a storage says is wrong, in a line."""
    return " ".join((getattr(error, "strerror", None) or str(error)).split())[:_LONGEST] or type(error).__name__


class Folder:
    """A folder that files are written into, each whole or not at all."""

    def __init__(self, name: str) -> None:
        self.name = name.rstrip("/") or name
        self.system, self.path, self.root = placed(self.name)

    def at(self, name: str) -> str:
        """Returns a file's path, as the folder's system knows it."""
        return f"{self.path}/{name}"

    def has(self, name: str) -> bool:
        """Returns whether a file is there."""
        return bool(self.system.exists(self.at(name)))

    def is_free(self) -> bool:
        """Returns whether nothing is there."""
        try:
            return not self.system.exists(self.path) or not self.system.ls(self.path, detail=False)
        except NotADirectoryError:
            return False

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Gives an empty file to write to, which takes its place when the block ends well.

        Raises:
            WriteError: where it cannot be written.
        """
        if not self.root:
            with replacing(Path(self.path, name)) as partial:
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
