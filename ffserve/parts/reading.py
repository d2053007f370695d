"""Images by where they are -> items for `ffserve.stream`: what is not a file here is fetched ahead, in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import groupby

import pyarrow as pa
from pyarrow.parquet import ParquetFile

from ffcore.errors import DataError, ImageError
from ffcore.folders import MAX_STDIN_BYTES, Item
from ffcore.images import Source
from ffserve.evaluate import Labelled
from ffserve.parts.finding import Ref, image_column
from ffserve.parts.storage import is_url, placed, said

FETCHING = 16  # at the same time, and as many more wait to be read
_ROWS = 128


def items(refs: Iterable[Ref], column: str | None, working: str) -> Iterator[Item]:
    """Yields an item for each image, in order.

    Args:
        refs: the images.
        column: of images in Parquet files, see `located`.
        working: the folder that paths are relative to.

    Raises:
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
    waiting: deque[tuple[Ref, Future[Source | ImageError]]] = deque()
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(FETCHING))
        stack.callback(lambda: [future.cancel() for _, future in waiting])
        for ref in refs:
            if ref.error is None and is_url(ref.file):
                waiting.append((ref, pool.submit(_fetch, ref.file)))
            else:
                done: Future[Source | ImageError] = Future()
                done.set_result(ImageError(ref.error) if ref.error else os.path.join(working, ref.file))
                waiting.append((ref, done))
            if len(waiting) > 2 * FETCHING:
                first, found = waiting.popleft()
                yield _item(first, found.result())
        while waiting:
            first, found = waiting.popleft()
            yield _item(first, found.result())


def _fetch(url: str) -> bytes | ImageError:
    """Returns the content of a file, or why there is none."""
    try:
        place = placed(url)
        with place.system.open(place.path, "rb") as file:
            content: bytes = file.read(MAX_STDIN_BYTES + 1)
    except OSError as error:
        return ImageError(f"{url!r} cannot be read: {said(error)}")
    if len(content) > MAX_STDIN_BYTES:
        return ImageError(f"{url!r} holds more than {MAX_STDIN_BYTES:,} bytes")
    return content


def _of_table(refs: list[Ref], column: str | None, working: str) -> Iterator[Item]:
    """Yields rows of a Parquet file that follow each other, some of them in memory at a time."""
    file = refs[0].file
    try:
        place = placed(file if is_url(file) else os.path.join(working, file))
        with place.system.open(place.path, "rb") as opened, ParquetFile(opened) as parquet:
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
                    content = value.as_py()
                    content = content["bytes"] if isinstance(content, dict) else content
                    yield _item(ref, content if content is not None else ImageError(f"{ref.name!r} holds no bytes"))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file!r} cannot be read any more: {said(error)}") from error
