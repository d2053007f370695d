"""The folder that the answers of a job go into: what the job is, its images by part, and an answer file for each part.

    OUT/_manifest.json            what the job is, written when all images are listed
    OUT/_model.onnx               the model
    OUT/_inputs/part-00000.parquet   which images a part has
    OUT/part-00000.parquet        their answers, and what became of them

What begins with `_` is passed over by whatever reads a folder of Parquet files as one table.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
from pyarrow.parquet import ParquetFile, write_table

from ffcore.errors import DataError, RunError
from ffserve.parts.finding import Ref
from ffserve.parts.storage import Folder, is_url

MANIFEST, MODEL, INPUTS = "_manifest.json", "_model.onnx", "_inputs"
_LISTED = pa.schema({"file": pa.binary(), "row": pa.int64(), "error": pa.string(), "label": pa.int64()})


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
    """How many images a job has, in how many parts."""

    images: int
    parts: int


def part_name(number: int) -> str:
    """Returns the name of a part's file."""
    return f"part-{number:05d}.parquet"


def begin(job: Job, model: bytes, refs: Iterable[Ref]) -> Listed:
    """Makes a job's folder, or takes it up again: the images are listed either way.

    Raises:
        RunError: where the folder holds something else, or another job.
        DataError: where there are no images.
        WriteError: where it cannot be written.
    """
    folder = Folder(job.out)
    told = _manifest(folder)
    if told is None and not folder.is_free() and not folder.has(MODEL):
        raise RunError(f"--out {job.out} holds something else: name a new folder")
    if told is not None:
        _check_same(job, told, asdict(job))
    else:
        with folder.writing(MODEL) as path:
            path.write_bytes(model)
    digest, images, parts = hashlib.sha256(), 0, 0
    for number, part in enumerate(_cut(refs, job.part_images)):
        digest.update(json.dumps([(_from_root(ref, job.working), *astuple(ref)) for ref in part]).encode())
        images, parts = images + len(part), number + 1
        if told is None:
            with folder.writing(f"{INPUTS}/{part_name(number)}") as path:
                write_table(_table(part), path)
    if not images:
        raise DataError("no image was named")
    listed = {"inputs": digest.hexdigest(), "images": images, "parts": parts}
    if told is None:
        with folder.writing(MANIFEST) as path:
            path.write_text(json.dumps({"format": 1, **asdict(job), **listed}, indent=2) + "\n", encoding="utf-8")
    else:
        _check_same(job, told, listed)
    return Listed(images=images, parts=parts)


def astuple(ref: Ref) -> tuple[Any, ...]:
    """Returns what an image's line in a listing holds."""
    return ref.file, ref.row, ref.error, ref.label


def _from_root(ref: Ref, working: str) -> str:
    """Returns where an image is, whatever folder a command is given in."""
    return ref.file if is_url(ref.file) else os.path.join(working, ref.file)


def refs_of(folder: Folder, number: int) -> list[Ref]:
    """Returns the images of a part."""
    with folder.system.open(folder.at(f"{INPUTS}/{part_name(number)}"), "rb") as file, ParquetFile(file) as parquet:
        rows = parquet.read().to_pylist()
    return [Ref(os.fsdecode(row["file"]), row["row"], row["error"], row["label"]) for row in rows]


def _table(part: list[Ref]) -> pa.Table:
    rows = [(os.fsencode(ref.file), *astuple(ref)[1:]) for ref in part]
    columns = [pa.array(values, field.type) for values, field in zip(zip(*rows, strict=True), _LISTED, strict=True)]
    return pa.table(columns, schema=_LISTED)


def _cut(refs: Iterable[Ref], count: int) -> Iterator[list[Ref]]:
    left = iter(refs)
    while part := [*islice(left, count)]:
        yield part


def _manifest(folder: Folder) -> dict[str, Any] | None:
    """Returns what a folder's job is; None where it has none yet. Raises RunError where that cannot be read."""
    if not folder.has(MANIFEST):
        return None
    try:
        told: dict[str, Any] = json.loads(folder.system.cat_file(folder.at(MANIFEST)))
    except (OSError, ValueError) as error:
        raise RunError(f"{folder.name}/{MANIFEST} cannot be read ({error}): name another --out") from error
    return told


def _check_same(job: Job, told: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raises RunError where a folder's job is another one than what is asked for."""
    for key, value in asked.items():
        if key not in _PLACES and told.get(key) != value:
            raise RunError(
                f"--out {job.out} holds another job: {key} is {told.get(key)!r} there, and {value!r} was asked for; "
                "ask for the same, or name a new folder"
            )


# What may change: the folder may have moved, and the model have another place.
_PLACES = ("out", "called", "working")
