"""The folder that the answers of a job go into: what the job is, its images by part, and an answer file for each part.

    OUT/_manifest.json            what the job is, written when all images are listed
    OUT/_model.onnx               the model
    OUT/_inputs/part-00000.parquet   which images a part has
    OUT/part-00000.parquet        their answers, what became of them, and the digest of all that these come of

What begins with `_` is passed over by whatever reads a folder of Parquet files as one table.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.parquet import ParquetFile, write_table

from ffcore.errors import DataError, ImageError, RunError
from ffserve.parts.finding import Ref
from ffserve.parts.looking import stamped
from ffserve.parts.storage import Folder, is_url, reaching

MANIFEST, MODEL, INPUTS = "_manifest.json", "_model.onnx", "_inputs"
FORMAT = 1
_LISTED = pa.schema(
    {"file": pa.binary(), "row": pa.int64(), "error": pa.string(), "label": pa.int64(), "stamp": pa.string()}
)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every part is told, and what makes a job another one."""

    out: str
    """The folder: a path from the root, or a URL."""
    command: str
    """`features`, `predict` or `evaluate`."""
    model: str
    """The model's SHA-256."""
    version: str
    """Of ffstudy."""
    batch_size: int
    threads: int
    invert: str
    place: str
    max_pixels: int
    top_k: int
    device: str
    provider_options: dict[str, str]
    image_column: str | None
    part_images: int
    working: str
    """The folder that paths are relative to."""
    called: str
    """The model's name in answers."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The images of a job."""

    images: int
    """How many."""
    keys: tuple[str, ...]
    """Of each part, see `key_of`."""

    @property
    def parts(self) -> int:
        """How many."""
        return len(self.keys)


def part_name(number: int) -> str:
    """Returns the name of a part's file."""
    return f"part-{number:05d}.parquet"


def begin(job: Job, model: bytes, refs: Iterable[Ref], report: Callable[[ImageError], None] = lambda _: None) -> Listed:
    """Makes a job's folder, or takes it up again: the images are listed first either way.

    Whatever is there of the model and the listing and is not what it should be is written anew.

    Args:
        job: what is done.
        model: its content.
        refs: the images.
        report: called with what was named and is not there, where nothing else was named.

    Raises:
        RunError: where the folder holds something else, or another job.
        DataError: where there are no images; nothing is written then.
        FFStudyError: where a storage does not answer; likewise.
        WriteError: where the folder cannot be written.
    """
    folder = Folder(job.out)
    _check_same(job, _manifest(folder), asdict(job))
    digest, images, found = hashlib.sha256(), 0, 0
    keys: list[str] = []
    with tempfile.TemporaryDirectory() as near:
        for part in _cut(stamped(refs), job.part_images):
            digest.update(json.dumps([(_from_root(ref, job.working), ref.row, ref.label) for ref in part]).encode())
            images, found = images + len(part), found + sum(ref.error is None for ref in part)
            write_table(_table(part), Path(near, part_name(len(keys))))
            keys.append(key_of(job, part))
        if not found:
            here = Folder(near)
            for number in range(len(keys)):
                for ref in refs_of(here, number, ""):
                    report(ImageError(ref.error))
            raise DataError(f"no image {'could be read' if images else 'was named'}: {job.out} is not written")
        listed = {"inputs": digest.hexdigest(), "images": images, "parts": len(keys)}
        told = _manifest(folder)  # which another driver may have written meanwhile
        _check_same(job, told, asdict(job) | listed)
        for number in range(len(keys)):
            folder.put(f"{INPUTS}/{part_name(number)}", Path(near, part_name(number)).read_bytes())
    folder.put(MODEL, model)
    if told is None:
        content = json.dumps({"format": FORMAT, **asdict(job), **listed}, indent=2) + "\n"
        folder.put(MANIFEST, content.encode())
    return Listed(images=images, keys=tuple(keys))


def key_of(job: Job, refs: Iterable[Ref]) -> str:
    """Returns the digest of all that a part's answers come of: the job, its images, and their stamps."""
    about = {key: value for key, value in asdict(job).items() if key not in _PLACES}
    lines = [(_from_root(ref, job.working), *astuple(ref)) for ref in refs]
    return hashlib.sha256(json.dumps([about, lines]).encode()).hexdigest()


def astuple(ref: Ref) -> tuple[Any, ...]:
    """Returns what an image's line in a listing holds."""
    return ref.file, ref.row, ref.error, ref.label, ref.stamp


def _from_root(ref: Ref, working: str) -> str:
    """Returns where an image is, whatever folder a command is given in."""
    return ref.file if is_url(ref.file) else os.path.join(working, ref.file)


def refs_of(folder: Folder, number: int, inputs: str = f"{INPUTS}/") -> list[Ref]:
    """Returns the images of a part. Raises as `reaching` does."""
    name = inputs + part_name(number)
    with (
        reaching(f"{folder.name}/{name}", "read"),
        folder.system.open(folder.at(name), "rb") as file,
        ParquetFile(file) as parquet,
    ):
        rows = parquet.read().to_pylist()
        return [Ref(**{**row, "file": os.fsdecode(row["file"])}) for row in rows]


def _table(part: list[Ref]) -> pa.Table:
    rows = [(os.fsencode(ref.file), *astuple(ref)[1:]) for ref in part]
    columns = [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), _LISTED, strict=True)]
    return pa.table(columns, schema=_LISTED)


def _cut(refs: Iterable[Ref], count: int) -> Iterator[list[Ref]]:
    left = iter(refs)
    while part := [*islice(left, count)]:
        yield part


def _manifest(folder: Folder) -> dict[str, Any] | None:
    """Returns what a folder's job is; None where it has none yet.

    Raises:
        RunError: where that is damaged, or the folder has none and holds more than what is written before it.
    """
    content = folder.read(MANIFEST)
    if content is None:
        other = next((name for name in folder.names() if name not in (INPUTS, MODEL) and name[:1] != "."), None)
        if other is not None:
            raise RunError(f"--out {folder.name} holds something else ({other}, and no {MANIFEST}): name a new folder")
        return None
    with suppress(ValueError):
        told = json.loads(content)
        if isinstance(told, dict) and told.get("format") == FORMAT:
            return told
    raise RunError(f"{folder.name}/{MANIFEST} is damaged: delete the folder, or name another --out")


def _check_same(job: Job, told: dict[str, Any] | None, asked: dict[str, Any]) -> None:
    """Raises RunError where a folder's job is another one than what is asked for."""
    for key, value in asked.items():
        if told is not None and key not in _PLACES and told.get(key) != value:
            what = _OTHER.get(key, f"{key} is {told.get(key)!r} there, and {value!r} was asked for")
            raise RunError(f"--out {job.out} holds another job: {what}; ask for the same, or name a new folder")


# What may change: the folder may have moved, and the model have another place.
_PLACES = ("out", "called", "working")
# What a digest says.
_OTHER = {"model": "it is of another model", "inputs": "it is of other images"}
