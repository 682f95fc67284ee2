from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.faults import FaultyStore
from tests.unit.features.offline_store import at, logged
from understudy.errors import Conflict, Corrupt, Denied, NotFound, Refused, Unreachable
from understudy.features.interface import Cell, micros
from understudy.features.log import LogWriter, retire
from understudy.objects.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.objects.interface import ObjectInfo, ObjectStore

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
        store.fail("create", nth=1, after=after).fail("create", nth=2, after=after).fail("replace", nth=3)
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


@pytest.mark.slow
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


def dead_writer(*, died: float = 0, now: float) -> MemoryStore:
    """Return an offline store whose writer gave its last sign of life then, in seconds after noon."""
    store = MemoryStore("lake", clock=lambda: at(died))
    state = {"writer": "w", "flushed_through": at(died).isoformat(), "closed": False}
    store.put("writers/w.json", json.dumps(state).encode())
    store._clock = lambda: at(now)
    return store


def test_a_dead_writer_is_retired_once() -> None:
    store = dead_writer(now=60)
    report = retire(store, "w")
    assert "writer w retired after 1m00s of silence; the next push moves the watermark on" == report.sentence
    assert {
        "writer": "w",
        "flushed_through": at(0).isoformat(),
        "closed": True,
        "retired": at(60).isoformat(),
    } == state_of(store)
    again = retire(store, "w")
    assert ("unchanged", "writer w is closed already") == (again.verdict, again.sentence)


def test_a_writer_that_gives_signs_of_life_is_not_retired() -> None:
    store = dead_writer(now=59)
    with pytest.raises(Refused, match="writer w gave a sign of life 59s ago"):
        retire(store, "w")
    assert not state_of(store)["closed"]


@pytest.mark.parametrize("name", ["x", "../w", ""])
def test_a_writer_that_is_not_known_is_not_retired(name: str) -> None:
    store = dead_writer(now=99)
    with pytest.raises(NotFound, match="is known in") as caught:
        retire(store, name)
    assert "known are: w" == caught.value.hint
    assert ["writers/w.json"] == [info.key for info in store.list()]


def test_a_state_that_cannot_be_read_is_told() -> None:
    store = dead_writer(now=0)
    store.put("writers/w.json", b"{")
    with pytest.raises(Corrupt, match=r"writers/w\.json is no log writer's state"):
        retire(store, "w")


def test_a_sign_of_life_at_the_last_moment_wins_over_the_retirement() -> None:
    class Late(MemoryStore):
        def replace(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
            self.put(key, alive)
            return super().replace(key, data, expected=expected)

    alive = json.dumps({"writer": "w", "flushed_through": at(99).isoformat(), "closed": False}).encode()
    store = Late("lake", clock=lambda: at(0))
    store.put("writers/w.json", alive)
    store._clock = lambda: at(99)
    with pytest.raises(Refused, match="gave a sign of life just now"):
        retire(store, "w")
    assert alive == store.get("writers/w.json")


def until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_a_retired_writer_that_comes_back_is_open_again_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    store._clock = lambda: datetime.now(UTC)
    with LogWriter(store, "w", flush_seconds_max=0.02, heartbeat_seconds=0.5) as log:
        # Its clock stood still with it: the retirement is later than all that it ever promised.
        store._clock = lambda: datetime.now(UTC) + timedelta(hours=1)
        retired = retire(store, "w")
        assert "changed" == retired.verdict
        moment = datetime.fromisoformat(state_of(store)["retired"])
        log.append([logged("u", "n", "1", 0)])
        until(lambda: not state_of(store)["closed"])
        assert "retired" not in state_of(store)
        assert moment <= datetime.fromisoformat(state_of(store)["flushed_through"])
        assert ["1"] == [row.value for row in rows_of(store)]
    assert state_of(store)["closed"]
    assert [f"the writer w was retired at {moment.isoformat()} and is back"] == [
        record.message for record in caplog.records if "retired" in record.message
    ]


def test_a_retired_writer_that_starts_again_is_open() -> None:
    store = dead_writer(now=99)
    retire(store, "w")
    with LogWriter(store, "w", heartbeat_seconds=60, clock=lambda: at(50)):
        assert (False, at(99).isoformat()) == (state_of(store)["closed"], state_of(store)["flushed_through"])


@pytest.mark.parametrize("change", ["removed", "not JSON"])
def test_a_heartbeat_that_others_meddled_with_is_written_anew(change: str) -> None:
    store = MemoryStore()
    with LogWriter(store, "w", **QUICK):
        store.delete("writers/w.json") if change == "removed" else store.put("writers/w.json", b"{")

        def mended() -> bool:
            try:
                return not state_of(store)["closed"]
            except (NotFound, ValueError):
                return False

        until(mended)


def test_a_heartbeat_whose_answer_was_lost_is_no_conflict() -> None:
    memory = MemoryStore()
    store = FaultyStore(memory).fail("replace", nth=2, after=True)
    with LogWriter(store, "w", **QUICK):
        until(lambda: store.calls["replace"] > 4)
    assert state_of(memory)["closed"]
