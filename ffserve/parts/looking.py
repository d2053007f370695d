"""Looking at images in order, by URL at some of them at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeVar

from ffcore.errors import ImageError
from ffserve.parts.finding import Ref
from ffserve.parts.storage import is_url, stamp_at

AHEAD = 16  # at the same time, and as many more wait to be taken
T = TypeVar("T")


def ahead(refs: Iterable[Ref], look: Callable[[Ref], T]) -> Iterator[tuple[Ref, T]]:
    """Yields images with what `look` returns of them, in order; those by URL are looked at ahead, in threads."""
    waiting: deque[tuple[Ref, Future[T]]] = deque()
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(AHEAD))
        stack.callback(lambda: [future.cancel() for _, future in waiting])
        for ref in refs:
            if is_url(ref.file):
                future = pool.submit(look, ref)
            else:
                future = Future()
                future.set_result(look(ref))
            waiting.append((ref, future))
            if len(waiting) > 2 * AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()


def stamped(refs: Iterable[Ref]) -> Iterator[Ref]:
    """Yields images with their stamps, or with the error of what is not there.

    Raises:
        FFStudyError: where a storage does not answer.
    """
    return (found for _, found in ahead(refs, _stamped))


def _stamped(ref: Ref) -> Ref:
    if ref.error is not None or ref.stamp is not None:
        return ref
    try:
        return replace(ref, stamp=stamp_at(ref.file))
    except ImageError as error:
        return replace(ref, error=str(error))
