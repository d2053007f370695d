"""What a command is given -> images by name, one at a time: files, folders, patterns, standard input."""

from __future__ import annotations

import glob
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ffcore.errors import ImageError
from ffcore.images import SUFFIXES, UInt8Array

STDIN = "-"
# More than an image of the largest size takes in any format that is read.
MAX_STDIN_BYTES = 512 * 2**20
# Suffixes of pictures that are not read.
UNREAD = frozenset(
    {".arw", ".avif", ".cr2", ".cr3", ".dng", ".emf", ".eps", ".exr", ".hdr", ".heic", ".heif", ".jxl", ".nef", ".orf"}
    | {".psd", ".raf", ".rw2", ".svg", ".wmf", ".xcf"}
)


@dataclass(frozen=True, slots=True)
class Item:
    """One image to be read, by the name that it is reported under."""

    name: str
    source: str | os.PathLike[str] | bytes | UInt8Array | ImageError
    """A file, the content of one, pixels uint8 [C, H, W] of the model's size, or why there is none."""


def find(given: Sequence[str | os.PathLike[str]], passed_over: Counter[str] | None = None) -> Iterator[Item]:
    """Yields every image that the arguments name, in their order, as it is found.

    - A file is taken whatever its name.
    - A folder is searched with all below it, sorted: each folder's own files, then its folders. Files of known image
      suffixes are taken, those whose names start with a dot are not; links are followed, but no folder is searched
      twice.
    - A pattern (`*`, `?`, `[...]`, `**` for any folders), where no file has that very name, stands for what it
      matches, sorted; matching folders are searched, except by a pattern with `**`, which reaches into them itself,
      as a search does.
    - `-` is one image on standard input.

    What is not there, cannot be listed, or has no images is an item of its own, whose source is the ImageError: it
    is reported like a bad image, and the rest is done.

    Args:
        given: the arguments.
        passed_over: counts by suffix what a search finds of pictures that are not read, such as `.heic`.
    """
    counter = Counter[str]() if passed_over is None else passed_over
    for argument in given:
        name = os.fsdecode(argument)
        if name == STDIN:
            yield _standard_input()
        elif os.path.isdir(name):
            yield from _search(name, counter)
        elif glob.has_magic(name) and not os.path.lexists(name):
            yield from _match(name, counter)
        else:
            yield Item(name, name)


def _standard_input() -> Item:
    if sys.stdin is None:
        return Item(STDIN, ImageError("standard input is closed"))
    try:
        content = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    except OSError as error:
        return Item(STDIN, ImageError(f"standard input cannot be read: {error.strerror or error}"))
    if len(content) > MAX_STDIN_BYTES:
        return Item(STDIN, ImageError(f"standard input holds more than {MAX_STDIN_BYTES:,} bytes: name a file"))
    return Item(STDIN, content)


def _match(pattern: str, passed_over: Counter[str]) -> Iterator[Item]:
    matches = sorted({*_expand(pattern)})
    if "**" in pattern:
        matches = [match for match in matches if not os.path.isdir(match)]
    if not matches:
        yield Item(pattern, ImageError(f"{pattern!r} matches no file"))
    for match in matches:
        if os.path.isdir(match):
            yield from _search(match, passed_over)
        else:
            yield Item(match, match)


def _expand(pattern: str) -> Iterator[str]:
    """Yields what a pattern matches, as `glob` does; but `**` walks as a search does, which ends where links circle."""
    parts = pattern.replace(os.altsep or os.sep, os.sep).split(os.sep)
    if "**" not in parts:
        yield from glob.iglob(pattern)
        return
    at = parts.index("**")
    head = os.sep.join(parts[:at]) or (os.sep if at else "")
    while parts[at : at + 1] == ["**"]:
        at += 1
    tail = os.sep.join(parts[at:]) or "*"
    for root in glob.iglob(head) if head else [""]:
        for folder, _, error in _walk(root):
            if error is None:
                yield from _expand(os.path.join(glob.escape(folder), tail))


def _search(folder: str, passed_over: Counter[str]) -> Iterator[Item]:
    nothing = True
    for inside, files, error in _walk("" if folder == os.curdir else folder):
        if error is not None:
            nothing = False
            reason = (error.strerror or str(error)).lower()
            yield Item(inside, ImageError(f"{inside or folder!r} cannot be listed: {reason}"))
        above = os.path.join(inside, "")
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in SUFFIXES:
                nothing = False
                yield Item(above + name, above + name)
            elif suffix in UNREAD:
                passed_over[suffix] += 1
    if nothing:
        yield Item(folder, ImageError(f"{folder!r} has no images: files ending in {', '.join(sorted(SUFFIXES))}"))


def _walk(top: str) -> Iterator[tuple[str, list[str], OSError | None]]:
    """Yields a folder and all below it, each once: its path, the sorted names of its files, why it cannot be listed.

    "" is the working folder. A link that cannot be followed is a file.
    """
    seen, waiting = set[tuple[int, int]](), [top]
    while waiting:
        folder = waiting.pop()
        files: list[str] = []
        folders: list[str] = []
        try:
            status = os.stat(folder or os.curdir)
            here = (status.st_dev, status.st_ino)
            if here in seen:
                continue
            seen.add(here)
            with os.scandir(folder or os.curdir) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        (folders if _is_folder(entry) else files).append(entry.name)
        except OSError as error:
            yield folder, [], error
            continue
        yield folder, sorted(files), None
        waiting += [os.path.join(folder, name) for name in sorted(folders, reverse=True)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
