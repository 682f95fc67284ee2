"""The live event log: every online write, appended to the offline store in small Parquet objects, in order.

A write may be acknowledged when the online store and this log both have it. ``writers/<writer>.json`` says through
which moment everything is in the log, also when nothing is written: that is what the watermark is made of. A writer
that died without closing holds it back until a person says that it is gone: ``retire``.
"""

from __future__ import annotations

import io
import json
import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq

from understudy.errors import Conflict, Corrupt, NotFound, Refused, Transient, UnderstudyError, Unreachable
from understudy.features.offline import LOG, LOG_SCHEMA, WRITERS
from understudy.features.plan import SILENT_AFTER, WriterState
from understudy.report import Report, human_seconds
from understudy.vault.store import numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from understudy.features.interface import Cell
    from understudy.objects.interface import ObjectInfo, ObjectStore

logger = logging.getLogger("understudy.features")

_WAIT_SECONDS_MIN = 0.05
_WAIT_SECONDS_MAX = 2.0
_HEARTBEAT_TRIES = 10
_NAMED = 5


class _Batch:
    """The rows that go into one object, and those who wait for it."""

    def __init__(self) -> None:
        self.rows: list[Cell] = []
        self.first_at = 0.0
        self.done = threading.Event()
        self.error: UnderstudyError | None = None


