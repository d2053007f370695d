"""Images by name -> a model's outputs, batch by batch, in constant memory however many there are.

Letters: B batch, C channels, H W pixels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
from PIL import Image

from ffcore.errors import ImageError, UsageError
from ffcore.folders import Item
from ffcore.images import MAX_PIXELS, UInt8Array
from ffcore.machine import cores
from ffserve.given import check_count
from ffserve.reading import Read, Readers, Wanted, read
from ffserve.session import Model

INVERT = ("auto", "yes", "no")
PLACE = ("auto", "no")
BATCH_SIZE = 128
AHEAD = 2  # batches that are being read while one is run
FEW = 256  # images for which no processes are started


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Up to `batch_size` images that were read, or not, and run."""

    items: list[Item]
    errors: list[ImageError | None]
    """Why an item could not be read; None where it was."""
    did: list[frozenset[str]]
    """What was done for an item and what is to be said of it, see `ffserve.reading.Read`."""
    images_BCHW: UInt8Array
    """The pixels that were run, of the items without an error, in order."""
    outputs: dict[str, npt.NDArray[np.float32]]
    """The model's outputs, as `Model.run` gives them; rows are those of `images_BCHW`."""


def stream(
    model: Model,
    items: Iterable[Item],
    *,
    batch_size: int = BATCH_SIZE,
    invert: str = "auto",
    place: str = "auto",
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
    processes: bool = False,
) -> Iterator[Batch]:
    """Reads images while the model runs, and yields batches in the order of the items.

    At most `AHEAD` batches are read ahead, so memory does not grow with the number of items.

    Args:
        model: what runs.
        items: what is read.
        batch_size: images of one run; at least 1.
        invert: `yes` (the negative of everything), `no`, or `auto`: of a model of drawings, ink on any ground.
        place: `auto` puts ink where the model's own drawings have it, if they are placed alike; or `no`.
        max_pixels: larger images are refused.
        workers: threads that read; None means as many as there are cores.
        processes: where there are more than a few images, read small ones in as many forked processes (Linux), which
            is faster; for programs without threads of their own, as the commands are.

    Raises:
        UsageError: where `batch_size`, `workers`, `invert` or `place` is not legal.
        ModelError: where the model cannot be run.
    """
    check_count("batch_size", batch_size)
    if workers is not None:
        check_count("workers", workers)
    wanted = wanted_of(model, invert=invert, place=place, max_pixels=max_pixels)
    many = workers or cores()
    return _stream(model, iter(items), wanted, batch_size, many, processes and Readers.available and many > 1)


def wanted_of(model: Model, *, invert: str = "auto", place: str = "auto", max_pixels: int = MAX_PIXELS) -> Wanted:
    """Returns how a model's images are read; the arguments are those of `stream`.

    Raises:
        UsageError: where one is not legal.
    """
    check_count("max_pixels", max_pixels)
    if invert not in INVERT:
        raise UsageError(f"invert is {invert!r}: it must be one of {', '.join(INVERT)}")
    if place not in PLACE:
        raise UsageError(f"place is {place!r}: it must be one of {', '.join(PLACE)}")
    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow's own limit, which would refuse what was asked for
        Image.MAX_IMAGE_PIXELS = max(max_pixels, Image.MAX_IMAGE_PIXELS)
    about = model.about
    return Wanted(
        channels=about.channels,
        height=about.height,
        width=about.width,
        ground=about.ground,
        ink=about.ink,
        invert=str(invert),
        place=place == "auto" and about.ink is not None and about.ink.longest is not None,
        max_pixels=max_pixels,
    )


def _stream(
    model: Model, items: Iterator[Item], wanted: Wanted, batch_size: int, workers: int, processes: bool
) -> Iterator[Batch]:
    waiting: deque[tuple[list[Item], list[Future[Read]]]] = deque()
    readers, count = None, 0
    part = -(-batch_size // workers)
    with ExitStack() as last, ExitStack() as stack:  # threads end before the processes that serve them
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        stack.callback(lambda: [future.cancel() for _, futures in waiting for future in futures])
        while True:
            while len(waiting) <= AHEAD and (chunk := list(islice(items, batch_size))):
                count += len(chunk)
                if processes and readers is None and count > FEW:
                    # A fork copies the locks that threads hold: ours hold none where they have nothing to do.
                    wait([future for _, futures in waiting for future in futures])
                    readers = last.enter_context(closing(Readers(workers, wanted)))
                parts = [chunk[start : start + part] for start in range(0, len(chunk), part)]
                futures = [pool.submit(readers.read, p) if readers else pool.submit(read, p, wanted) for p in parts]
                waiting.append((chunk, futures))
            if not waiting:
                return
            chunk, futures = waiting.popleft()
            yield _run(model, chunk, [future.result() for future in futures])


def _run(model: Model, items: list[Item], reads: list[Read]) -> Batch:
    images_BCHW = np.concatenate([part.images_NCHW for part in reads])
    return Batch(
        items=items,
        errors=[error for part in reads for error in part.errors],
        did=[did for part in reads for did in part.did],
        images_BCHW=images_BCHW,
        outputs=model.run(images_BCHW),
    )
