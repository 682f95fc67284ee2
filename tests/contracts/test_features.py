"""What every online feature store promises, over every adapter.

Memory, DynamoDB (moto), Bigtable (our sandbox) and Redis; with ``--real-servers`` DynamoDB Local and Google's emulator
of Bigtable as well.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.real_servers import real
from understudy.errors import Conflict, NotFound
from understudy.features.interface import Cell, OnlineStore, Pointer, version_of
from understudy.features.live import LiveFeatures, begin
from understudy.features.memory import MemoryFeatures
from understudy.opening import open_features
from understudy.settings import Access

if TYPE_CHECKING:
    from collections.abc import Callable

_numbers = itertools.count(1)
NOON = 1_795_000_000_000_000


STORES = ("memory", "moto", "sandbox", "redis", real("dynamodb"), real("bigtable"))


@pytest.fixture(params=STORES)
def make_store(request: pytest.FixtureRequest) -> Callable[[str], OnlineStore]:
    """Return what opens the store of that name; twice the same name is the same store."""
    kind = str(request.param)
    stores: dict[str, MemoryFeatures] = {}
    if kind == "memory":
        return lambda name: stores.setdefault(name, MemoryFeatures(name))
    url, access = url_of(request, kind)
    return lambda name: open_features(url.format(name), access)


def url_of(request: pytest.FixtureRequest, kind: str) -> tuple[str, Access]:
    """Return how a store on one of the servers is named, with {} for its own name, and reached."""
    if kind in ("moto", "dynamodb"):
        moto = kind == "moto"
        url = request.getfixturevalue("moto_url") if moto else ask(request, kind, "UNDERSTUDY_DYNAMODB_LOCAL")
        return "dynamodb://{}", Access(endpoints={"dynamodb": url})
    if kind == "redis":
        return f"redis://{request.getfixturevalue('redis_endpoint')}/0?prefix={{}}", Access()
    sandbox = kind == "sandbox"
    endpoint = (
        request.getfixturevalue("bigtable_endpoint") if sandbox else ask(request, kind, "UNDERSTUDY_BIGTABLE_EMULATOR")
    )
    return "bigtable://acme/online/{}", Access(cloud="gcp", project="acme", endpoints={"bigtable": endpoint})


def ask(request: pytest.FixtureRequest, server: str, variable: str) -> str:
    found: str = request.getfixturevalue("real_server")(server)[variable]
    return found


@pytest.fixture
def store(make_store: Callable[[str], OnlineStore]) -> OnlineStore:
    return make_store(new_name())


def new_name() -> str:
    return f"features_{os.getpid()}_{next(_numbers)}"


def cell(
    feature: str = "clicks", value: str | None = "1", event: int = 0, created: int = 0, entity: str = "user:1"
) -> Cell:
    return Cell(entity, feature, value, NOON + event, NOON + created)


STRANGE = [
    cell(entity="a#b%c", feature="x#y"),
    cell(entity="a", feature="b#c"),
    cell(entity="a%23b", value='"ü\\n\\u0000"'),
    cell(entity="日本", feature="größe", value="[1.5,null]"),
    cell(entity="a b", value="1e-300"),
    cell(entity="a$", value='""'),
]


def test_what_was_filled_is_scanned_read_and_found_by_key(store: OnlineStore) -> None:
    cells = [*STRANGE, cell("gone", None)]
    store.create_generation(1)
    assert len(cells) == store.fill(1, iter(cells))
    assert sorted(cells) == sorted(store.scan(1))
    assert {each.key: each for each in cells} == store.read_keys(1, [each.key for each in cells])
    for each in cells:
        assert each == store.read(1, each.entity)[each.feature]


def test_an_entity_is_not_mixed_up_with_one_whose_name_begins_alike(store: OnlineStore) -> None:
    store.create_generation(1)
    store.fill(1, [cell(entity="a"), cell(entity="ab"), cell(entity="a#"), cell(entity="a", feature="2")])
    assert {"clicks", "2"} == set(store.read(1, "a"))
    assert {"clicks"} == set(store.read(1, "a#"))
    assert {} == store.read(1, "b")
    assert {} == store.read_keys(1, [("b", "clicks")])


def test_many_cells_survive_bulk_writing(store: OnlineStore) -> None:
    cells = [cell(feature=f"f{number % 3}", entity=f"user:{number // 3}", value=str(number)) for number in range(2_500)]
    store.create_generation(1)
    seen: list[int] = []
    store.fill(1, cells, progress=lambda _what, done, _total, _unit: seen.append(done))
    assert len(cells) == seen[-1]
    assert sorted(cells) == sorted(store.scan(1))
    keys = [each.key for each in cells[::2]]
    assert set(keys) == set(store.read_keys(1, keys))


def test_filling_twice_is_the_same_as_once(store: OnlineStore) -> None:
    store.create_generation(1)
    store.fill(1, STRANGE)
    store.fill(1, STRANGE)
    assert sorted(STRANGE) == sorted(store.scan(1))


def test_generations_are_made_once_listed_and_dropped(store: OnlineStore) -> None:
    assert [] == store.generations()
    store.create_generation(2)
    store.create_generation(11)
    with pytest.raises(Conflict):
        store.create_generation(2)
    assert [2, 11] == store.generations()
    store.drop_generation(2)
    store.drop_generation(2)
    assert [11] == store.generations()


def test_the_pointer_is_no_generation_and_other_names_do_not_count(make_store: Callable[[str], OnlineStore]) -> None:
    name = new_name()
    store, longer = make_store(name), make_store(f"{name}__x")
    longer.create_generation(1)
    store.create_generation(3)
    store.move_pointer(Pointer(revision=1, generation=3, sequence=1), expected=None)
    assert [3] == store.generations()


def test_a_missing_generation_is_not_found(store: OnlineStore) -> None:
    with pytest.raises(NotFound):
        list(store.scan(1))
    with pytest.raises(NotFound):
        store.read(1, "user:1")
    with pytest.raises(NotFound):
        store.read_keys(1, [("user:1", "clicks")])
    with pytest.raises(NotFound):
        store.write_newer(1, [cell()])


def test_a_live_write_wins_only_when_it_is_newer(store: OnlineStore) -> None:
    store.create_generation(1)
    assert 1 == store.write_newer(1, [cell(value="1", event=5, created=5)])
    assert 0 == store.write_newer(1, [cell(value="1", event=5, created=5)])
    assert 0 == store.write_newer(1, [cell(value="9", event=4, created=9)])
    assert 0 == store.write_newer(1, [cell(value="9", event=5, created=4)])
    assert "1" == store.read(1, "user:1")["clicks"].value
    assert 1 == store.write_newer(1, [cell(value="2", event=5, created=6)])
    assert 1 == store.write_newer(1, [cell(value="3", event=6, created=0)])
    assert cell(value="3", event=6, created=0) == store.read(1, "user:1")["clicks"]


def test_times_are_kept_to_the_microsecond(store: OnlineStore) -> None:
    store.create_generation(1)
    store.write_newer(1, [cell(value="1", event=1_001, created=7)])
    assert 1 == store.write_newer(1, [cell(value="2", event=1_002, created=3)])
    assert 0 == store.write_newer(1, [cell(value="3", event=1_001, created=9)])
    assert [cell(value="2", event=1_002, created=3)] == list(store.scan(1))


def test_equal_times_end_the_same_in_any_order(store: OnlineStore) -> None:
    store.create_generation(1)
    rivals = [cell(value=str(number)) for number in range(4)]
    for number, order in enumerate(itertools.permutations(rivals)):
        entity = f"user:{number}"
        for rival in order:
            store.write_newer(1, [rival._replace(entity=entity)])
    winner = max(rivals, key=version_of).value
    assert {winner} == {each.value for each in store.scan(1)}


def test_a_tombstone_hides_the_value_and_keeps_older_writes_out(store: OnlineStore) -> None:
    store.create_generation(1)
    store.write_newer(1, [cell(event=1), cell("views", event=1)])
    assert 1 == store.write_newer(1, [cell(value=None, event=3)])
    assert 0 == store.write_newer(1, [cell(value="7", event=2)])
    assert cell(value=None, event=3) == store.read(1, "user:1")["clicks"]
    assert 1 == store.write_newer(1, [cell(value="8", event=4)])
    assert "8" == store.read(1, "user:1")["clicks"].value


def test_concurrent_writers_leave_the_newest(store: OnlineStore) -> None:
    store.create_generation(1)
    cells = [cell(value=str(number), event=number) for number in range(40)]
    random.Random(7).shuffle(cells)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: store.write_newer(1, [each]), cells))
    assert "39" == store.read(1, "user:1")["clicks"].value


def test_many_live_writes_at_once_say_how_many_were_newer(store: OnlineStore) -> None:
    store.create_generation(1)
    store.fill(1, [cell(entity=f"user:{number}", event=10) for number in range(20)])
    writes = [cell(entity=f"user:{number}", event=number) for number in range(20)]
    assert 9 == store.write_newer(1, writes)


def test_the_pointer_moves_by_compare_and_set(store: OnlineStore) -> None:
    first = Pointer(revision=1, generation=1, sequence=1, digest="aa")
    assert store.pointer() is None
    store.move_pointer(first, expected=None)
    assert first == store.pointer()
    with pytest.raises(Conflict):
        store.move_pointer(first.moved(digest="bb"), expected=None)
    second = first.moved(generation=2, as_of="2026-11-21T19:04:10+00:00", watermark=None, carry_from=1)
    store.move_pointer(second, expected=first)
    with pytest.raises(Conflict):
        store.move_pointer(first.moved(generation=3), expected=first)
    assert second == store.pointer()


def test_a_repeated_move_whose_answer_was_lost_is_success(store: OnlineStore) -> None:
    first = Pointer(revision=1, generation=1, sequence=1)
    store.move_pointer(first, expected=None)
    store.move_pointer(first, expected=None)
    second = first.moved(generation=2)
    store.move_pointer(second, expected=first)
    store.move_pointer(second, expected=first)


def test_of_many_who_move_the_pointer_one_wins(store: OnlineStore) -> None:
    first = Pointer(revision=1, generation=1, sequence=1)
    store.move_pointer(first, expected=None)
    won: list[int] = []
    ready = threading.Barrier(4)

    def move(number: int) -> None:
        ready.wait()
        try:
            store.move_pointer(first.moved(generation=number), expected=first)
        except Conflict:
            return
        won.append(number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(move, range(10, 14)))
    pointer = store.pointer()
    assert pointer is not None
    assert [pointer.generation] == won


def test_live_features_follow_a_swap(make_store: Callable[[str], OnlineStore]) -> None:
    store = make_store(new_name())
    begin(store, [cell(), cell("gone", None)])
    live = LiveFeatures(store, pointer_seconds_max=60)
    assert {"clicks": "1"} == live.read("user:1")
    assert {"clicks": "1"} == live.read("user:1", ["clicks", "gone", "never"])
    pointer = store.pointer()
    assert pointer is not None
    store.create_generation(9)
    store.move_pointer(pointer.moved(generation=9), expected=pointer)
    assert 1 == live.write([cell(value="2", event=9)])
    assert "2" == store.read(9, "user:1")["clicks"].value
    assert {"clicks": "2"} == live.read("user:1")


def test_live_features_survive_that_their_generation_was_dropped(store: OnlineStore) -> None:
    first = begin(store)
    live = LiveFeatures(store, pointer_seconds_max=60)
    assert {} == live.read("user:1")
    store.create_generation(2)
    store.fill(2, [cell()])
    store.move_pointer(first.moved(generation=2), expected=first)
    store.drop_generation(1)
    assert {"clicks": "1"} == live.read("user:1")
