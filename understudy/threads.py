"""Threads that know what they work for, and work that may be left behind."""

from __future__ import annotations

import contextvars
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("understudy.threads")

BEST_EFFORT_SECONDS = 2.0


class ThreadPool(ThreadPoolExecutor):
    """A pool whose jobs run in the context of whoever submits them: a log line finds its run from any thread."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a job; each gets a copy of the context of its own, for one cannot be entered twice at once."""
        context = contextvars.copy_context()
        run: Callable[..., T] = context.run
        job: Any = fn
        return super().submit(run, job, *args, **kwargs)


class TookTooLong(Exception):
    """The work goes on in its thread; nobody waits for it any more."""


def within(seconds: float, action: Callable[[], T], *, name: str) -> T:
    """Return what ``action`` returns, or go on without it.

    Args:
        seconds: to wait at most.
        action: runs in a daemon thread, in a copy of this context; what it raises is raised here.
        name: of the thread.

    Raises:
        TookTooLong: it has not ended by then.
    """
    done: Future[T] = Future()

    def attempt() -> None:
        try:
            done.set_result(action())
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            done.set_exception(error)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(attempt,), daemon=True, name=name).start()
    try:
        return done.result(seconds)
    except TimeoutError:
        if done.done():  # the action's own time-out
            raise
        raise TookTooLong(f"{name} took longer than {seconds:.0f} s") from None


def best_effort(action: Callable[[], object], what: str, seconds: float = BEST_EFFORT_SECONDS) -> bool:
    """Try something that must never hold up what matters; False when it failed or took longer than ``seconds``."""
    try:
        within(seconds, action, name=what)
    except TookTooLong:
        logger.warning("%s took longer than %.0f s; going on without it", what, seconds)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong here must not stop what matters
        logger.warning("%s was not possible: %s", what, error)
    else:
        return True
    return False
