"""How far a run is, on its page: one progress artifact a flow run, sent by a thread of its own.

Whoever works only leaves the newest reading; the thread sends it at most every two seconds. With Prefect's server dead
the thread waits for it alone, and nothing of the run is lost or late.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from typing import TYPE_CHECKING, cast

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.runtime import flow_run

from tasks.names import artifact_key
from understudy.progress import Meter
from understudy.threads import BEST_EFFORT_SECONDS

if TYPE_CHECKING:
    from uuid import UUID

    from understudy.progress import Reading
    from understudy.report import Counts, Progress

logger = logging.getLogger("understudy.prefect")

PERIOD_SECONDS = 2.0
#: After a call that failed: a server that is down is not asked every two seconds.
_PAUSE_SECONDS = 30.0
#: A thread that nobody has told anything for so long ends; the next word starts another one.
_IDLE_SECONDS = 60.0


class Bar:
    """The progress artifact of one flow run."""

    def __init__(self, key: str) -> None:
        """Take the artifact's key; it is created when there is something to show."""
        self._key = key
        self._meter = Meter()
        self._lock = threading.Lock()
        self._told = threading.Condition(self._lock)
        self._newest: Reading | None = None
        self._thread: threading.Thread | None = None
        self._artifact: UUID | None = None
        self._closed = False

    def __call__(self, what: str, done: int, total: int | None, unit: str, counts: Counts | None = None) -> None:
        """See Progress."""
        reading = self._meter.read(what, done, total, unit, counts, now=time.monotonic())
        with self._lock:
            if self._closed:
                return
            self._newest = reading
            self._told.notify()
            if self._thread is None:
                context = contextvars.copy_context()
                self._thread = threading.Thread(
                    target=context.run, args=(self._send_all,), name="progress", daemon=True
                )
                self._thread.start()

    def close(self, seconds: float = BEST_EFFORT_SECONDS) -> None:
        """Have the newest reading sent, and wait for that no longer than ``seconds``."""
        with self._lock:
            self._closed = True
            self._told.notify()
            thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def _send_all(self) -> None:
        while True:
            with self._lock:
                self._told.wait_for(lambda: self._newest is not None or self._closed, _IDLE_SECONDS)
                reading, self._newest = self._newest, None
                if reading is None:
                    self._thread = None
                    return
            sent = self._send(reading)
            with self._lock:
                if not sent and self._newest is None:
                    self._newest = reading
                if not sent and self._closed:
                    self._thread = None
                    return
                self._told.wait_for(lambda: self._closed, PERIOD_SECONDS if sent else _PAUSE_SECONDS)

    def _send(self, reading: Reading) -> bool:
        try:
            if self._artifact is None:
                made = create_progress_artifact(reading.percent, key=self._key, description=reading.line)
                self._artifact = cast("UUID", made)  # in a thread without an event loop it is no coroutine
            else:
                update_progress_artifact(self._artifact, reading.percent, description=reading.line)
        except Exception as error:  # noqa: BLE001 - what only tells of a run must not fail it
            logger.debug("the progress was not shown: %s", error)
            return False
        return True


_bars: dict[str, Bar] = {}
_bars_lock = threading.Lock()


def shown(key: str) -> Progress:
    """Return what shows progress on the page of the flow run that this is part of: one bar for all of its tasks.

    Args:
        key: names the artifact when it is this call that makes the bar.
    """
    run = flow_run.get_id() or ""
    with _bars_lock:
        return _bars.setdefault(run, Bar(artifact_key("progress", key)))


def end_progress() -> None:
    """Send what the flow run that ends here has to show last; best effort, two seconds at most."""
    with _bars_lock:
        bar = _bars.pop(flow_run.get_id() or "", None)
    if bar is not None:
        bar.close()
