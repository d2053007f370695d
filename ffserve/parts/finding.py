"""What a command is given -> images by where they are: files here or by URL, and rows of Parquet files."""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from pyarrow.parquet import ParquetFile

from ffcore.errors import DataError, FFStudyError, ImageError, UsageError
from ffcore.files import AnyPath
from ffcore.folders import STDIN, find, is_hidden
from ffcore.formats import SUFFIXES
from ffcore.layout import same, some
from ffcore.tally import Tally
from ffserve.parts.storage import Place, is_url, placed, plain, reaching, stamp_at, stamp_of

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
    stamp: str | None = None
    """What changes with its content."""

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
        FFStudyError: where a storage does not answer.
    """
    for name in map(plain, given):
        if name == STDIN:
            raise UsageError("- is one image on standard input: it goes without --engine ray")
        for ref in _at_url(name, left_out) if is_url(name) else map(_ref, find([name], left_out)):
            if ref.error is None and ref.file.endswith(PARQUET):
                yield from _rows(ref.file, column)
            else:
                yield ref if ref.error is None else _hinted(ref)


def _hinted(ref: Ref) -> Ref:
    """Returns a folder that has no images with a word of the Parquet files that it has."""
    system, path, _ = placed(ref.file)
    with suppress(FFStudyError), reaching(ref.file, "listed"):
        if system.isdir(path) and any(name.endswith(PARQUET) for name in system.ls(path, detail=False)):
            pattern = posixpath.join(ref.file, f"*{PARQUET}")
            return replace(ref, error=f"{ref.error}: {pattern!r} has rows of Parquet files")
    return ref


def _ref(item: Any) -> Ref:
    return Ref(item.name, error=str(item.source) if isinstance(item.source, ImageError) else None)


def _at_url(url: str, left_out: Tally) -> Iterator[Ref]:
    place = placed(url)
    system, path, root = place
    found: dict[str, Any] = {}
    search = False
    try:
        with reaching(url, "listed"), suppress(FileNotFoundError):
            if glob.has_magic(path):
                found, search = system.glob(path, detail=True, on_error="raise"), True
            else:
                found, search = {path: {}}, not _is_file(path) and system.isdir(path)
    except ImageError as error:
        yield Ref(url, error=str(error))
        return
    if not found:
        yield Ref(url, error=f"{url!r} matches no file")
    for match, told in sorted(found.items()):
        if search and not _is_file(match):
            yield from searched(place._replace(path=match), left_out)
        else:
            yield Ref(root + match, stamp=stamp_of(told))


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
            with reaching(root + folder, "listed"):
                inside = {entry["name"].rstrip("/"): entry for entry in system.ls(folder, detail=True)}
        except ImageError as error:
            nothing = False
            yield Ref(root + folder, error=str(error))
            continue
        folders = []
        for path, told in sorted(inside.items()):
            if path == folder:  # what marks a folder in a storage of objects
                continue
            if is_hidden(posixpath.basename(path)):
                left_out.add("hidden", root + path)
            elif told["type"] == "directory":
                folders.append(path)
            elif posixpath.splitext(path)[1].lower() in SUFFIXES:
                nothing = False
                yield Ref(root + path, stamp=stamp_of(told))
            else:
                left_out.add("no images", root + path)
        waiting += reversed(folders)
    if nothing:
        yield Ref(root + top, error=f"{root + top!r} has no images")


def class_folders_at(url: str, left_out: Tally) -> dict[str, list[str]]:
    """Returns the folders in a folder by URL, as `ffcore.layout.class_folders` does. Raises FFStudyError."""
    system, path, root = placed(url)
    found: dict[str, list[str]] = {}
    with reaching(url, "listed"):
        inside = sorted((entry["name"].rstrip("/"), entry["type"]) for entry in system.ls(path, detail=True))
    for name, kind in inside:
        hidden = is_hidden(posixpath.basename(name))
        if kind == "directory" and not hidden:
            found.setdefault(same(posixpath.basename(name)), []).append(root + name)
        elif name != path:
            left_out.add("hidden" if hidden else "beside class folders", root + name)
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
    system, path, _ = placed(file)
    try:
        stamp = stamp_at(file)
        with reaching(file, "read"), system.open(path, "rb") as opened, ParquetFile(opened) as parquet:
            image_column(parquet.schema_arrow, column, file)
            count = parquet.metadata.num_rows
    except DataError as error:
        yield Ref(file, error=str(error))
        return
    ref = Ref(file, stamp=stamp)
    yield from (replace(ref, row=row) for row in range(count))


def image_column(schema: pa.Schema, column: str | None, file: str) -> str:
    """Returns the column of a Parquet file that holds images: bytes, or {"bytes": ...} as Hugging Face writes them.

    Raises:
        DataError: where it has none, or several and none was named, or `column` is no such column.
    """
    fitting = [field.name for field in schema if _holds_bytes(field.type)]
    if not fitting or (column is not None and column not in fitting):
        called = "" if column is None else f" {column!r}"
        has = some(f"{field.name} ({field.type})" for field in schema)
        raise DataError(f"{file!r} has no column{called} of images' bytes (--image-column): it has {has}")
    if column is None and len(fitting) != 1:
        raise DataError(f"{file!r} has several columns of images' bytes, {some(fitting)}: name one with --image-column")
    return column or fitting[0]


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_bytes(kind.field(at).type)
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return bool(pa.types.is_uint8(kind.value_type))
    return any(fits(kind) for fits in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def bytes_of(value: Any) -> bytes | None:
    """Returns what a row of such a column holds; None where that is nothing."""
    content = value["bytes"] if isinstance(value, dict) else value
    nothing = content is None or (isinstance(content, list) and None in content)
    return None if nothing else bytes(content)
