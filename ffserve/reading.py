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
from PIL import Image, ImageOps

from ffcore.errors import ImageError, ImageTooLarge
from ffcore.flat import Ground
from ffcore.folders import Item
from ffcore.images import SMALL, UInt8Array, fit, from_array, read_picture
from ffcore.ink import GRAY, Ink
from ffserve.drawing import BLANK, INVERTED, settled, take

DIM = "dim"  # nearly black: 16 bits of which few are used
EVEN = 2  # levels by which the pixels of a picture that is blank may differ


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How items are read."""

    channels: int
    height: int
    width: int
    ground: Ground
    """What transparency is laid over."""
    ink: Ink | None
    """How the model's own pictures are drawn, None where they are no drawings."""
    invert: str
    place: bool
    max_pixels: int

    @property
    def clear(self) -> bool:
        """Whether ink is found whatever its ground."""
        return self.ink is not None and self.invert == "auto"


@dataclass(frozen=True, kw_only=True)
class Read:
    """Items that were read, or not."""

    images_NCHW: UInt8Array
    errors: list[ImageError | None]
    did: list[frozenset[str]]
    """Of each item, what was done for it and what is to be said of it: words of `ffserve.drawing`, and `dim`."""


def read(items: Sequence[Item], wanted: Wanted) -> Read:
    """Reads items one after the other."""
    images: list[UInt8Array] = []
    errors: list[ImageError | None] = []
    did: list[set[str]] = []
    unsettled: list[int] = []  # of `images`: those of the model's own size are looked at together
    for item in items:
        try:
            image, done, look = _pixels(item, wanted)
        except ImageError as error:
            errors.append(error)
            continue
        unsettled += [len(images)] if look else []
        images.append(image)
        did.append(done)
        errors.append(None)
    images_NCHW = _stacked(images, wanted)
    if wanted.ink is not None and unsettled:
        for i in np.array(unsettled)[~settled(images_NCHW[unsettled], wanted.ink, place=wanted.place)]:
            images_NCHW[i], done = _taken(from_array(images_NCHW[i]), wanted)
            did[i] |= done
    for i in np.flatnonzero(np.ptp(images_NCHW, axis=(2, 3)).max(1, initial=0) <= EVEN):
        did[i].add(BLANK)
    told = iter(did)
    return Read(
        images_NCHW=images_NCHW,
        errors=errors,
        did=[frozenset() if error else frozenset(next(told)) for error in errors],
    )


def _pixels(item: Item, wanted: Wanted) -> tuple[UInt8Array, set[str], bool]:
    """Returns an item's pixels, what was done for it, and whether it may still be unlike the model's own pictures."""
    source = item.source
    if isinstance(source, ImageError):
        raise source
    drawing = wanted.ink is not None and (wanted.clear or wanted.place)

    def use(image: Image.Image, dim: bool) -> tuple[UInt8Array, set[str], bool]:
        said = {DIM} if dim else set()
        if wanted.invert == "yes":
            image = ImageOps.invert(image)
            said.add(INVERTED)
        if drawing and (image.size != (wanted.width, wanted.height) or (wanted.channels == 1 and _in_colour(image))):
            pixels, done = _taken(image, wanted)
            return pixels, done | said, False
        fitted = fit(image, height=wanted.height, width=wanted.width, channels=wanted.channels)
        return fitted, said, drawing

    return read_picture(source, use, ground=wanted.ground, max_pixels=wanted.max_pixels, name=item.name)


def _taken(image: Image.Image, wanted: Wanted) -> tuple[UInt8Array, set[str]]:
    assert wanted.ink is not None
    shape = (wanted.channels, wanted.height, wanted.width)
    return take(image, wanted.ink, shape, clear=wanted.clear, place=wanted.place)


def _in_colour(image: Image.Image) -> bool:
    """Returns whether ink and ground may differ in colour alone, of which gray has nothing."""
    return image.mode == "RGB" and bool(np.ptp(np.asarray(image), axis=2).max() > GRAY)


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
            return Read(images_NCHW=_stacked([], self._wanted), errors=errors, did=[frozenset()] * len(items))
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
        errors, did, images = list(found.errors), list(found.did), []
        for i, error in enumerate(found.errors):
            if error is None:
                images.append(next(small))
            elif isinstance(error, ImageTooLarge):
                one = read(items[i : i + 1], self._wanted)
                errors[i], did[i] = one.errors[0], one.did[0]
                images.extend(one.images_NCHW)
        return Read(images_NCHW=_stacked(images, self._wanted), errors=errors, did=did)


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
