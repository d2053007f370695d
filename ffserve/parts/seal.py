"""A Parquet file that holds the digest of all its bytes, which are zeros in the digest's own place."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO

MARK = b"sha256:"  # before the digest, in what the file says of itself
BLANK = b"0" * 64
UNSEALED = {"seal": (MARK + BLANK).decode()}
"""What a file says of itself, at the end, before it is sealed."""


def seal(path: Path) -> None:
    """Writes a file's digest where it says `UNSEALED`."""
    with path.open("r+b") as file:
        at, _, digest = _digests(file)
        file.seek(at)
        file.write(digest)


def is_whole(file: IO[bytes]) -> bool:
    """Returns whether a file is what it was when it was sealed. Raises ValueError where it never was."""
    _, said, digest = _digests(file)
    return said == digest


def _digests(file: IO[bytes]) -> tuple[int, bytes, bytes]:
    """Returns where a file's digest stands, which one does, and which one should."""
    size = file.seek(0, 2)
    file.seek(max(size - 8, 0))  # behind what the file says of itself: how long that is, and PAR1
    start = max(size - 8 - int.from_bytes(file.read(4), "little"), 0)
    file.seek(start)
    about = file.read()
    at = about.rindex(MARK) + len(MARK)
    end, total = at + len(BLANK), hashlib.sha256()
    file.seek(0)
    while left := min(start - file.tell(), 2**20):
        total.update(file.read(left))
    total.update(about[:at] + BLANK + about[end:])
    return start + at, about[at:end], total.hexdigest().encode()