class LogWriter:
    """Appends cells to ``log/<writer>/<n>.parquet`` by group commit: one thread, one object a flush, in order.

    Two live writers must not share a name: the second one's objects would be refused, and its appends fail.

    A writer that was retired while it was only paused or cut off finds that out at its next heartbeat, which is a
    compare-and-set: it says so in the log of its process and counts as open again. Nothing of it is lost meanwhile,
    because a row is acknowledged after its object is in the store, and every replication lists all objects.
    """

    def __init__(
        self,
        store: ObjectStore,
        writer: str,
        *,
        flush_seconds_max: float = 0.2,
        flush_rows_max: int = 500,
        heartbeat_seconds: float = 1.0,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        """Continue after the writer's last object, and announce it before the first row can come.

        Args:
            store: the offline store's root (``history/``, ``log/``, ``writers/`` lie below it).
            writer: its name: letters, digits, ``.``, ``_``, ``-``.
            flush_seconds_max: the oldest row waits at most so long for company.
            flush_rows_max: so many rows are flushed at once.
            heartbeat_seconds: the watermark moves at least so often.
            clock: the writer's time; None: this machine's at the start, carried on monotonically.
        """
        if not writer or not all(letter.isalnum() or letter in "._-" for letter in writer):
            message = f"{writer!r} is no name for a writer"
            raise Refused(message, hint="use letters, digits, dots, dashes and underscores")
        self.writer = writer
        self._store = store
        self._flush_seconds = flush_seconds_max
        self._flush_rows = flush_rows_max
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock or _steady_clock()
        self._condition = threading.Condition()
        self._open = _Batch()
        self._closing = False
        self._beating = True
        self._give_up_at = float("inf")
        self._flushed_through = self._clock()
        self._token: str | None = None
        self._number = self._last_number()
        self._put_heartbeat(closed=False)
        self._thread = threading.Thread(target=self._run, name=f"log {writer}", daemon=True)
        self._thread.start()

    @property
    def flushed_through(self) -> datetime:
        """Every row acknowledged before this moment is in the log."""
        return self._flushed_through

    def append(self, rows: Sequence[Cell]) -> None:
        """Add rows and wait until the log has them. Rows of one call stand in one object, in their order.

        Raises:
            Refused: the writer is closed.
            Conflict: another writer uses this name.
            Denied, NotFound: as the store says; whatever is raised, the rows were not acknowledged.
        """
        if not rows:
            return
        with self._condition:
            if self._closing:
                message = f"the log writer {self.writer} is closed"
                raise Refused(message, hint="open another one")
            batch = self._open
            if not batch.rows:
                batch.first_at = time.monotonic()
            batch.rows.extend(rows)
            self._condition.notify_all()
        batch.done.wait()
        if batch.error is not None:
            raise type(batch.error)(
                batch.error.message, hint=batch.error.hint, next_command=batch.error.next_command
            ) from batch.error

    def close(self, *, timeout_seconds: float = 30.0) -> None:
        """Flush what waits, mark the writer as closed, so that it no longer holds the watermark back. Idempotent.

        When the store does not answer for ``timeout_seconds``, the waiting appends fail with Unreachable.
        """
        with self._condition:
            if not self._closing:
                self._closing = True
                self._give_up_at = time.monotonic() + timeout_seconds
                self._condition.notify_all()
        self._thread.join()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _last_number(self) -> int:
        prefix = f"{LOG}{self.writer}/"
        stems = [info.key[len(prefix) :].removesuffix(".parquet") for info in self._store.list(prefix)]
        return max((int(stem) for stem in stems if stem.isdigit()), default=0)

    def _run(self) -> None:
        beat_at = time.monotonic() + self._heartbeat_seconds
        while True:
            batch, closing, cut = self._take(beat_at)
            if batch.rows:
                self._commit(batch)
            # Rows that came before the cut are in this batch or an earlier one; a batch that failed was refused to its
            # callers, so it holds nothing that was promised.
            self._flushed_through = max(self._flushed_through, cut)
            batch.done.set()
            self._beat(closed=closing)
            beat_at = time.monotonic() + self._heartbeat_seconds
            if closing:
                return

    def _take(self, beat_at: float) -> tuple[_Batch, bool, datetime]:
        """Wait for a full or old enough batch, or for the next heartbeat; cut there."""
        with self._condition:
            while not self._closing:
                now = time.monotonic()
                rows = self._open.rows
                due = self._open.first_at + self._flush_seconds if rows else beat_at
                if len(rows) >= self._flush_rows or now >= due:
                    break
                self._condition.wait(due - now)
            batch, self._open = self._open, _Batch()
            return batch, self._closing, self._clock()

    def _commit(self, batch: _Batch) -> None:
        try:
            data = encode_log(batch.rows)
        except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
            batch.error = Refused(f"rows cannot be written to the log ({error})", hint="correct their values")
            return
        key = f"{LOG}{self.writer}/{numbered(self._number + 1)}.parquet"
        wait = _WAIT_SECONDS_MIN
        uncertain = False
        while True:
            try:
                self._create(key, data)
            except Transient as error:
                uncertain = True
                if time.monotonic() + wait > self._give_up_at:
                    batch.error = Unreachable(f"{key} could not be written before the writer closed", hint=error.hint)
                    return
                if wait == _WAIT_SECONDS_MIN:
                    logger.warning("the log %s waits: %s", key, error.message)
                with self._condition:
                    self._condition.wait_for(lambda: self._closing, timeout=wait)
                if self._closing:
                    time.sleep(min(wait, _WAIT_SECONDS_MIN))
                wait = min(wait * 2, _WAIT_SECONDS_MAX)
            except UnderstudyError as error:
                batch.error = error
                # After an unanswered try the object may be there all the same: its number is not used again.
                self._number += 1 if uncertain else 0
                return
            else:
                self._number += 1
                return

    def _create(self, key: str, data: bytes) -> None:
        try:
            self._store.create(key, data)
        except Conflict as error:
            if self._store.get(key) == data:
                return  # written by a try whose answer was lost
            message = f"{key} was written by someone else"
            raise Conflict(message, hint="give each log writer a name of its own") from error

    def _beat(self, *, closed: bool) -> None:
        while True:
            try:
                self._put_heartbeat(closed=closed)
            except UnderstudyError as error:
                if self._beating:
                    logger.warning("the heartbeat of %s fails: %s", self.writer, error.message)
                self._beating = False
                if not closed or time.monotonic() > self._give_up_at:
                    return
                time.sleep(_WAIT_SECONDS_MIN)
            else:
                self._beating = True
                return

    def _put_heartbeat(self, *, closed: bool) -> None:
        """Write the state over the one that this writer wrote last; over another one only after looking at it."""
        key = _state_key(self.writer)
        for _ in range(_HEARTBEAT_TRIES):
            state = {"writer": self.writer, "flushed_through": self._flushed_through.isoformat(), "closed": closed}
            try:
                self._token = self._store.replace(key, json.dumps(state).encode(), expected=self._token).token
            except Conflict:
                self._look()
            else:
                return
        message = f"{key} was changed by others all the time"
        raise Conflict(message, hint="give each log writer a name of its own")

    def _look(self) -> None:
        """Learn what stands where the heartbeat goes: an earlier run's, this one's own, a retirement."""
        try:
            info, state = _read_state(self._store, self.writer)
        except NotFound:
            self._token = None
            return
        except Corrupt as error:
            logger.warning("%s; it is written anew", error.message)
            self._token = self._store.head(_state_key(self.writer)).token
            return
        self._token = info.token
        if state.retired is not None:
            logger.warning("the writer %s was retired at %s and is back", self.writer, state.retired.isoformat())
            # All that was acknowledged until then is in the log: the promise may not fall behind it again.
            self._flushed_through = max(self._flushed_through, state.retired)


def retire(store: ObjectStore, writer: str) -> Report:
    """Say of a log writer that it is gone for good, so that it no longer holds the watermark back.

    Its state is marked as closed by compare-and-set; its log stays and counts. Should it come back after all, it is
    open again from its next heartbeat on. Twice is the same as once.

    Args:
        store: the root of the offline store that the writer appended to.
        writer: its name.

    Raises:
        NotFound: no writer of that name is known there.
        Refused: it gave a sign of life less than a minute ago, by the store's own clock.
        Corrupt: its state cannot be read.
    """
    now = store.now()
    known = sorted(
        info.key.removeprefix(WRITERS).removesuffix(".json")
        for info in store.list(WRITERS)
        if info.key.endswith(".json")
    )
    if writer not in known:
        listed = ", ".join(known[:_NAMED]) + (f" and {len(known) - _NAMED:,} more" if len(known) > _NAMED else "")
        message = f"no writer {writer} is known in {store.url}"
        raise NotFound(message, hint=f"known are: {listed}" if known else "no writer ever appended there")
    info, state = _read_state(store, writer)
    if state.closed:
        return _retired(state, "unchanged", f"writer {writer} is closed already")
    silence = now - info.modified
    if silence < SILENT_AFTER:
        message = f"writer {writer} gave a sign of life {human_seconds(max(silence.total_seconds(), 0))} ago"
        raise Refused(message, hint="stop it first; a writer that stops cleanly closes itself")
    document = {
        "writer": writer,
        "flushed_through": state.flushed_through.isoformat(),
        "closed": True,
        "retired": now.isoformat(),
    }
    try:
        store.replace(_state_key(writer), json.dumps(document).encode(), expected=info.token)
    except Conflict as error:
        message = f"writer {writer} gave a sign of life just now"
        raise Refused(message, hint="stop it first; a writer that stops cleanly closes itself") from error
    return _retired(
        state,
        "changed",
        f"writer {writer} retired after {human_seconds(silence.total_seconds())} of silence; "
        "the next push moves the watermark on",
    )


def _retired(state: WriterState, verdict: Literal["changed", "unchanged"], sentence: str) -> Report:
    return Report(
        noun="offline",
        name=state.writer,
        verdict=verdict,
        sentence=sentence,
        details={"writer": state.writer, "flushed_through": state.flushed_through.isoformat()},
    )


def _state_key(writer: str) -> str:
    return f"{WRITERS}{writer}.json"


def _read_state(store: ObjectStore, writer: str) -> tuple[ObjectInfo, WriterState]:
    """Return a writer's state, and the object that it was read from. Raises NotFound, Corrupt."""
    key = _state_key(writer)
    info = store.head(key)
    data = store.get(key, version=info.version)
    try:
        return info, WriterState.from_json(key, json.loads(data), seen=info.modified)
    except ValueError as error:
        message = f"{key} is no log writer's state"
        raise Corrupt(message, hint="remove it when its writer is gone for good") from error


def encode_log(rows: Sequence[Cell]) -> bytes:
    """Return rows as one Parquet object of the log, with page checksums."""
    table = pa.table(
        [
            [row.entity for row in rows],
            [row.feature for row in rows],
            [row.value for row in rows],
            pa.array([row.event_us for row in rows], pa.int64()).cast(LOG_SCHEMA.field("event_timestamp").type),
            pa.array([row.created_us for row in rows], pa.int64()).cast(LOG_SCHEMA.field("created_timestamp").type),
            [row.value is None for row in rows],
        ],
        schema=LOG_SCHEMA,
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def _steady_clock() -> Callable[[], datetime]:
    """Return a clock that a step of the system's time cannot turn back: a promise once given must hold."""
    began, at = datetime.now(UTC), time.monotonic()
    return lambda: began + timedelta(seconds=time.monotonic() - at)
