"""An online store that is throttled, or cut off, in the middle of a rebuild: finished, or a clear error.

Never is a value visible that is not the truth behind the pointer.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import redis
from grpc import StatusCode

from sandbox.bigtable_server import Refusal, Server, serve
from tests.bigtable_fixture import launch_bigtable
from tests.contracts.test_features import ask, cell, new_name, url_of
from tests.dynamodb_faults import BusyDynamodb
from tests.real_servers import real
from tests.toxiproxy import Proxy, proxied
from tests.unit.features.offline_store import at, logged, put_history, put_log
from understudy.errors import Throttled, Transient
from understudy.features.live import LiveFeatures, begin
from understudy.features.rebuild import rebuild
from understudy.features.replicate import replicate_offline
from understudy.features.truth import read_offline
from understudy.features.verify import verify
from understudy.objects.memory import MemoryStore
from understudy.opening import open_features
from understudy.settings import Access
from understudy.vault.store import open_vault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from understudy.features.interface import OnlineStore
    from understudy.vault.store import Vault

HOST = "127.0.0.1"
VIEW = "user_features"
ENTITIES = 150
HELD_SECONDS = 0.6
#: Long enough for gRPC's own patience to have grown beyond the other.
AWAY_SECONDS = 9.0
BACK_SECONDS = 1.5


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches, so that a rebuild of a few cells has a middle; and no long waits between tries."""
    monkeypatch.setattr("understudy.features.redis.BATCH_CELLS", 50)
    monkeypatch.setattr("understudy.features.bigtable._BATCH_ROWS", 50)
    monkeypatch.setattr("understudy.objects.attempts._THROTTLED_WAITS", (0.1, 0.2, 0.4, 0.8))
    monkeypatch.setattr("understudy.clouds.aws.READ_SECONDS", 8)
    monkeypatch.setattr("understudy.features.redis._CALL_SECONDS", 3.0)
    for name in ("_CALL_SECONDS", "_BULK_SECONDS", "_SCAN_SECONDS", "_ADMIN_SECONDS"):
        monkeypatch.setattr(f"understudy.features.bigtable.{name}", 3.0)


@dataclass
class Busy:
    """A store whose server takes no writes from ``begin`` to ``end``."""

    store: OnlineStore
    begin: Callable[[], None]
    end: Callable[[], None]
    refused: Callable[[], int]


class BusyBigtable(Server):
    """The sandbox's, refusing writes as Bigtable does beyond a cluster's capacity."""

    def __init__(self) -> None:
        super().__init__()
        self.busy = False
        self.refused = 0

    def mutate_rows(self, request: Any, context: Any) -> Iterator[Any]:
        self._refuse()
        return super().mutate_rows(request, context)

    def check_and_mutate_row(self, request: Any, context: Any) -> Any:
        self._refuse()
        return super().check_and_mutate_row(request, context)

    def _refuse(self) -> None:
        if self.busy:
            self.refused += 1
            raise Refusal(StatusCode.RESOURCE_EXHAUSTED, "Quota exceeded")


def busy_dynamodb(request: pytest.FixtureRequest) -> Busy:
    proxy = BusyDynamodb(request.getfixturevalue("moto_url"))
    request.addfinalizer(proxy.close)
    store = open_features(f"dynamodb://{new_name()}", Access(endpoints={"dynamodb": proxy.url}))
    writes = {"BatchWriteItem", "PutItem"}
    return Busy(
        store, lambda: proxy.throttled.update(writes), proxy.throttled.clear, lambda: sum(proxy.refused.values())
    )


def busy_bigtable(_request: pytest.FixtureRequest) -> Busy:
    tables = BusyBigtable()
    server, port = serve(HOST, 0, tables=tables)
    _request.addfinalizer(lambda: server.stop(grace=None))
    access = Access(cloud="gcp", project="acme", endpoints={"bigtable": f"{HOST}:{port}"})

    def turn(*, busy: bool) -> None:
        tables.busy = busy

    store = open_features(f"bigtable://acme/online/{new_name()}", access)
    return Busy(store, lambda: turn(busy=True), lambda: turn(busy=False), lambda: tables.refused)


def busy_redis(request: pytest.FixtureRequest) -> Busy:
    endpoint = request.getfixturevalue("start_redis")("--lua-time-limit", "5")
    host, _, port = endpoint.partition(":")
    store = open_features(f"redis://{endpoint}/0?prefix=features", Access())

    def hold() -> None:
        with suppress(redis.ResponseError):  # killed
            redis.Redis(host, int(port)).eval("while true do end", 0)

    def begin() -> None:
        threading.Thread(target=hold, daemon=True).start()
        with suppress(redis.ResponseError):  # busy
            while redis.Redis(host, int(port)).ping():
                time.sleep(0.005)

    def end() -> None:
        with suppress(redis.ResponseError):  # not busy
            redis.Redis(host, int(port)).script_kill()

    def refused() -> int:  # a ping of begin is refused too
        return int(redis.Redis(host, int(port)).info("errorstats")["errorstat_BUSY"]["count"]) - 1

    return Busy(store, begin, end, refused)


