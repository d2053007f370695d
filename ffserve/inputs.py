"""What a command is given -> images by name, one at a time: files, folders, patterns, standard input."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ffserve.errors import ImageError
from ffserve.images import SUFFIXES, UInt8Array

STDIN = "-"
# More than an image of the largest size takes in any format that is read.
MAX_STDIN_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class Item:
    """One image to be read, by the name that it is reported under."""

    name: str
    source: str | os.PathLike[str] | bytes | UInt8Array | ImageError
    """A file, the content of one, pixels uint8 [C, H, W] of the model's size, or why there is none."""


def find(given: Sequence[str | os.PathLike[str]]) -> Iterator[Item]:
    """Yields every image that the arguments name, in their order, as it is found.

    - A file is taken whatever its name.
    - A folder is searched with all below it, sorted: each folder's own files, then its folders. Files of known image
      suffixes are taken, those whose names start with a dot are not; links are followed, but not in a circle.
    - A pattern (`*`, `?`, `[...]`, `**` for any folders), where no file has that very name, stands for what it
      matches, sorted; matching folders are searched, except by a pattern with `**`, which reaches into them itself.
    - `-` is one image on standard input.

    What is not there, cannot be listed, or has no images is an item of its own, whose source is the ImageError: it
    is reported like a bad image, and the rest is done.
    """
    for argument in given:
        name = os.fsdecode(argument)
        if name == STDIN:
            yield _standard_input()
        elif os.path.isdir(name):
            yield from _search(name)
        elif glob.has_magic(name) and not os.path.lexists(name):
            yield from _match(name)
        else:
            yield Item(name, name)


def _standard_input() -> Item:
    try:
        content = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    except OSError as error:
        return Item(STDIN, ImageError(f"standard input cannot be read: {error.strerror or error}"))
    if len(content) > MAX_STDIN_BYTES:
        return Item(STDIN, ImageError(f"standard input holds more than {MAX_STDIN_BYTES:,} bytes: name a file"))
    return Item(STDIN, content)


def _match(pattern: str) -> Iterator[Item]:
    matches = sorted(glob.glob(pattern, recursive=True))
    if "**" in pattern:
        matches = [match for match in matches if not os.path.isdir(match)]
    if not matches:
        yield Item(pattern, ImageError(f"{pattern!r} matches no file"))
    for match in matches:
        if os.path.isdir(match):
            yield from _search(match)
        else:
            yield Item(match, match)


def _search(folder: str) -> Iterator[Item]:
    count = 0
    for item in _walk(folder, ()):
        count += 1
        yield item
    if not count:
        yield Item(folder, ImageError(f"{folder!r} has no images: files ending in {', '.join(sorted(SUFFIXES))}"))


def _walk(folder: str, above: tuple[tuple[int, int], ...]) -> Iterator[Item]:
    """Yields the images of a folder and of those in it; `above` are the devices and inodes of those it lies in."""
    files, folders = [], []
    try:
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                    files.append(entry.name)
    except OSError as error:
        yield Item(folder, ImageError(f"{folder!r} cannot be listed: {(error.strerror or str(error)).lower()}"))
        return
    for name in sorted(files):
        path = os.path.join(folder, name)
        yield Item(path, path)
    for name in sorted(folders):
        yield from _walk(os.path.join(folder, name), (*above, here))
