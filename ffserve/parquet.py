"""Rows -> a Parquet file, in row groups, in constant memory. This module imports pyarrow.

Letters: B batch, F features.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow.parquet import ParquetWriter

# Bytes that a row group gathers.
GROUP_BYTES = 16 * 2**20
Write = Callable[[pa.Table], None]


@contextmanager
def writing(
    path: Path,
    schema: pa.Schema | None = None,
    *,
    repeated: Sequence[str] = (),
    about: Callable[[], Mapping[str, str]] = dict,
) -> Iterator[Write]:
    """Gives what appends rows to a file, which is whole when the block ends well.

    Args:
        path: the file.
        schema: of the rows; None means that of the first.
        repeated: the columns whose texts recur.
        about: what the file says of itself, asked at the end.
    """
    writer: ParquetWriter | None = None
    waiting: list[pa.Table] = []

    def write(rows: pa.Table) -> None:
        waiting.append(rows)
        if sum(rows.nbytes for rows in waiting) >= GROUP_BYTES:
            flush()

    def flush() -> None:
        nonlocal writer
        if waiting:
            rows = pa.concat_tables(waiting)
            waiting.clear()
            writer = writer or stack.enter_context(opened(rows.schema))
            writer.write_table(rows)

    def opened(schema: pa.Schema) -> ParquetWriter:
        return ParquetWriter(path, schema, use_dictionary=[*repeated])

    with ExitStack() as stack:
        if schema is not None:
            writer = stack.enter_context(opened(schema))
        yield write
        flush()
        if writer is not None and (said := about()):
            writer.add_key_value_metadata(dict(said))


def feature_rows(names: Mapping[str, Sequence[str]], features_BF: npt.NDArray[np.float32]) -> pa.Table:
    """Returns columns of names and float32 features, of each row a list of fixed size."""
    columns = {key: texts(values) for key, values in names.items()}
    values = pa.array(np.ascontiguousarray(features_BF).reshape(-1), pa.float32())
    return pa.table({**columns, "features": pa.FixedSizeListArray.from_arrays(values, features_BF.shape[1])})


def texts(names: Sequence[str]) -> pa.Array:
    """Returns names as UTF-8 can hold them: bytes of a file's name that are none as `\\xNN`."""
    return pa.array([os.fsencode(name).decode("utf-8", "backslashreplace") for name in names], pa.string())
