"""What an exported file says of itself: its metadata, and the manifest that lies beside it.

Letters: C channels, H W pixels, K classes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ffcore.contents import HEAD, what_is
from ffcore.errors import ModelError
from ffcore.flat import BLACK, Ground
from ffcore.ink import Ink
from ffserve.hub import in_cache
from ffserve.metadata import FORMAT, HEADS, KEY, MANIFEST, decode
from ffserve.providers import first_line

# How far outputs of the golden image may be from the recorded ones, absolutely or relatively: where the file does not
# say what another processor's rounding needs, and at most, whatever it says.
TOLERANCE = 1e-2
MOST_TOLERANCE = 1e-1
# Of an ONNX file, one protobuf message: fields one after the other, each with its number, its kind and its length.
METADATA = 14  # ModelProto.metadata_props
_KEY, _VALUE = 1, 2  # of StringStringEntryProto
_NUMBER, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # kinds of fields
_MOST = 16 * 2**20  # bytes of all metadata


@dataclass(frozen=True, kw_only=True)
class About:
    """What an exported file says of itself."""

    channels: int
    height: int
    width: int
    class_names: tuple[str, ...] | None
    """None where the file has no head and gives features alone."""
    head: str
    """A name in `ffserve.metadata.HEADS`: a probe, the method's own readout, or none."""
    target: str
    """`class` where its classes are those of images, `pretext` where a view made them."""
    precision: str
    """`fp32`, `fp16` or `int8`."""
    border: tuple[float, float] | None
    """Mean and deviation of the border pixels of the model's own images, 0 to 255; None where they are not recorded."""
    ground: Ground
    """What transparency is laid over: the mean of these pixels; for a drawing, what its ink stands out from."""
    ink: Ink | None
    """How the model's own images are drawn; None where they are no ink on a ground."""
    values: dict[str, Any]
    """All metadata, decoded."""


