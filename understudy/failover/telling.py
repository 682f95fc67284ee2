"""What a failover says while it runs: best effort, from a thread of its own, so that no listener can hold it up."""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from understudy.report import human_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("understudy.failover")

_CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that a person who follows a failover sees.

    Attributes:
        stage: validate, dns, scale, writes, monitor or alerts.
        action: the plan's id of the action; empty for the run itself.
        what: began, told, done, already (found done), stopped, finished.
        sentence: for people.
        seconds: since the action began; since the run began for the run itself.
        data: what was read back, under ``done`` and ``finished``.
    """

    stage: str
    action: str
    what: Literal["began", "told", "done", "already", "stopped", "finished"]
    sentence: str
    seconds: float = 0.0
    data: dict[str, Any] = field(default_factory=dict)


def event_line(event: Event) -> str:
    """Return one line of a failover's progress."""
    took = f"  {human_seconds(event.seconds)}" if event.what in ("done", "finished") else ""
    return f"{event.stage:<9} {event.what:<8} {event.sentence}{took}"


def silent(event: Event) -> None:
    """Tell nobody: for tests and machines."""


class Teller:
    """Hands events to a listener in order; a listener that fails or hangs is left behind."""

    def __init__(self, listener: Callable[[Event], None]) -> None:
        """Start the thread."""
        self._listener = listener
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        context = contextvars.copy_context()  # so that a flow's logger knows its run
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="telling", daemon=True)
        self._thread.start()

    def __call__(self, event: Event) -> None:
        """Say something, and return at once."""
        self._events.put(event)

    def close(self) -> None:
        """Wait at most two seconds until all was heard."""
        self._events.put(None)
        deadline = time.monotonic() + _CLOSE_SECONDS
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while (event := self._events.get()) is not None:
            try:
                self._listener(event)
            except Exception as error:  # noqa: BLE001 - a listener must not matter
                logger.warning("a listener of the failover failed: %s", error)