@pytest.fixture(params=["dynamodb", "bigtable", "redis"])
def busy(request: pytest.FixtureRequest) -> Iterator[Busy]:
    made = {"dynamodb": busy_dynamodb, "bigtable": busy_bigtable, "redis": busy_redis}[request.param](request)
    yield made
    made.end()


@dataclass
class World:
    """An offline store with a first state that is online, and a second that is in the vault."""

    vault: Vault
    before: dict[str, str]
    after: dict[str, str]

    def check(self, store: OnlineStore) -> int:
        """Fail unless what is live is the whole truth of one of the two states; return its sequence."""
        verify(self.vault, store, view=VIEW)
        pointer = store.pointer()
        assert pointer is not None
        expected = {1: self.before, 2: self.after}[pointer.sequence]
        assert expected == LiveFeatures(store).read("user:00007")
        return pointer.sequence


def make_world(store: OnlineStore) -> World:
    lake = MemoryStore("lake", clock=lambda: at(100))
    put_history(lake, ENTITIES)
    vault = open_vault(MemoryStore("vault"))
    replicate_offline(lake, vault, view=VIEW)
    rebuild(vault, store, view=VIEW)
    before = LiveFeatures(store).read("user:00007")
    put_log(lake, 1, [logged("user:00007", "clicks", "77", 50), logged("user:00007", "city", None, 51)])
    put_history(lake, ENTITIES // 2, name="day2", offset=60)
    replicate_offline(lake, vault, view=VIEW)
    whole = {each.feature: each.value for each in read_offline(vault, view=VIEW) if each.entity == "user:00007"}
    return World(vault, before, {name: value for name, value in whole.items() if value is not None})


def finish(world: World, store: OnlineStore) -> None:
    """A next run completes, and leaves nothing half filled."""
    rebuild(world.vault, store, view=VIEW, full=True)
    assert 2 == world.check(store)
    pointer = store.pointer()
    assert pointer is not None
    assert pointer.carry_from is None
    assert max(store.generations()) == pointer.generation
    assert 2 >= len(store.generations())
    assert read_offline(world.vault, view=VIEW) == sorted(set(store.scan(pointer.generation)))


# -- throttled --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_rebuild_outlasts_a_store_that_is_busy_for_a_moment(busy: Busy) -> None:
    world = make_world(busy.store)
    timers: list[threading.Timer] = []

    def begin(*_: object) -> None:
        if not timers:
            busy.begin()
            timers.append(threading.Timer(HELD_SECONDS, busy.end))
            timers[0].start()

    rebuild(world.vault, busy.store, view=VIEW, full=True, progress=begin)
    assert 0 < busy.refused()
    assert 2 == world.check(busy.store)


@pytest.mark.slow
def test_a_rebuild_of_a_store_that_stays_busy_ends_with_a_clear_error(busy: Busy) -> None:
    world = make_world(busy.store)
    begun: list[bool] = []

    def begin(*_: object) -> None:
        if not begun:
            busy.begin()
            begun.append(True)

    with pytest.raises(Throttled) as refused:
        rebuild(world.vault, busy.store, view=VIEW, full=True, progress=begin)
    assert refused.value.hint
    busy.end()
    assert 1 == world.check(busy.store)
    finish(world, busy.store)


def test_a_live_write_outlasts_a_store_that_is_busy_for_a_moment(busy: Busy) -> None:
    make_world(busy.store)
    live = LiveFeatures(busy.store)
    live.read("user:00007")
    busy.begin()
    timer = threading.Timer(HELD_SECONDS / 2, busy.end)
    timer.start()
    assert 1 == live.write([cell(entity="user:00007", value="1234", event=1 << 40)])
    assert "1234" == live.read("user:00007")["clicks"]
    assert 0 < busy.refused()


@pytest.mark.parametrize("call", ["BatchWriteItem", "BatchGetItem"])
def test_what_dynamodb_left_undone_is_asked_for_again(moto_url: str, call: str) -> None:
    proxy = BusyDynamodb(moto_url)
    store = open_features(f"dynamodb://{new_name()}", Access(endpoints={"dynamodb": proxy.url}))
    cells = [cell(entity=f"user:{number}") for number in range(60)]
    proxy.done_max[call] = 11
    store.create_generation(1)
    assert 60 == store.fill(1, cells)
    assert {each.key: each for each in cells} == store.read_keys(1, [each.key for each in cells])
    assert 0 < proxy.left[call]
    proxy.close()


@pytest.mark.parametrize("call", ["BatchWriteItem", "BatchGetItem"])
def test_a_dynamodb_that_takes_nothing_more_is_given_up(
    moto_url: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("understudy.features.dynamodb._STALLED_SECONDS_MAX", 0.3)
    proxy = BusyDynamodb(moto_url)
    store = open_features(f"dynamodb://{new_name()}", Access(endpoints={"dynamodb": proxy.url}))
    proxy.done_max[call] = 0
    store.create_generation(1)
    with pytest.raises(Throttled, match="took nothing more"):
        store.fill(1, [cell()]) if call == "BatchWriteItem" else store.read_keys(1, [cell().key])
    proxy.close()


@pytest.mark.parametrize("crc", [True, False])
def test_an_answer_of_dynamodb_that_was_cut_is_not_taken_for_an_empty_one(moto_url: str, *, crc: bool) -> None:
    proxy = BusyDynamodb(moto_url)
    proxy.crc = crc
    store = open_features(f"dynamodb://{new_name()}", Access(endpoints={"dynamodb": proxy.url}))
    cells = [cell(entity=f"user:{number}") for number in range(20)]
    begin(store, [])
    proxy.done_max["BatchWriteItem"] = 15
    proxy.cut.update(("GetItem", "BatchWriteItem", "BatchGetItem", "Query", "Scan", "ListTables"))
    assert store.pointer() is not None
    store.fill(1, cells)
    assert {each.key: each for each in cells} == store.read_keys(1, [each.key for each in cells])
    assert {"clicks"} == set(store.read(1, "user:3"))
    assert sorted(cells) == sorted(store.scan(1))
    assert [1] == store.generations()
    assert 0 == proxy.cut.total()
    proxy.close()


@pytest.mark.slow
def test_a_bigtable_that_is_back_is_found_at_once(tmp_path: Path) -> None:
    endpoint, server = launch_bigtable(tmp_path / "log")
    access = Access(cloud="gcp", project="acme", endpoints={"bigtable": endpoint})
    store = open_features(f"bigtable://acme/online/{new_name()}", access)
    assert store.pointer() is None
    server.kill()
    away = time.monotonic()
    while time.monotonic() - away < AWAY_SECONDS:
        with pytest.raises(Transient):
            store.pointer()
    _, server = launch_bigtable(tmp_path / "log", port=int(endpoint.rpartition(":")[2]))
    time.sleep(BACK_SECONDS)
    assert store.pointer() is None
    server.kill()


# -- cut off ----------------------------------------------------------------------------------------------------------

#: How the line fails, and whether a rebuild must get through.
TOXICS: dict[str, tuple[Callable[[Proxy], None], bool]] = {
    "down": (lambda proxy: proxy.down(), False),
    "reset": (lambda proxy: proxy.poison("reset_peer", timeout=0), False),
    "cut-answers": (lambda proxy: proxy.poison("limit_data", bytes=9_000), False),
    "cut-requests": (lambda proxy: proxy.poison("limit_data", stream="upstream", bytes=30_000), False),
    "half-of-them-reset": (lambda proxy: proxy.poison("reset_peer", timeout=50, share=0.5), False),
    "silent": (lambda proxy: proxy.poison("timeout", timeout=0), False),
    "slow": (lambda proxy: proxy.poison("latency", latency=20, jitter=10), True),
    "narrow": (lambda proxy: proxy.poison("bandwidth", rate=400), True),
}


@pytest.fixture(params=[real("redis"), real("dynamodb"), real("bigtable")])
def line(request: pytest.FixtureRequest) -> Iterator[tuple[OnlineStore, OnlineStore, Proxy]]:
    """A store on a real server, the same through Toxiproxy, and that proxy."""
    kind = str(request.param)
    url, access = url_of(request, kind)
    host = next(iter(access.endpoints.values()), url.partition("?")[0]).rpartition("//")[2].partition("/")[0]
    with proxied(ask(request, "toxiproxy", "UNDERSTUDY_TOXIPROXY"), f"tcp://{host}") as proxy:
        through = proxy.url.removeprefix("http://")
        endpoints = {api: address.replace(host, through) for api, address in access.endpoints.items()}
        behind = access.model_copy(update={"endpoints": endpoints})
        name = new_name()
        yield (
            open_features(url.format(name), access),
            open_features(url.replace(host, through).format(name), behind),
            proxy,
        )


@pytest.mark.slow
@pytest.mark.parametrize("toxic", TOXICS)
def test_a_rebuild_over_a_line_that_fails_is_finished_or_says_so(
    line: tuple[OnlineStore, OnlineStore, Proxy], toxic: str
) -> None:
    direct, through, proxy = line
    world = make_world(direct)
    spoil, must_finish = TOXICS[toxic]
    spoilt: list[bool] = []

    def begin(*_: object) -> None:
        if not spoilt:
            spoil(proxy)
            spoilt.append(True)

    error: Transient | None = None
    try:
        rebuild(world.vault, through, view=VIEW, full=True, progress=begin)
    except Transient as raised:
        error = raised
        assert error.hint
    assert [True] == spoilt
    assert not (must_finish and error), error
    assert (2 if error is None else 1) == world.check(direct)
    proxy.heal()
    finish(world, through)