def read_about(path: Path, file: BinaryIO, size: int) -> About:
    """Reads the metadata of a file without loading the model: one of another program costs nothing.

    Args:
        path: how the file is named.
        file: from its beginning.
        size: of the file, in bytes.

    Raises:
        ModelError: where they are of another program, damaged, or contradict each other.
        ValueError: as `stored_metadata` does.
    """
    metadata = stored_metadata(file, size)
    if f"{KEY}format" not in metadata:
        raise ModelError(
            f"{path} is of another program, or no ONNX model (it lacks {KEY}* metadata): use one of `ffexport`"
        )
    try:
        values = decode(metadata)
        if values["format"] != FORMAT:
            raise ModelError(
                f"{path} has format {values['format']}, ffserve reads {FORMAT}: export it again, or update"
            )
        image, names, border = values["image"], values.get("class_names"), values.get("border")
        about = About(
            channels=int(image["channels"]),
            height=int(image["height"]),
            width=int(image["width"]),
            class_names=None if names is None else _names(names),
            head=str(values.get("head", "none" if names is None else "probe")),
            target=str(values.get("target", "class")),
            precision=str(values.get("precision", "fp32")),
            border=None if border is None else (float(border["mean"]), float(border["deviation"])),
            ground=BLACK if border is None else tuple(round(float(m)) for m in border.get("means", [border["mean"]])),
            ink=Ink.from_dict(values["ink"]) if values.get("ink") else None,
            values=values,
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ModelError(f"{path} has damaged metadata ({first_line(error)}): export it again") from error
    levels = (*(about.border or ()), *(about.ground or ()))
    if not all(0 <= level <= 255 for level in levels) or len(about.ground or ()) not in (1, 3):
        raise ModelError(f"{path} has damaged metadata (border {about.border}, {about.ground}): export it again")
    if "ink" not in values:
        about = replace(about, ink=_ink_by_border(about))
    if about.ink is not None:
        about = replace(about, ground=None)
    if about.head not in HEADS or (about.head == "none") != (about.class_names is None):
        count = "no" if about.class_names is None else len(about.class_names)
        raise ModelError(f"{path} contradicts itself: head {about.head!r} with {count} class names: export it again")
    return about


def _ink_by_border(about: About) -> Ink | None:
    """Returns the ink of a file that does not tell: of gray images whose border is one ground, near black or white."""
    mean, deviation = about.border or (0.0, np.inf)
    if about.channels > 1 or deviation > 32 or 32 < mean < 223:
        return None
    return Ink(ground=0.0 if mean < 128 else 255.0, ink=255.0 if mean < 128 else 0.0, full=0.0, close=127.0)


def _names(names: Any) -> tuple[str, ...]:
    """Returns the names of classes. Raises ValueError where they are not a list of different texts."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise ValueError("class_names is no list of different names")
    return tuple(names)


@dataclass(frozen=True, kw_only=True)
class Golden:
    """An image, and what the file gave for it at the export."""

    image: npt.NDArray[np.uint8]
    """[1, C, H, W]."""
    outputs: dict[str, npt.NDArray[np.float64]]
    """The first values of each, by name."""
    tolerance: float
    """How far a right file may be from them, absolutely or relatively."""

    def changed(self, found: Mapping[str, npt.NDArray[np.float32]]) -> str | None:
        """Returns the first output that is not the recorded one, as far as that goes; None where all are."""
        for name, want in self.outputs.items():
            got, by = found[name][0, : want.size], self.tolerance
            if want.size == 0 or got.shape != want.shape or not np.allclose(got, want, rtol=by, atol=by):
                return name
        return None


def golden_of(path: Path, about: About) -> Golden:
    """Returns the golden image with its outputs. Files of version 0.1 record no tolerance.

    Raises:
        ModelError: where they are missing or damaged.
    """
    try:
        golden = about.values["golden"]
        image = np.frombuffer(base64.b64decode(golden["image"], validate=True), dtype=np.uint8)
        names = ["features"] if about.class_names is None else ["features", "probabilities"]
        return Golden(
            image=image.reshape(1, about.channels, about.height, about.width),
            outputs={name: np.asarray(golden[name], dtype=np.float64) for name in names},
            tolerance=min(max(float(golden.get("tolerance", TOLERANCE)), TOLERANCE), MOST_TOLERANCE),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} has a damaged golden image ({first_line(error)}): export it again") from error


def check_digest(path: Path, file: io.BufferedReader) -> None:
    """Holds a file against the manifest.json beside it, where there is one that lists the file.

    Raises:
        ModelError: where the manifest is damaged, or records another SHA-256.
    """
    manifest = path.parent / MANIFEST
    try:
        content = manifest.read_bytes()
    except OSError:
        return
    try:
        listed = json.loads(content)
    except (ValueError, RecursionError) as error:
        what, mend = instead_of_json(content)
        raise ModelError(f"{manifest} is {what}, so {path.name} cannot be checked: {mend}") from error
    files = listed.get("files") if isinstance(listed, dict) else None
    entry = files.get(path.name) if isinstance(files, dict) else None
    wanted = entry.get("sha256") if isinstance(entry, dict) else None
    if wanted is None:
        return
    found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        folder = in_cache(path)
        mend = "copy or export it again" if folder is None else f"delete {folder}, and it is fetched again"
        raise ModelError(
            f"{path} has SHA-256 {found[:12]}..., {manifest.name} beside it says {str(wanted)[:12]}...: "
            f"the file was changed or copied in part; {mend}"
        )


def instead_of_json(content: bytes) -> tuple[str, str]:
    """Returns what a manifest is that cannot be decoded, and what mends it."""
    found = what_is(content[:HEAD])
    return (found.what, found.mend) if found is not None and found.mend else ("damaged", "export again with `ffexport`")


def stored_metadata(file: BinaryIO, size: int) -> dict[str, str]:
    """Returns an ONNX file's metadata; the rest of the file is skipped, not read.

    Args:
        file: from its beginning.
        size: of the file, in bytes.

    Raises:
        ValueError: where it is no protobuf message, cut off, or has more than 16 MiB of metadata.
    """
    found = {}
    left = _MOST
    for number, length in _fields(file, size):
        if number != METADATA:
            file.seek(length, 1)
            continue
        left -= length
        if left < 0:
            raise ValueError(f"more than {_MOST:,} bytes of metadata")
        end = file.tell() + length
        entry = {inner: file.read(part) for inner, part in _fields(file, end)}
        found[entry.get(_KEY, b"").decode()] = entry.get(_VALUE, b"").decode()
    return found


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """Yields (number, length) of each field that holds bytes; whoever asks moves on behind them."""
    while file.tell() < end:
        key = _number(file)
        number, kind = key >> 3, key & 7
        if number == 0 or kind not in (_NUMBER, _EIGHT, _BYTES, _FOUR):
            raise ValueError("no protobuf message")
        if kind == _NUMBER:
            _number(file)
            continue
        length = _number(file) if kind == _BYTES else 8 if kind == _EIGHT else 4
        if file.tell() + length > end:
            raise ValueError("cut off")
        if kind == _BYTES:
            yield number, length
        else:
            file.seek(length, 1)


def _number(file: BinaryIO) -> int:
    """Reads a number of any length, seven bits a byte, the lowest first."""
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            raise ValueError("cut off")
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
    raise ValueError("no protobuf message")
