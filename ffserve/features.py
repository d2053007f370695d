"""Features of any number of images -> one .npz or .parquet file, written as they are computed.

Letters: B batch, F features, N images.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import numpy.typing as npt

from ffcore.errors import DataError, FFStudyError, UsageError
from ffcore.files import replacing
from ffserve.account import Account
from ffserve.stream import Batch

Float32Array = npt.NDArray[np.float32]
Write = Callable[[list[str], Float32Array], None]


@dataclass(frozen=True)
class Written:
    """What a file of features holds."""

    images: int
    features: int


def write_features(batches: Iterable[Batch], out: Path, account: Account) -> Written:
    """Writes names and features of a stream of images in constant memory.

    The file holds, in the order of the images and without those that cannot be read:

    - `names`: as the images were named; `folders`: the name of the folder that holds each, its class in a tree of
      class folders, "" for none. In .npz both are arrays of strings that keep every byte of a file's name
      (`os.fsencode` gives it back); in .parquet, which is UTF-8, bytes that are not are written as `\\xNN`.
    - `features`: float32 [N, F]; in .parquet a list of fixed size for each row.

    The rows lie in unnamed files in the same folder until an .npz is put together: it takes twice its size on disk
    for a moment.

    Args:
        batches: what `ffserve.stream.stream` gives.
        out: the file, .npz or .parquet; one that is there is replaced when the new one is whole.
        account: of what becomes of the images.

    Raises:
        UsageError: where the name of `out` ends in neither.
        WriteError: where it cannot be written; `out` is as it was before then.
        DataError: where no image could be read; likewise.
    """
    check_out(out)
    images = items = width = 0
    with replacing(out) as partial, WRITERS[out.suffix.lower()](partial) as write:
        for batch in batches:
            names = [item.name for item in account.take(batch)]
            if names:
                write(names, batch.outputs["features"])
                width = batch.outputs["features"].shape[1]
            images += len(names)
            items += len(batch.items)
        if not images:
            raise DataError(f"{'no image could be read' if items else 'no image was named'}: {out} is not written")
    return Written(images, width)


def check_out(out: Path) -> None:
    """Raises UsageError unless features can be written under this name."""
    if out.suffix.lower() not in WRITERS:
        raise UsageError(f"--out is {str(out)!r}: its name must end in {' or '.join(WRITERS)}")
    if out.is_dir():
        raise UsageError(f"--out is {str(out)!r}, which is a folder: name a file")


@contextmanager
def _npz(path: Path) -> Iterator[Write]:
    """Gives what appends rows; the archive is put together at the end, when their number is known."""
    count, width, longest = 0, 0, {"names": 1, "folders": 1}
    with TemporaryFile(dir=path.parent) as rows, TemporaryFile(dir=path.parent) as listed:

        def write(names: list[str], features_BF: Float32Array) -> None:
            nonlocal count, width
            count, width = count + len(names), features_BF.shape[1]
            for key, of in COLUMNS.items():
                longest[key] = max(longest[key], *(len(of(name)) for name in names))
            listed.write(b"".join(os.fsencode(name) + b"\0" for name in names))
            rows.write(np.ascontiguousarray(features_BF, dtype="<f4").data)

        yield write
        with ZipFile(path, "w") as archive:
            for key, of in COLUMNS.items():
                dtype = np.dtype(f"<U{longest[key]}")
                with _member(archive, key, dtype, (count,), ZIP_DEFLATED) as member:
                    for names in _read_names(listed):
                        member.write(np.array([of(name) for name in names], dtype=dtype).tobytes())
            # Features hardly shrink, and deflating them costs more than computing them.
            with _member(archive, "features", np.dtype("<f4"), (count, width), ZIP_STORED) as member:
                rows.seek(0)
                shutil.copyfileobj(rows, member, 2**20)


def _member(archive: ZipFile, key: str, dtype: np.dtype[Any], shape: tuple[int, ...], method: int) -> IO[bytes]:
    """Opens an array of an .npz for its values, its header written."""
    info = ZipInfo(f"{key}.npy")  # dated 1980: two files of the same features are identical
    info.compress_type = method
    member = archive.open(info, "w", force_zip64=True)
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    return member


def _read_names(listed: IO[bytes]) -> Iterator[list[str]]:
    """Yields the names of a file in which each ends in a zero byte, some at once."""
    listed.seek(0)
    rest = b""
    while block := listed.read(2**16):
        *names, rest = (rest + block).split(b"\0")
        yield [os.fsdecode(name) for name in names]


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    """Gives what appends rows, in row groups of about 16 MiB."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise FFStudyError("pyarrow is not installed: run pip install pyarrow, or name an .npz file") from error
    from ffserve.parquet import feature_rows, writing

    with writing(path, repeated=["folders"]) as write:
        yield lambda names, features_BF: write(feature_rows(columns_of(names), features_BF))


def columns_of(names: list[str]) -> dict[str, list[str]]:
    """Returns what is written of images' names, by column."""
    return {key: [of(name) for name in names] for key, of in COLUMNS.items()}


COLUMNS: Mapping[str, Callable[[str], str]] = {
    "names": str,
    "folders": lambda name: os.path.basename(os.path.dirname(name)),
}
WRITERS: Mapping[str, Callable[[Path], AbstractContextManager[Write]]] = {".npz": _npz, ".parquet": _parquet}
