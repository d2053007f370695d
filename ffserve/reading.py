"""Items -> pixels as a model takes them: in this thread, or in processes for what Python's lock would hold up.

Pillow decodes small images under Python's lock, so threads do not share that work; large ones it decodes without.
Letters: N images that were read, C channels, H W pixels.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import queue
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from ffcore.errors import ImageError, ImageTooLarge
from ffcore.folders import Item
from ffcore.images import SMALL, UInt8Array, read_image
from ffserve.paper import inverts, negatives


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How items are read."""

    channels: int
    height: int
    width: int
    border: tuple[float, float] | None
    invert: str
    max_pixels: int


@dataclass(frozen=True, kw_only=True)
class Read:
    """Items that were read, or not."""

    images_NCHW: UInt8Array
    errors: list[ImageError | None]
    inverted: list[bool]


def read(items: Sequence[Item], wanted: Wanted) -> Read:
    """Reads items one after the other."""
    images: list[UInt8Array] = []
    errors: list[ImageError | None] = []
    for item in items:
        try:
            images.append(_pixels(item, wanted))
            errors.append(None)
        except ImageError as error:
            errors.append(error)
    images_NCHW = _stacked(images, wanted)
    turned_N = np.full(len(images), wanted.invert == "yes")
    if wanted.invert == "auto" and wanted.border is not None:
        turned_N = inverts(images_NCHW, wanted.border)
        images_NCHW[turned_N] = negatives(images_NCHW[turned_N], wanted.border)
    elif wanted.invert == "yes":
        images_NCHW = 255 - images_NCHW
    turned = iter(turned_N.tolist())
    return Read(
        images_NCHW=images_NCHW,
        errors=errors,
        inverted=[False if error else next(turned) for error in errors],
    )


def _pixels(item: Item, wanted: Wanted) -> UInt8Array:
    source = item.source
    if isinstance(source, ImageError):
        raise source
    if isinstance(source, np.ndarray):
        return source
    return read_image(
        source,
        height=wanted.height,
        width=wanted.width,
        channels=wanted.channels,
        max_pixels=wanted.max_pixels,
        name=item.name,
    )


def _stacked(images: list[UInt8Array], wanted: Wanted) -> UInt8Array:
    if images:
        return np.stack(images)
    return np.empty((0, wanted.channels, wanted.height, wanted.width), dtype=np.uint8)


class Readers:
    """Processes that read small images; each thread that calls `read` is served by one.

    They are forked, so that they start at once and share this process's memory: only where the system forks well, and
    by a program whose own threads hold no locks that reading needs, as a command's do.
    """

    available = sys.platform == "linux"

    def __init__(self, count: int, wanted: Wanted) -> None:
        context = multiprocessing.get_context("fork")
        self._wanted = wanted
        self._idle: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        self._all: list[tuple[Connection, Any]] = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(ours, theirs, wanted), daemon=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # that other threads are not forked
                process.start()
            theirs.close()
            self._all.append((ours, process))
            self._idle.put(ours)

    def read(self, items: Sequence[Item]) -> Read:
        """Reads items; those that are large, or no files, in the calling thread."""
        if not all(isinstance(item.source, str | os.PathLike) for item in items):
            return read(items, self._wanted)
        connection = self._idle.get()
        if connection is None:  # of a process that died
            self._idle.put(None)
            return read(items, self._wanted)
        try:
            connection.send([(item.name, os.fspath(item.source)) for item in items])  # type: ignore[arg-type]
            found: Read = connection.recv()
        except (EOFError, OSError):
            self._idle.put(None)
            errors: list[ImageError | None] = [
                ImageError(f"{item.name!r} or a file near it ended the process that read it") for item in items
            ]
            return Read(images_NCHW=_stacked([], self._wanted), errors=errors, inverted=[False] * len(items))
        self._idle.put(connection)
        return self._with_large(items, found)

    def close(self) -> None:
        """Ends the processes."""
        for connection, _ in self._all:
            connection.close()
        for _, process in self._all:
            process.join()

    def _with_large(self, items: Sequence[Item], found: Read) -> Read:
        """Reads what a process left to this one."""
        if not any(isinstance(error, ImageTooLarge) for error in found.errors):
            return found
        small = iter(found.images_NCHW)
        errors, inverted, images = list(found.errors), list(found.inverted), []
        for i, error in enumerate(found.errors):
            if error is None:
                images.append(next(small))
            elif isinstance(error, ImageTooLarge):
                one = read(items[i : i + 1], self._wanted)
                errors[i], inverted[i] = one.errors[0], one.inverted[0]
                images.extend(one.images_NCHW)
        return Read(images_NCHW=_stacked(images, self._wanted), errors=errors, inverted=inverted)


def _serve(theirs: Connection, ours: Connection, wanted: Wanted) -> None:
    """What a process does: reads lists of items until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program that asked
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # what came with the fork is not garbage
    theirs.close()
    wanted = replace(wanted, max_pixels=min(wanted.max_pixels, SMALL))
    while True:
        try:
            items = ours.recv()
            ours.send(read([Item(name, source) for name, source in items], wanted))
        except (EOFError, OSError):
            return
