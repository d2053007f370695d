"""The metadata of an ONNX file, read without loading the model: a file of another program costs nothing.

An ONNX file is one protobuf message: fields one after the other, each with its number, its kind and its length.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

METADATA = 14  # ModelProto.metadata_props
_KEY, _VALUE = 1, 2  # of StringStringEntryProto
_NUMBER, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # kinds of fields
_MOST = 16 * 2**20  # bytes of all metadata


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
