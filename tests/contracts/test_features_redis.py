"""What Redis alone can do to features: its own refusals, evictions, scans and half-finished removals."""

from __future__ import annotations

import random
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
import redis

from sandbox.process import free_port
from tests.contracts.test_features import cell, new_name
from tests.faults import LossyProxy
from tests.redis_fixture import HOST, launch_redis
from understudy.errors import (
    Corrupt,
    Denied,
    NotFound,
    Throttled,
    UnderstudyError,
    Unreachable,
    Unsupported,
)
from understudy.features.interface import Pointer
from understudy.features.redis import RedisStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECRET = "planted-s3cret"


@pytest.fixture
def store(redis_endpoint: str) -> RedisStore:
    return open_store(redis_endpoint, new_name())


@pytest.fixture
def keys(redis_endpoint: str) -> redis.Redis:
    """The server itself, as its owner sees it."""
    return connect(redis_endpoint)


def open_store(endpoint: str, name: str = "features", *, user: str = "", password: str | None = None) -> RedisStore:
    at = f"{user}@" if user else ""
    return RedisStore(f"redis://{at}{endpoint}/0?prefix={name}", password=password)


def connect(endpoint: str, **options: str) -> redis.Redis:
    host, _, port = endpoint.partition(":")
    return redis.Redis(host, int(port), **options)


