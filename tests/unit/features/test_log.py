from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults import FaultyStore
from tests.unit.features.offline_store import logged
from understudy.errors import Conflict, Denied, Refused, Unreachable
from understudy.features.interface import Cell, micros
from understudy.features.log import LogWriter
from understudy.objects.memory import MemoryStore

if TYPE_CHECKING:
    from understudy.objects.interface import ObjectStore

QUICK: dict[str, Any] = {"flush_seconds_max": 0.02, "heartbeat_seconds": 0.05}


def rows_of(store: ObjectStore, writer: str = "w") -> list[Cell]:
    """All rows of a log in the order of its objects."""
    rows = []
    for info in store.list(f"log/{writer}/"):
        for row in pq.read_table(pa.BufferReader(store.get(info.key))).to_pylist():
            moments = micros(row["event_timestamp"]), micros(row["created_timestamp"])
            rows.append(Cell(row["entity"], row["feature"], row["value"], *moments))
    return rows


def state_of(store: ObjectStore, writer: str = "w") -> dict[str, Any]:
    state: dict[str, Any] = json.loads(store.get(f"writers/{writer}.json"))
    return state


def test_what_is_acknowledged_is_in_the_log() -> None:
    store = MemoryStore()
    with LogWriter(store, "w", **QUICK) as log:
        log.append([logged("u", "n", "1", 0), logged("u", "m", None, 1)])
        assert [logged("u", "n", "1", 0), logged("u", "m", None, 1)] == rows_of(store)


def test_a_writer_is_announced_before_its_first_row() -> None:
    store = MemoryStore()
    with LogWriter(store, "w", heartbeat_seconds=60):
        assert not state_of(store)["closed"]


def test_writers_that_come_together_share_an_object() -> None:
    store = MemoryStore()
    with LogWriter(store, "w", flush_seconds_max=0.2, heartbeat_seconds=60) as log, ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda number: log.append([logged("u", str(number), "1", 0)]), range(20)))
        assert 1 == len(list(store.list("log/")))
        assert 20 == len(rows_of(store))


def test_many_rows_do_not_wait_for_company() -> None:
    store = MemoryStore()
    with LogWriter(store, "w", flush_seconds_max=60, flush_rows_max=10, heartbeat_seconds=60) as log:
        log.append([logged("u", str(number), "1", 0) for number in range(10)])
        assert 10 == len(rows_of(store))


def test_objects_are_numbered_on_after_a_restart() -> None:
    store = MemoryStore()
    for number in range(3):
        with LogWriter(store, "w", **QUICK) as log:
            log.append([logged("u", "n", str(number), number)])
    assert [f"log/w/{number:08d}.parquet" for number in (1, 2, 3)] == [info.key for info in store.list("log/")]
    assert ["0", "1", "2"] == [row.value for row in rows_of(store)]


def test_the_heartbeat_goes_on_when_nothing_is_written() -> None:
    store = MemoryStore()
    with LogWriter(store, "w", **QUICK):
        first = datetime.fromisoformat(state_of(store)["flushed_through"])
        time.sleep(0.2)
        assert datetime.fromisoformat(state_of(store)["flushed_through"]) > first
        assert [] == rows_of(store)


def test_a_closed_writer_says_so_and_takes_nothing_more() -> None:
    store = MemoryStore()
    log = LogWriter(store, "w", **QUICK)
    log.close()
    log.close()
    assert state_of(store)["closed"]
    with pytest.raises(Refused):
        log.append([logged("u", "n", "1", 0)])


def test_closing_flushes_what_waits() -> None:
    store = MemoryStore()
    log = LogWriter(store, "w", flush_seconds_max=60, heartbeat_seconds=60)
    waiting = threading.Thread(target=log.append, args=([logged("u", "n", "1", 0)],))
    waiting.start()
    while not log._open.rows:
        time.sleep(0.001)
    log.close()
    waiting.join(5)
    assert ["1"] == [row.value for row in rows_of(store)]


@pytest.mark.parametrize("after", [False, True])
def test_a_store_that_fails_for_a_while_loses_and_doubles_nothing(*, after: bool) -> None:
    memory = MemoryStore()
    store = FaultyStore(memory)
    with LogWriter(store, "w", **QUICK) as log:
        store.fail("create", nth=1, after=after).fail("create", nth=2, after=after).fail("put", nth=3)
        for number in range(4):
            log.append([logged("u", "n", str(number), number)])
    assert ["0", "1", "2", "3"] == [row.value for row in rows_of(memory)]
    assert state_of(memory)["closed"]


def test_the_watermark_waits_for_a_flush_that_does_not_come_through() -> None:
    memory = MemoryStore()
    store = FaultyStore(memory)
    log = LogWriter(store, "w", **QUICK)
    log.append([logged("u", "n", "0", 0)])
    store.fail("create", nth=None)
    failures: list[BaseException] = []

    def append() -> None:
        try:
            log.append([logged("u", "n", "1", 1)])
        except Unreachable as error:
            failures.append(error)

    began = log._clock()
    waiting = threading.Thread(target=append)
    waiting.start()
    time.sleep(0.3)
    assert log.flushed_through < log._clock()
    assert (log.flushed_through - began).total_seconds() < 0.1
    log.close(timeout_seconds=0.1)
    waiting.join(5)
    assert 1 == len(failures)
    assert ["0"] == [row.value for row in rows_of(memory)]


def test_what_is_refused_is_told_and_the_writer_goes_on() -> None:
    memory = MemoryStore()
    store = FaultyStore(memory).fail("create", nth=1, error=lambda: Denied("no"))
    with LogWriter(store, "w", **QUICK) as log:
        with pytest.raises(Denied):
            log.append([logged("u", "n", "1", 0)])
        log.append([logged("u", "n", "2", 0)])
    assert ["2"] == [row.value for row in rows_of(memory)]


def test_a_second_writer_of_the_same_name_is_found_out() -> None:
    store = MemoryStore()
    one, two = LogWriter(store, "w", **QUICK), LogWriter(store, "w", **QUICK)
    one.append([logged("u", "n", "1", 0)])
    with pytest.raises(Conflict, match="someone else"):
        two.append([logged("u", "n", "2", 0)])
    one.close()
    two.close()


def test_a_name_that_is_no_key_is_refused() -> None:
    with pytest.raises(Refused):
        LogWriter(MemoryStore(), "a/b")


def test_every_row_acknowledged_before_the_promise_is_in_the_log() -> None:
    """Read the promise first, then the log, as a replicator does, while writers are at work."""
    store = MemoryStore()
    acknowledged: list[tuple[datetime, str]] = []
    stop = threading.Event()
    with LogWriter(store, "w", **QUICK) as log:

        def write(writer: int) -> None:
            number = 0
            while not stop.is_set():
                name = f"{writer}-{number}"
                log.append([logged("u", name, "1", 0)])
                acknowledged.append((log._clock(), name))
                number += 1

        with ThreadPoolExecutor(3) as pool:
            for writer in range(3):
                pool.submit(write, writer)
            for _ in range(20):
                time.sleep(0.02)
                through = datetime.fromisoformat(state_of(store)["flushed_through"])
                held = {row.feature for row in rows_of(store)}
                assert {name for moment, name in list(acknowledged) if moment < through} <= held
            stop.set()
    assert len(acknowledged) > 10
