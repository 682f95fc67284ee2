"""Work done in parallel, taken in order, with a bound on what waits in memory."""

from __future__ import annotations

from collections import deque
from concurrent.futures import FIRST_COMPLETED, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Generator, Iterable
    from concurrent.futures import Executor, Future

T = TypeVar("T")


def in_order(pool: Executor, jobs: Iterable[Callable[[], T]], room: threading.Semaphore) -> Generator[T, None, None]:
    """Run jobs in a pool and yield their results in the order of the jobs.

    Each job under way, and each result not yet taken, holds one place of ``room``; a result's place is given back
    when the next one is asked for. Several callers can share one ``room``: a caller waits for a place only while it
    holds none, so they cannot wait for each other in a circle.
    """
    pending: deque[Future[T]] = deque()
    try:
        for job in jobs:
            while not room.acquire(blocking=not pending):
                yield pending[0].result()
                pending.popleft()
                room.release()
            pending.append(pool.submit(job))
        while pending:
            yield pending[0].result()
            pending.popleft()
            room.release()
    finally:
        for future in pending:
            future.cancel()
        for future in pending:
            if not future.cancelled():
                future.exception()
            room.release()


def weighed(
    pool: Executor, jobs: Iterable[tuple[int, Callable[[], T]]], *, ahead: int, weight_max: int
) -> Generator[T, None, None]:
    """Run jobs in a pool and yield their results in the order of the jobs, with a bound on what waits in memory.

    Args:
        pool: where they run.
        jobs: pairs of a weight (bytes of the result, roughly) and the job; asked for as there is room.
        ahead: so many are under way or wait to be taken.
        weight_max: so much do they weigh together; one that alone weighs more runs alone.
    """
    pending: deque[tuple[int, Future[T]]] = deque()
    weight = 0
    try:
        for heavy, job in jobs:
            while pending and (len(pending) >= ahead or weight + heavy > weight_max):
                done, future = pending[0]
                yield future.result()
                pending.popleft()
                weight -= done
            pending.append((heavy, pool.submit(job)))
            weight += heavy
        while pending:
            yield pending[0][1].result()
            pending.popleft()
    finally:
        for _, future in pending:
            future.cancel()


def each(pool: Executor, jobs: Iterable[Callable[[], T]], *, ahead: int) -> Generator[T, None, None]:
    """Run jobs in a pool and yield their results as they come, at most ``ahead`` of them under way."""
    pending: set[Future[T]] = set()
    try:
        for job in jobs:
            pending.add(pool.submit(job))
            if len(pending) >= ahead:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        for future in pending:
            future.cancel()