def keys_of(keys: redis.Redis, store: RedisStore) -> list[bytes]:
    return sorted(keys.scan_iter(f"{store.name}:*"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again as often as ever, without waiting long."""
    monkeypatch.setattr("understudy.objects.attempts._THROTTLED_WAITS", (0.01,) * 5)
    monkeypatch.setattr("understudy.objects.attempts._UNREACHABLE_WAITS", (0.01,) * 2)


# -- keys -------------------------------------------------------------------------------------------------------------


def test_a_dropped_generation_leaves_no_key(store: RedisStore, keys: redis.Redis) -> None:
    store.create_generation(1)
    store.create_generation(2)
    store.fill(1, [cell(entity=f"user:{number}") for number in range(1_200)])
    store.fill(2, [cell()])
    store.drop_generation(1)
    assert [cell()] == list(store.scan(2))
    store.drop_generation(2)
    assert [] == keys_of(keys, store)


def test_what_a_killed_removal_left_is_neither_seen_nor_kept(store: RedisStore, keys: redis.Redis) -> None:
    store.create_generation(1)
    store.fill(1, [cell(entity=f"user:{number}") for number in range(50)])
    keys.hdel(f"{store.name}:generations", "1")  # as far as a removal comes before its keys go
    store.create_generation(1)
    assert [] == list(store.scan(1))
    assert {} == store.read(1, "user:7")
    store.fill(1, [cell()])
    assert [cell()] == list(store.scan(1))
    assert 3 == len(keys_of(keys, store)), "the generations, the tokens and one entity"


def test_a_reader_that_knew_a_generation_of_the_same_number_sees_the_new_one(
    redis_endpoint: str, store: RedisStore, keys: redis.Redis
) -> None:
    other = open_store(redis_endpoint, store.name)
    store.create_generation(1)
    store.fill(1, [cell(value="1")])
    assert "1" == other.read(1, "user:1")["clicks"].value
    store.drop_generation(1)
    for call in (lambda: other.write_newer(1, [cell()]), lambda: other.read(1, "user:1")):
        with pytest.raises(NotFound):
            call()
    assert [] == keys_of(keys, store)
    store.create_generation(1)
    store.fill(1, [cell(value="2")])
    assert "2" == other.read(1, "user:1")["clicks"].value
    assert "2" == other.read_keys(1, [("user:1", "clicks")])["user:1", "clicks"].value
    assert 1 == other.write_newer(1, [cell(value="3", event=1)])


def test_a_generation_that_is_dropped_during_a_scan_is_not_taken_for_a_smaller_one(store: RedisStore) -> None:
    store.create_generation(1)
    store.fill(1, [cell(entity=f"user:{number}") for number in range(2_000)])
    cells = store.scan(1)
    next(cells)
    store.drop_generation(1)
    with pytest.raises(NotFound):
        list(cells)


def test_a_batch_that_arrives_again_late_does_not_undo_a_live_write(store: RedisStore) -> None:
    store.create_generation(1)
    store.fill(1, [cell(value="1")])
    store.write_newer(1, [cell(value="2", event=5)])
    store.fill(1, [cell(value="1")])
    assert "2" == store.read(1, "user:1")["clicks"].value


def test_other_keys_of_the_database_are_neither_read_nor_removed(store: RedisStore, keys: redis.Redis) -> None:
    beside = f"{store.name}x:ab:user:1"
    keys.set(beside, "theirs")
    store.create_generation(1)
    store.fill(1, [cell()])
    assert [cell()] == list(store.scan(1))
    store.drop_generation(1)
    assert b"theirs" == keys.getdel(beside)


def test_what_something_else_wrote_is_corrupt(store: RedisStore, keys: redis.Redis) -> None:
    store.create_generation(1)
    store.fill(1, [cell()])
    (name,) = [key for key in keys_of(keys, store) if b"user:1" in key]
    keys.hset(name.decode(), "clicks", "7")
    with pytest.raises(Corrupt, match="user:1/clicks holds is no version"):
        store.read(1, "user:1")
    keys.set(name.decode(), "7")
    with pytest.raises(Corrupt, match="choose another one") as refused:
        store.read(1, "user:1")
    assert "user:1" not in shown(refused.value), "an entity may be a person"


def test_a_server_that_forgot_the_scripts_gets_them_again(store: RedisStore, keys: redis.Redis) -> None:
    store.create_generation(1)
    store.write_newer(1, [cell(value="1")])
    keys.script_flush()
    assert 1 == store.write_newer(1, [cell(value="2", event=1)])


def test_cells_are_ordered_by_bytes_as_versions_are(store: RedisStore) -> None:
    """Each digit of each time decides, and a tombstone comes last among equals: as in ``version_of``."""
    store.create_generation(1)
    random.seed(5)
    for number in range(60):
        entity = f"user:{number}"
        bit = 1 << random.randrange(50)
        older = cell(entity=entity, event=-bit if number % 2 else 0, created=-bit, value=str(number))
        newer = cell(entity=entity, value=None if number % 3 else "0")
        assert [1, 1, 0] == [store.write_newer(1, [each]) for each in (older, newer, older)]
        assert newer == store.read(1, entity)["clicks"]


def test_another_server_in_the_middle_of_a_scan_begins_it_anew(tmp_path: Path) -> None:
    first, primary = launch_redis(tmp_path / "first")
    second, replica = launch_redis(tmp_path / "second", "--replicaof", *first.split(":"))
    proxy = LossyProxy(f"tcp://{first}")
    try:
        store = open_store(proxy.url.removeprefix("http://"))
        store.create_generation(1)
        cells = [cell(entity=f"user:{number}") for number in range(3_000)]
        store.fill(1, cells)
        connect(first).wait(1, 5_000)
        scanning = store.scan(1)
        found = {next(scanning) for _ in range(600)}
        connect(second).replicaof("NO", "ONE")
        proxy._upstream = (HOST, int(second.partition(":")[2]))
        primary.kill()
        found.update(scanning)
        assert set(cells) == found
    finally:
        proxy.close()
        primary.kill()
        replica.kill()


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_dead_server_is_noticed_within_seconds() -> None:
    store = open_store(f"{HOST}:{free_port(HOST)}")
    started = time.monotonic()
    calls: tuple[Callable[[], object], ...] = (store.pointer, store.generations, lambda: list(store.scan(1)))
    for call in calls:
        with pytest.raises(Unreachable, match="Connection refused") as refused:
            call()
        assert "check the address" in refused.value.hint
    assert 3 * 5 > time.monotonic() - started


def test_a_server_that_is_silent_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.features.redis._CALL_SECONDS", 0.2)
    with socket.create_server((HOST, 0)) as silent:
        store = open_store(f"{HOST}:{silent.getsockname()[1]}")
        with pytest.raises(Unreachable, match="Timeout"):
            store.pointer()


def test_what_is_no_redis_is_told(moto_url: str) -> None:
    with pytest.raises(Unreachable, match=r"Redis at .* did not read the pointer"):
        open_store(moto_url.removeprefix("http://")).pointer()


def test_wrong_passwords_are_denied_and_none_is_shown(start_redis: Callable[..., str]) -> None:
    endpoint = start_redis("--requirepass", SECRET)
    for password in (None, f"not-{SECRET}"):
        with pytest.raises(Denied) as denied:
            open_store(endpoint, password=password).pointer()
        assert "check user and password of the pair" in denied.value.hint
        assert SECRET not in shown(denied.value)
    opened = open_store(endpoint, password=SECRET)
    assert opened.pointer() is None
    assert SECRET not in repr(opened.config)


def test_a_user_of_an_access_list_needs_no_more_than_the_hint_says(start_redis: Callable[..., str]) -> None:
    endpoint = start_redis()
    admin = connect(endpoint)
    granted = ["+@read", "+@write", "+@scripting", "+info", "+scan"]
    admin.execute_command("ACL", "SETUSER", "serving", "on", f">{SECRET}", "~features:*", *granted)
    store = open_store(endpoint, user="serving", password=SECRET)
    store.create_generation(1)
    store.fill(1, [cell()])
    store.write_newer(1, [cell(event=1)])
    store.move_pointer(Pointer(revision=1, generation=1, sequence=1), expected=None)
    assert [cell(event=1)] == list(store.scan(1)) == list(store.read_keys(1, [cell().key]).values())
    store.create_generation(2)
    store.drop_generation(1)
    for denied in ("-@write", "-@scripting", "-info"):
        admin.execute_command("ACL", "SETUSER", "serving", denied)
        with pytest.raises(Denied) as refused:
            store.create_generation(3)
        assert " ".join(granted) in refused.value.hint
    with pytest.raises(Denied):
        open_store(endpoint, "others", user="serving", password=SECRET).pointer()


@pytest.mark.usefixtures("impatient")
def test_a_full_server_refuses_and_keeps_what_it_has(start_redis: Callable[..., str]) -> None:
    endpoint = start_redis("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    store = open_store(endpoint)
    store.create_generation(1)
    store.fill(1, [cell()])
    store.create_generation(2)
    with pytest.raises(Throttled, match="Raise maxmemory") as refused:
        store.fill(2, (cell(entity=f"user:{number}", value='"' + "x" * 500 + '"') for number in range(20_000)))
    assert refused.value.message.endswith("did not write cells: OOM command not allowed when used memory > 'maxmemory'")
    assert [cell()] == list(store.scan(1))
    store.drop_generation(2)
    assert [1] == store.generations()
    assert 1 == store.write_newer(1, [cell(value="2", event=1)])


def test_a_server_that_would_evict_features_is_refused(start_redis: Callable[..., str]) -> None:
    store = open_store(start_redis("--maxmemory", "50mb", "--maxmemory-policy", "allkeys-lru"))
    with pytest.raises(Unsupported, match="allkeys-lru: when full, it would drop features"):
        store.create_generation(1)
    assert [] == store.generations()
    open_store(start_redis("--maxmemory", "50mb", "--maxmemory-policy", "volatile-lru")).create_generation(1)
    open_store(start_redis("--maxmemory-policy", "allkeys-lru")).create_generation(1)


@pytest.mark.usefixtures("impatient")
def test_a_replica_says_that_it_is_one(start_redis: Callable[..., str]) -> None:
    primary = start_redis()
    store = open_store(primary)
    store.create_generation(1)
    endpoint = start_redis("--replicaof", *primary.split(":"))
    connect(primary).wait(1, 5_000)
    replica = open_store(endpoint)
    calls: tuple[Callable[[], object], ...] = (
        lambda: replica.write_newer(1, [cell()]),
        lambda: replica.create_generation(2),
        lambda: replica.drop_generation(1),
        lambda: replica.move_pointer(Pointer(revision=1, generation=1, sequence=1), expected=None),
    )
    for call in calls:
        with pytest.raises(Unreachable, match="this one is a replica"):
            call()
    assert [1] == store.generations()


def test_a_replica_without_its_primary_says_so(start_redis: Callable[..., str]) -> None:
    endpoint = start_redis("--replicaof", HOST, str(free_port(HOST)), "--replica-serve-stale-data", "no")
    with pytest.raises(Unreachable, match="wait for its return"):
        open_store(endpoint).pointer()


def test_a_server_that_still_loads_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.objects.attempts._UNREACHABLE_WAITS", ())  # else it would see the end of it
    endpoint, server = launch_redis(tmp_path, "--rdbcompression", "no")
    filled = connect(endpoint)
    for number in range(200):  # it looks at its clients after every 2 MB
        filled.set(f"other:{number}", random.Random(number).randbytes(100_000))
    filled.save()
    server.kill()
    endpoint, server = launch_redis(tmp_path, "--key-load-delay", "20000")
    try:
        with pytest.raises(Unreachable, match="Wait until it has loaded its data"):
            open_store(endpoint).pointer()
    finally:
        server.kill()


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_busy_with_a_script_asks_for_patience(start_redis: Callable[..., str]) -> None:
    endpoint = start_redis("--lua-time-limit", "20")
    store = open_store(endpoint)
    store.create_generation(1)

    def hold() -> None:
        with pytest.raises(redis.ResponseError, match="killed"):
            connect(endpoint).eval("while true do end", 0)

    held = threading.Thread(target=hold)
    held.start()
    time.sleep(0.2)
    try:
        with pytest.raises(Throttled, match="busy running a script"):
            store.write_newer(1, [cell()])
    finally:
        connect(endpoint).script_kill()
        held.join()
    assert 1 == store.write_newer(1, [cell()])


def test_a_full_list_of_clients_asks_for_patience(start_redis: Callable[..., str], impatient: None) -> None:
    del impatient
    endpoint = start_redis("--maxclients", "1")
    first = open_store(endpoint)
    assert first.pointer() is None
    with pytest.raises(Throttled, match="max number of clients"):
        open_store(endpoint).pointer()


def test_a_node_of_a_cluster_is_refused_in_one_sentence(start_redis: Callable[..., str]) -> None:
    port = next(port for port in iter(lambda: free_port(HOST), None) if port < 55_536)  # it takes port + 10,000 too
    endpoint = start_redis("--cluster-enabled", "yes", "--cluster-require-full-coverage", "no", port=port)
    calls: tuple[Callable[[RedisStore], object], ...] = (RedisStore.pointer, lambda store: store.create_generation(1))
    for call in calls:
        with pytest.raises(Unsupported, match="is a node of a Redis Cluster") as refused:
            call(open_store(endpoint))
        assert "cluster mode disabled" in refused.value.hint
    connect(endpoint).execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
    with pytest.raises(Unsupported, match="is a node of a Redis Cluster"):
        open_store(endpoint).create_generation(1)


def test_a_value_beyond_the_servers_limit_is_refused(start_redis: Callable[..., str]) -> None:
    store = open_store(start_redis("--proto-max-bulk-len", "1mb"))
    store.create_generation(1)
    with pytest.raises(UnderstudyError) as refused:
        store.fill(1, [cell(value='"' + "x" * (2 << 20) + '"')])
    assert "xxx" not in shown(refused.value)
    assert [] == list(store.scan(1))


def test_an_idle_connection_that_was_cut_is_made_again(store: RedisStore, keys: redis.Redis) -> None:
    store.create_generation(1)
    store.fill(1, [cell(entity=f"user:{number}") for number in range(5_000)])  # several connections at once
    for client in keys.client_list():
        if client["cmd"] != "client":
            keys.client_kill_filter(_id=client["id"])
    assert [1] == store.generations()
    assert 5_000 == len(set(store.scan(1)))


def test_a_lost_answer_to_a_move_of_the_pointer_is_success(redis_endpoint: str) -> None:
    proxy = LossyProxy(f"tcp://{redis_endpoint}")
    store = open_store(proxy.url.removeprefix("http://"), new_name())
    first = Pointer(revision=1, generation=1, sequence=1)
    store.move_pointer(first, expected=None)
    proxy._cues.append((b"*6\r\n$7\r\nEVALSHA", 0))
    store.move_pointer(first.moved(generation=2), expected=first)
    assert 1 == proxy.struck
    assert first.moved(generation=2) == store.pointer()
    proxy.close()


def shown(error: BaseException) -> str:
    """Everything of an error that a person or a log can come to see, its causes included."""
    texts: list[str] = []
    seen: BaseException | None = error
    while seen is not None:
        texts.append(f"{seen} {seen!r} {getattr(seen, 'hint', '')}")
        seen = seen.__cause__ or seen.__context__
    return " ".join(texts)
