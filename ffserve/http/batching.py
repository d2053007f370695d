"""Requests that arrive together run as one batch, in a thread, while the event loop goes on.

Letters: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ffserve.http.protocol import ROWS, Floats, Refused

Images = npt.NDArray[np.uint8]
Outputs = dict[str, Floats]
WAITING = 16 * ROWS  # images that wait for a model, at most


class _Waiting(NamedTuple):
    images_BCHW: Images
    found: asyncio.Future[Outputs]
    since: float


class Batcher:
    """Runs images of several callers together. Of one event loop.

    A run takes what waits, whole requests up to `most` images, as soon as the run before it has ended; a larger request
    runs alone.

    Args:
        run: images -> outputs; called in the pool, one call at a time.
        pool: where it runs.
        most: images of a run.
        delay: seconds that a request waits for others while nothing runs.
        told: is called with the images of each run.
        spent: is called with stages of each request (protocol.STAGES) and their seconds.
    """

    def __init__(
        self,
        run: Callable[[Images], Outputs],
        pool: Executor,
        *,
        most: int,
        delay: float,
        told: Callable[[int], None],
        spent: Callable[[str, float], None],
    ) -> None:
        self._run, self._pool, self._told, self._spent = run, pool, told, spent
        self.most, self.delay = most, delay
        self._waiting: deque[_Waiting] = deque()
        self._full = asyncio.Event()
        self._working: asyncio.Task[None] | None = None
        self.rows = 0
        """Images that wait."""

    async def run(self, images_BCHW: Images) -> Outputs:
        """Returns the outputs of some images.

        Raises:
            Refused: where too many wait.
            ModelError: where the model cannot be run on them.
        """
        if self.rows + len(images_BCHW) > WAITING:
            raise Refused(f"busy: {self.rows:,} images wait, ask again later", 503)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(images_BCHW, loop.create_future(), time.perf_counter())
        self._waiting.append(waiting)
        self.rows += len(images_BCHW)
        if self.rows >= self.most:
            self._full.set()
        if self._working is None:
            self._working = loop.create_task(self._work())
        return await waiting.found

    async def _work(self) -> None:
        """Runs batches until nothing waits."""
        try:
            while self._waiting:
                if self.delay and self.rows < self.most:
                    self._full.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(self._waiting[0].since + self.delay - time.perf_counter()):
                            await self._full.wait()
                await self._run_batch(self._take())
        finally:
            self._working = None

    def _take(self) -> list[_Waiting]:
        """Returns what runs now; those who asked and have left are passed over."""
        taken: list[_Waiting] = []
        count = 0
        while self._waiting and (not taken or count + len(self._waiting[0].images_BCHW) <= self.most):
            first = self._waiting.popleft()
            self.rows -= len(first.images_BCHW)
            if not first.found.cancelled():
                taken.append(first)
                count += len(first.images_BCHW)
        return taken

    async def _run_batch(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        images = [each.images_BCHW for each in batch]
        began = time.perf_counter()
        try:
            outputs = await asyncio.get_running_loop().run_in_executor(self._pool, self._together, images)
        except Exception as error:
            if len(batch) > 1:  # one of them may be at fault: the others are not
                for each in batch:
                    await self._run_batch([each])
            elif not batch[0].found.cancelled():
                self._spent("fail", time.perf_counter() - batch[0].since)
                batch[0].found.set_exception(error)
            return
        ended = time.perf_counter()
        self._told(sum(map(len, images)))
        for each, found in zip(batch, outputs, strict=True):
            self._spent("queue", began - each.since)
            self._spent("compute_infer", ended - began)
            self._spent("success", ended - each.since)
            if not each.found.cancelled():
                each.found.set_result(found)

    def _together(self, images: list[Images]) -> list[Outputs]:
        found = self._run(images[0] if len(images) == 1 else np.concatenate(images))
        ends = np.cumsum([len(each) for each in images])[:-1]
        parts = {name: np.split(values, ends) for name, values in found.items()}
        return [{name: parts[name][i] for name in parts} for i in range(len(images))]
