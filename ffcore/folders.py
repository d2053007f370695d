"""What a command is given -> images by name: files, folders, patterns, lists of names, standard input."""

from __future__ import annotations

import codecs
import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain
from typing import BinaryIO

from ffcore.contents import HEAD, MARKS, image_of, is_text, what_is
from ffcore.errors import ImageError, UsageError
from ffcore.formats import SUFFIXES, is_raw
from ffcore.images import Source, first_bytes, is_image
from ffcore.tally import Tally

STDIN = "-"
# More than an image of the largest size takes in any format that is read.
MAX_STDIN_BYTES = 512 * 2**20
MAX_NAME_BYTES = 2**16
_MARK = max(len(mark) for mark, _ in MARKS)
_ODD = re.compile(rb"[\x01-\x08\x0b\x0e-\x1f\x7f]")  # names of files may have them, and hardly do
_BINARY = 4  # different ones among the first bytes, of which no list of names has so many
# Folders that archives made on a Mac bring along.
_OF_ARCHIVES = ("__MACOSX",)


@dataclass(frozen=True, slots=True)
class Item:
    """One image to be read, by the name that it is reported under."""

    name: str
    source: Source | ImageError
    """A file, the content of one, an image of Pillow, or why there is none."""


def find(given: Iterable[str | os.PathLike[str]], left_out: Tally | None = None) -> Iterator[Item]:
    """Yields every image that the arguments name, in their order, as it is found.

    - A file is taken whatever its name.
    - A folder is searched with all below it, sorted: each folder's own files, then its folders. Images are taken, by
      their content or by an image's suffix; those whose names start with a dot are not; links are followed, but no
      folder is searched twice.
    - A pattern (`*`, `?`, `[...]`, `**` for any folders), where no file has that very name, stands for what it
      matches, sorted; matching folders are searched, except by a pattern with `**`, which reaches into them itself,
      as a search does.
    - `-` is one image on standard input.

    What is not there, cannot be listed, or has no images is an item of its own, whose source is the ImageError: it
    is reported like a bad image, and the rest is done.

    Args:
        given: the arguments.
        left_out: counts what a search leaves out.
    """
    left_out = Tally() if left_out is None else left_out
    for argument in given:
        name = os.fsdecode(argument)
        if name == STDIN:
            yield _standard_input()
        elif os.path.isdir(name):
            yield from _search(name, left_out)
        elif glob.has_magic(name) and not os.path.lexists(name):
            yield from _match(name, left_out)
        else:
            yield Item(name, name)


def listed(files_from: str | None) -> Iterator[str]:
    """Yields the names that stand in a file, or on standard input (`-`): one a line, or with a zero byte behind each.

    They are bytes, as the system's names are; UTF-16 and UTF-32 are known by their mark, and that of UTF-8 is no part
    of a name.

    Raises:
        UsageError: where it cannot be read, or holds what are no names.
    """
    if files_from is None:
        return
    what = f"--files-from {files_from}"
    try:
        if files_from == STDIN:
            if sys.stdin is None:
                raise UsageError(f"{what}: standard input is closed")
            yield from _names(_plain(_blocks(sys.stdin.buffer), what), what)
            return
        with open(files_from, "rb") as file:
            yield from _names(_plain(_blocks(file), what), what)
    except OSError as error:
        raise UsageError(f"{what} cannot be read: {error.strerror or error}") from error


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yields what a file holds as it comes, first as many bytes as a mark has."""
    read = file.read1 if isinstance(file, BufferedReader) else file.read
    first = b""
    while len(first) < _MARK and (more := read(2**16)):
        first += more
    yield first
    while block := read(2**16):
        yield block


def _plain(blocks: Iterator[bytes], what: str) -> Iterator[bytes]:
    """Yields a list of names as bytes, without the mark of its encoding. Raises UsageError where it is none."""
    first = next(blocks)
    mark, encoding = next(((mark, name) for mark, name in MARKS if first.startswith(mark)), (b"", "utf-8-sig"))
    if encoding == "utf-8-sig":
        first = first.removeprefix(mark)
        _check_names(first[:HEAD], what)
        yield first
        yield from blocks
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for block in chain([first], blocks):
            yield os.fsencode(decoder.decode(block))
        decoder.decode(b"", final=True)
    except UnicodeError as error:
        raise UsageError(f"{what} is damaged {encoding.upper()}: save it as UTF-8") from error


def _check_names(head: bytes, what: str) -> None:
    """Raises UsageError where a file that begins with these bytes is another than a list of names."""
    if (image := image_of(head)) is not None:
        raise UsageError(f"{what} is {image.what}, no list of names: name it as an argument")
    content = what_is(head)
    if content is not None and (not is_text(head) or head.lstrip().startswith((b"<", b"version https://git-lfs"))):
        raise UsageError(f"{what} is {content.what}, no list of names" + (content.mend and f": {content.mend}"))
    odd = {*_ODD.findall(head)}
    if head.startswith((b"\0", *odd)) or b"\0\0" in head or len(odd) >= _BINARY:
        raise UsageError(f"{what} is a binary file, no list of names: write one name a line")
    if odd and b"\0" not in head:
        raise UsageError(
            f"{what} holds the control character {min(odd).decode()!a}: end names that have one with zero bytes"
        )


def _names(blocks: Iterable[bytes], what: str) -> Iterator[str]:
    """Yields names as they come: what ends them is a zero byte where one of the first does, else a line's end."""
    rest, end = b"", b""
    for block in blocks:
        end = end or (b"\0" if b"\0" in block else b"\n")
        *names, rest = (rest + block).split(end)
        if max(map(len, (rest, *names))) > MAX_NAME_BYTES:
            raise UsageError(f"{what} holds a name of more than {MAX_NAME_BYTES:,} bytes: write one name a line")
        yield from _decoded(names, end)
    yield from _decoded([rest], end)


