"""Images by where they are -> items for `ffserve.stream`: what is not a file here is fetched ahead, in order."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby

from pyarrow.parquet import ParquetFile

from ffcore.errors import FFStudyError, ImageError
from ffcore.folders import MAX_STDIN_BYTES, Item
from ffcore.images import Source
from ffserve.evaluate import Labelled
from ffserve.parts.finding import Ref, bytes_of, image_column
from ffserve.parts.looking import ahead
from ffserve.parts.storage import is_url, placed, reaching

_ROWS = 128
# Seconds until a file is asked for again where its storage does not answer.
PAUSES = (1.0, 4.0)


def items(refs: Iterable[Ref], column: str | None, working: str) -> Iterator[Item]:
    """Yields an item for each image, in order.

    Args:
        refs: the images.
        column: of images in Parquet files, see `located`.
        working: the folder that paths are relative to.

    Raises:
        FFStudyError: where a storage does not answer.
        DataError: where a Parquet file cannot be read any more.
    """
    for rows_of, numbered in groupby(enumerate(refs), _followed):
        some = (ref for _, ref in numbered)
        yield from _fetched(some, working) if rows_of is None else _of_table([*some], column, working)


def _followed(numbered: tuple[int, Ref]) -> tuple[str, int] | None:
    """Returns what rows that follow each other have in common; None of what is no row."""
    number, ref = numbered
    return None if ref.row is None else (ref.file, ref.row - number)


def _item(ref: Ref, source: Source | ImageError) -> Item:
    return Item(ref.name, source) if ref.label is None else Labelled(ref.name, source, ref.label)


def _fetched(refs: Iterable[Ref], working: str) -> Iterator[Item]:
    for ref, source in ahead(refs, partial(_source, working=working)):
        yield _item(ref, source)


def _source(ref: Ref, working: str) -> Source | ImageError:
    """Returns where an image is read, or why it is not. Raises FFStudyError where its storage does not answer."""
    if ref.error is not None:
        return ImageError(ref.error)
    if not is_url(ref.file):
        return os.path.join(working, ref.file)
    place = placed(ref.file)
    for pause in (*PAUSES, None):
        try:
            with reaching(ref.file, "read"), place.system.open(place.path, "rb") as file:
                content: bytes = file.read(MAX_STDIN_BYTES + 1)
            break
        except ImageError as error:
            return error
        except FFStudyError:
            if pause is None:
                raise
            time.sleep(pause)
    if len(content) > MAX_STDIN_BYTES:
        return ImageError(f"{ref.file!r} holds more than {MAX_STDIN_BYTES:,} bytes")
    return content


def _of_table(refs: list[Ref], column: str | None, working: str) -> Iterator[Item]:
    """Yields rows of a Parquet file that follow each other, some of them in memory at a time."""
    file = refs[0].file
    system, path, _ = placed(file if is_url(file) else os.path.join(working, file))
    with reaching(file, "read any more"), system.open(path, "rb") as opened, ParquetFile(opened) as parquet:
        name = image_column(parquet.schema_arrow, column, file)
        first, last = refs[0].row or 0, refs[-1].row or 0
        groups, begin, at = [], 0, None
        for group in range(parquet.num_row_groups):
            end = begin + parquet.metadata.row_group(group).num_rows
            if begin <= last and end > first:
                groups.append(group)
                at = begin if at is None else at
            begin = end
        told, at = iter(refs), at or 0
        for batch in parquet.iter_batches(_ROWS, row_groups=groups, columns=[name]):
            inside = batch.column(0)[max(first - at, 0) : max(last + 1 - at, 0)]
            at += len(batch)
            for value, ref in zip(inside, told, strict=False):
                content = bytes_of(value.as_py())
                yield _item(ref, ImageError(f"{ref.name!r} holds no bytes") if content is None else content)
