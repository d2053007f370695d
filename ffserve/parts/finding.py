"""What a command is given -> images by where they are: files here or by URL, and rows of Parquet files."""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from pyarrow.parquet import ParquetFile

from ffcore.errors import DataError, ImageError, UsageError
from ffcore.files import AnyPath
from ffcore.folders import STDIN, find, is_hidden
from ffcore.formats import SUFFIXES
from ffcore.layout import same, some
from ffcore.tally import Tally
from ffserve.parts.storage import Place, is_url, placed, plain, said

PARQUET = ".parquet"


@dataclass(frozen=True, slots=True)
class Ref:
    """An image that is somewhere."""

    file: str
    """A path or a URL."""
    row: int | None = None
    """Of a Parquet file, from 0."""
    error: str | None = None
    """Why there is none."""
    label: int | None = None
    """The number of its class."""

    @property
    def name(self) -> str:
        """The name that it is reported under."""
        return self.file if self.row is None else f"{self.file}[{self.row}]"


def located(given: Iterable[str], left_out: Tally, column: str | None = None) -> Iterator[Ref]:
    """Yields every image that names stand for, in their order, as `ffcore.folders.find` does, and beside those:

    - URLs of files, folders and patterns. In a folder images are known by their suffix alone.
    - the rows of Parquet files, which are named, or by a pattern.

    Args:
        given: the names.
        left_out: counts what a search leaves out.
        column: of the images in Parquet files; None means the only one that can hold some.

    Raises:
        UsageError: for `-`; where a URL cannot be read here.
    """
    for name in map(plain, given):
        if name == STDIN:
            raise UsageError("- is one image on standard input: it goes without --engine ray")
        for ref in _at_url(name, left_out) if is_url(name) else map(_ref, find([name], left_out)):
            if ref.error is None and ref.file.endswith(PARQUET):
                yield from _rows(ref.file, column)
            else:
                yield ref


def _ref(item: Any) -> Ref:
    return Ref(item.name, error=str(item.source) if isinstance(item.source, ImageError) else None)


def _at_url(url: str, left_out: Tally) -> Iterator[Ref]:
    place = placed(url)
    system, path, root = place
    try:
        if glob.has_magic(path):
            matches = sorted(system.glob(path))
            if not matches:
                yield Ref(url, error=f"{url!r} matches no file")
            for match in matches:
                yield from [Ref(root + match)] if _is_file(match) else searched(place._replace(path=match), left_out)
        elif _is_file(path) or not system.isdir(path):
            yield Ref(root + path)
        else:
            yield from searched(place, left_out)
    except OSError as error:
        yield Ref(url, error=f"{url!r} cannot be listed: {said(error)}")


def _is_file(path: str) -> bool:
    """Returns whether a name is that of an image or a Parquet file: the storage is not asked then."""
    return posixpath.splitext(path)[1].lower() in (*SUFFIXES, PARQUET)


def searched(place: Place, left_out: Tally) -> Iterator[Ref]:
    """Yields the images in a folder by URL and in all below it, sorted: each folder's own files, then its folders."""
    system, top, root = place
    nothing, waiting = True, [top]
    while waiting:
        folder = waiting.pop()
        try:
            inside = sorted((entry["name"].rstrip("/"), entry["type"]) for entry in system.ls(folder, detail=True))
        except OSError as error:
            nothing = False
            yield Ref(root + folder, error=f"{root + folder!r} cannot be listed: {said(error)}")
            continue
        folders = []
        for path, kind in inside:
            if path == folder:  # what marks a folder in a storage of objects
                continue
            if is_hidden(posixpath.basename(path)):
                left_out.add("hidden", root + path)
            elif kind == "directory":
                folders.append(path)
            elif posixpath.splitext(path)[1].lower() in SUFFIXES:
                nothing = False
                yield Ref(root + path)
            else:
                left_out.add("no images", root + path)
        waiting += reversed(folders)
    if nothing:
        yield Ref(root + top, error=f"{root + top!r} has no images")


def class_folders_at(url: str, left_out: Tally) -> dict[str, list[str]]:
    """Returns the folders in a folder by URL, as `ffcore.layout.class_folders` does. Raises DataError."""
    system, path, root = placed(url)
    found: dict[str, list[str]] = {}
    try:
        for name, kind in sorted((entry["name"].rstrip("/"), entry["type"]) for entry in system.ls(path, detail=True)):
            hidden = is_hidden(posixpath.basename(name))
            if kind == "directory" and not hidden:
                found.setdefault(same(posixpath.basename(name)), []).append(root + name)
            elif name != path:
                left_out.add("hidden" if hidden else "beside class folders", root + name)
    except OSError as error:
        raise DataError(f"{url!r} cannot be listed ({said(error)}): name a folder with one folder a class") from error
    if not found:
        raise DataError(f"{url!r} holds no folders: name a folder with one folder of images for each class")
    return dict(sorted(found.items()))


def labelled(folders: Iterable[tuple[AnyPath, int]], left_out: Tally) -> Iterator[Ref]:
    """Yields the images of class folders, with the number that stands beside each."""
    for folder, label in folders:
        name = os.fspath(folder)
        inside = (
            searched(placed(name), left_out) if is_url(name) else map(_ref, find([os.path.join(name, "")], left_out))
        )
        yield from (replace(ref, label=label) for ref in inside)


def _rows(file: str, column: str | None) -> Iterator[Ref]:
    """Yields the rows of a Parquet file."""
    place = placed(file)
    try:
        with place.system.open(place.path, "rb") as opened, ParquetFile(opened) as parquet:
            image_column(parquet.schema_arrow, column, file)
            count = parquet.metadata.num_rows
    except (OSError, pa.ArrowException, DataError) as error:
        yield Ref(file, error=str(error) if isinstance(error, DataError) else f"{file!r} cannot be read: {said(error)}")
        return
    ref = Ref(file)
    yield from (replace(ref, row=row) for row in range(count))


def image_column(schema: pa.Schema, column: str | None, file: str) -> str:
    """Returns the column of a Parquet file that holds images: bytes, or {"bytes": ...} as Hugging Face writes them.

    Raises:
        DataError: where it has none, or several and none was named, or `column` is no such column.
    """
    fitting = [field.name for field in schema if _holds_bytes(field.type)]
    if column is not None and column not in fitting:
        raise DataError(f"{file!r} has no column {column!r} of images' bytes (--image-column): it has {some(fitting)}")
    if column is None and len(fitting) != 1:
        has = some(fitting) if fitting else f"none among {some(schema.names)}"
        raise DataError(f"{file!r} must have one column of images' bytes, it has {has}: name one with --image-column")
    return column or fitting[0]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_bytes(kind.field(at).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