def _decoded(names: Iterable[bytes], end: bytes) -> Iterator[str]:
    """Yields the names that are not empty as text, without a carriage return of their line."""
    for name in names:
        if name := name.removesuffix(b"\r") if end == b"\n" else name:
            yield os.fsdecode(name)


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


def _match(pattern: str, left_out: Tally) -> Iterator[Item]:
    matches = sorted({*_expand(pattern)})
    if "**" in pattern:
        matches = [match for match in matches if not os.path.isdir(match)]
    if not matches:
        yield Item(pattern, ImageError(f"{pattern!r} matches no file"))
    for match in matches:
        if os.path.isdir(match):
            yield from _search(match, left_out)
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
        for folder, _, error in _walk(root, Tally()):
            if error is None:
                yield from _expand(os.path.join(glob.escape(folder), tail))


def _search(folder: str, left_out: Tally) -> Iterator[Item]:
    nothing = True
    for inside, files, error in _walk("" if folder == os.curdir else folder, left_out):
        if error is not None:
            nothing = False
            reason = (error.strerror or str(error)).lower()
            yield Item(inside, ImageError(f"{inside or folder!r} cannot be listed: {reason}"))
        above = os.path.join(inside, "")
        for name in files:
            what = _no_image(above + name)
            if what is None:
                nothing = False
                yield Item(above + name, above + name)
            else:
                left_out.add(what, above + name)
    if nothing:
        yield Item(folder, ImageError(f"{folder!r} has no images"))


def _no_image(path: str) -> str | None:
    """Returns what a file is that is no image, or none that is read; None where it is one."""
    if os.path.splitext(path)[1].lower() in SUFFIXES:
        return None
    if is_raw(path):
        return "raw files of cameras"
    if is_image(path):
        return None
    try:
        content = what_is(first_bytes(path))
    except OSError:
        content = None
    if content is not None and content.plugin:
        return f"{content.what}, which is read after pip install {content.plugin}"
    return "no images"


def _walk(top: str, left_out: Tally) -> Iterator[tuple[str, list[str], OSError | None]]:
    """Yields a folder and all below it, each once: its path, the sorted names of its files, why it cannot be listed.

    "" is the working folder. A link that cannot be followed is a file. What is hidden is left out.
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
                    if is_hidden(entry.name):
                        left_out.add("hidden", os.path.join(folder, entry.name))
                    else:
                        (folders if _is_folder(entry) else files).append(entry.name)
        except OSError as error:
            yield folder, [], error
            continue
        yield folder, sorted(files), None
        waiting += [os.path.join(folder, name) for name in sorted(folders, reverse=True)]


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder of this name is passed over: what starts with a dot, and what archives add."""
    return name.startswith(".") or name in _OF_ARCHIVES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
