"""The object store's contract, over every adapter: memory first, then files, S3 (moto) and GCS (our sandbox).

With ``--real-servers`` also S3 on versitygw, which stands for MinIO and its like too (path-style addressing, an
endpoint, a region and keys of its own, signatures checked), and GCS on fake-gcs-server.
"""

from __future__ import annotations

import base64
import fcntl
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import google_crc32c
import pytest

from tests.adapters import ADAPTER, fresh_url
from tests.faults import LossyProxy
from tests.real_servers import real
from tests.servers import HOST, OBJECT_SERVERS, launch_gcs, make_gcs_bucket, new_name
from understudy.clouds import aws, gcp
from understudy.errors import Conflict, Corrupt, Denied, NotFound, NotReady, Permanent, Unreachable, Unsupported
from understudy.objects.file import FileStore
from understudy.objects.gcs import GcsStore
from understudy.objects.memory import MemoryStore
from understudy.objects.metered import MeteredStore
from understudy.objects.parts import Passing
from understudy.objects.s3 import S3Store, _NoSuchUpload, _Upload
from understudy.opening import open_store
from understudy.settings import Access
from understudy.transfer.budget import TransferBudget
from understudy.transfer.limit import Bandwidth
from understudy.vault.encryption import EncryptedStore, Encryption, new_key_line
from understudy.vault.store import Vault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.servers import ObjectServer
    from understudy.objects.interface import ObjectStore

UNVERSIONED = "versitygw-unversioned"
#: What holds the traffic between the sites to its limits.
METERED = "metered"
#: The vault's encryption over a store of each kind: what lies there is encrypted, what is read back is not.
ENCRYPTED = "encrypted over "
VENDORS = (
    "memory",
    METERED,
    "file",
    *OBJECT_SERVERS,
    real("versitygw", UNVERSIONED, id=UNVERSIONED),
    ADAPTER,
    *(f"{ENCRYPTED}{vendor}" for vendor in ("memory", "file", "s3", "gcs")),
)
S3_SERVERS = ("s3", real("versitygw"))
PAGE = 7
ODD_KEYS = (
    "with space",
    "hash#tag",
    "per%20cent",
    "plus+and&and=",
    "question?",
    "über/日本/🎭",
    "a'b\"c",
    "dot.",
    "~tilde",
    "(1)[2]*",
)


@pytest.fixture(params=VENDORS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """An empty store of each vendor, below a prefix where the vendor has one."""
    return open_empty(request, str(request.param), tmp_path)


def open_empty(request: pytest.FixtureRequest, vendor: str, tmp_path: Path) -> ObjectStore:
    if vendor.startswith(ENCRYPTED):
        keys = f"{new_key_line()} {new_key_line()}"
        return EncryptedStore(
            open_empty(request, vendor.removeprefix(ENCRYPTED), tmp_path), Encryption("shop", lambda: keys)
        )
    if vendor == "memory":
        return MemoryStore()
    if vendor == METERED:
        budget = TransferBudget(Vault(MemoryStore()), 1 << 50)
        return MeteredStore(MemoryStore(), bandwidth=Bandwidth(1e15), budget=budget)
    if vendor == "file":
        return FileStore(tmp_path)
    if vendor == "adapter":
        return open_store(fresh_url(request), Access())
    server: ObjectServer = request.getfixturevalue("object_server")(vendor.removesuffix("-unversioned"))
    return server.open(server.make_bucket(versioned=vendor != UNVERSIONED), "be low", page_max=PAGE)


@pytest.fixture(params=OBJECT_SERVERS)
def server(request: pytest.FixtureRequest) -> ObjectServer:
    """A server of each vendor, for what needs more than one empty store."""
    return request.getfixturevalue("object_server")(request.param)


# -- writing once -----------------------------------------------------------------------------------------------------


def test_what_was_created_is_read_back(store: ObjectStore) -> None:
    info = store.create("packs/aa/one", b"bytes")
    assert b"bytes" == store.get("packs/aa/one")
    assert ("packs/aa/one", 5) == (info.key, info.size)
    found = store.head("packs/aa/one")
    assert (info.token, info.version, 5) == (found.token, found.version, found.size)
    assert timedelta(seconds=5) > abs(datetime.now(UTC) - found.modified)


def test_creating_twice_conflicts_and_the_first_bytes_stay(store: ObjectStore) -> None:
    store.create("once", b"first")
    for data in (b"second", b"first"):
        with pytest.raises(Conflict):
            store.create("once", data)
    assert b"first" == store.get("once")


def test_of_many_creators_at_once_exactly_one_wins(store: ObjectStore) -> None:
    start = threading.Barrier(8)

    def create(number: int) -> bool:
        start.wait()
        try:
            store.create("contested", b"%d" % number * 1000)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(create, range(8)))
    assert 1 == sum(outcomes)
    assert b"%d" % outcomes.index(True) * 1000 == store.get("contested")


def test_what_was_deleted_can_be_created_again(store: ObjectStore) -> None:
    store.create("again", b"1")
    store.delete("again")
    store.create("again", b"2")
    assert b"2" == store.get("again")


def test_a_big_object_is_created_once_too(store: ObjectStore) -> None:
    first = store.create("big", BIG)
    with pytest.raises(Conflict):
        store.create("big", BIG[::-1])
    assert BIG == store.get("big")
    second = store.replace("big", BIG[::-1], expected=first.token)
    with pytest.raises(Conflict):
        store.replace("big", BIG, expected=first.token)
    assert (BIG[::-1], second.token) == (store.get("big"), store.head("big").token)


# -- compare and set --------------------------------------------------------------------------------------------------


def test_a_replace_with_the_right_token_writes_and_changes_the_token(store: ObjectStore) -> None:
    first = store.replace("pointer", b"1", expected=None)
    second = store.replace("pointer", b"2", expected=first.token)
    assert first.token != second.token
    assert second.token == store.head("pointer").token
    assert second.token == next(store.list("pointer")).token
    assert b"2" == store.get("pointer")


def test_a_replace_with_a_stale_token_conflicts(store: ObjectStore) -> None:
    first = store.put("pointer", b"1")
    store.put("pointer", b"2")
    for expected in (first.token, None):
        with pytest.raises(Conflict):
            store.replace("pointer", b"3", expected=expected)
    assert b"2" == store.get("pointer")


def test_a_replace_of_what_is_not_there_conflicts_unless_absence_was_expected(store: ObjectStore) -> None:
    gone = store.put("pointer", b"1")
    store.delete("pointer")
    with pytest.raises(Conflict):
        store.replace("pointer", b"2", expected=gone.token)
    store.replace("pointer", b"2", expected=None)
    assert b"2" == store.get("pointer")


def test_counting_up_from_many_threads_loses_no_count(store: ObjectStore) -> None:
    store.create("counter", b"0")

    def count(_: int) -> None:
        done = 0
        while done < 4:
            seen = store.head("counter")
            value = int(store.get("counter"))
            try:
                store.replace("counter", b"%d" % (value + 1), expected=seen.token)
            except Conflict:
                continue
            done += 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(4)))
    assert b"16" == store.get("counter")


# -- listing ----------------------------------------------------------------------------------------------------------


def test_a_listing_is_whole_and_sorted_by_utf8_bytes_over_many_pages(store: ObjectStore) -> None:
    keys = [f"k/{number}" for number in range(3 * PAGE)] + [
        "k/é",
        "k/z",
        "k/🎭",
        "k/\uffee",
        "k-before",
        "k0after",
        "other",
    ]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, key.encode()), keys))
    below = sorted((key for key in keys if key.startswith("k/")), key=str.encode)
    assert below == [info.key for info in store.list("k/")]
    assert below == [info.key for info in store.list_versions("k/")]
    assert sorted(keys, key=str.encode) == [info.key for info in store.list()]
    assert {key: len(key.encode()) for key in keys} == {info.key: info.size for info in store.list()}
    assert ["k/1", "k/10"] == [info.key for info in store.list("k/1")][:2]
    assert [] == list(store.list("nothing"))


def test_a_listing_with_versions_shows_the_newest_of_each_and_nothing_deleted(store: ObjectStore) -> None:
    for number in range(PAGE):
        store.put("changed", b"%d" % number)
        store.put(f"x{number}", b"")
    store.put("deleted", b"")
    store.delete("deleted")
    rows = {info.key: info for info in store.list_versions()}
    assert ["changed", *(f"x{number}" for number in range(PAGE))] == list(rows)
    assert store.head("changed").version == rows["changed"].version
    if store.abilities.versions:
        assert b"%d" % (PAGE - 1) == store.get("changed", version=rows["changed"].version)


def test_a_listing_carries_the_checksum_where_that_is_claimed(store: ObjectStore) -> None:
    store.put("sum", b"what is summed")
    expected = base64.b64encode(google_crc32c.value(b"what is summed").to_bytes(4, "big")).decode()
    assert (expected if store.abilities.lists_crc32c else None) == next(store.list("sum")).crc32c


def test_odd_keys_are_kept_as_they_are(store: ObjectStore) -> None:
    for key in ODD_KEYS:
        store.create(key, key.encode())
    assert sorted(ODD_KEYS, key=str.encode) == [info.key for info in store.list()]
    assert sorted(ODD_KEYS, key=str.encode) == [info.key for info in store.list_versions()]
    for key in ODD_KEYS:
        assert key.encode() == store.get(key)
        assert key == store.head(key).key
        store.delete(key)
    assert [] == list(store.list())


# -- reading ----------------------------------------------------------------------------------------------------------


def test_a_range_is_exact_and_one_past_the_end_is_corrupt(store: ObjectStore) -> None:
    store.put("digits", b"0123456789")
    assert b"0" == store.get_range("digits", 0, 1)
    assert b"3456" == store.get_range("digits", 3, 4)
    assert b"9" == store.get_range("digits", 9, 1)
    assert b"0123456789" == store.get_range("digits", 0, 10)
    assert b"" == store.get_range("digits", 4, 0)
    for start, length in ((0, 11), (9, 2), (10, 1), (50, 5)):
        with pytest.raises(Corrupt):
            store.get_range("digits", start, length)


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.create("empty", b"")
    assert (b"", 0) == (store.get("empty"), store.head("empty").size)
    assert b"" == store.get_range("empty", 0, 0)
    assert 0 == store.put_stream("empty too", iter(()), 0).size
    assert ["empty", "empty too"] == [info.key for info in store.list()]


def test_old_bytes_are_readable_by_their_version_where_that_is_claimed(store: ObjectStore) -> None:
    first = store.put("file", b"first")
    store.put("file", b"second!")
    if not store.abilities.versions:
        assert first.version is None
        with pytest.raises(Unsupported):
            store.get("file", version="1")
        return
    assert first.version is not None
    assert b"first" == store.get("file", version=first.version)
    assert b"irs" == store.get_range("file", 1, 3, version=first.version)
    store.delete("file")
    assert b"first" == store.get("file", version=first.version)
    with pytest.raises(NotFound):
        store.get("file")
    with pytest.raises(NotFound):
        store.get("file", version="12345")


def test_what_is_not_there_is_not_found(store: ObjectStore) -> None:
    for read in (lambda: store.head("no"), lambda: store.get("no"), lambda: store.get_range("no", 0, 1)):
        with pytest.raises(NotFound, match="no is not in"):
            read()
    with pytest.raises(NotFound):
        store.get_range("no", 0, 0)


def test_deleting_twice_is_no_error(store: ObjectStore) -> None:
    store.put("gone", b"")
    store.delete("gone")
    store.delete("gone")
    store.delete("never/was")
    assert [] == list(store.list())


def test_deleting_in_a_missing_bucket_is_not_found(server: ObjectServer) -> None:
    with pytest.raises(NotFound):
        server.open(new_name("missing")).delete("x")


def test_the_stores_clock_is_about_now(store: ObjectStore) -> None:
    assert timedelta(seconds=3) > abs(datetime.now(UTC) - store.now())
    assert timedelta(0) == store.now().utcoffset()


# -- storage classes --------------------------------------------------------------------------------------------------


def test_an_object_is_moved_to_a_colder_class_and_back_where_that_is_claimed(store: ObjectStore) -> None:
    store.put("pack", b"bytes")
    if not store.abilities.tiers:
        with pytest.raises(Unsupported, match="cold storage"):
            store.set_tier("pack", "cold")
        assert (None, "") == (next(store.list("pack")).tier, next(store.list("pack")).storage_class)
        return
    assert "standard" == next(store.list("pack")).tier
    for tier in ("cold", "standard", "cold"):
        moved = store.set_tier("pack", tier)
        assert (tier, 5, b"bytes") == (moved.tier, moved.size, store.get("pack"))
        assert b"yte" == store.get_range("pack", 1, 3)
        for seen in (store.head("pack"), next(store.list("pack")), next(store.list_versions("pack"))):
            assert (tier, moved.storage_class, moved.token) == (seen.tier, seen.storage_class, seen.token)
        again = store.set_tier("pack", tier)
        assert (moved.token, moved.version, moved.modified) == (again.token, again.version, again.modified)


def test_what_is_not_there_is_moved_nowhere(store: ObjectStore) -> None:
    with pytest.raises(NotFound if store.abilities.tiers else Unsupported):
        store.set_tier("no", "cold")
    assert [] == list(store.list())


@pytest.mark.parametrize("server", ["s3"], indirect=True)
@pytest.mark.parametrize(("kept", "hours"), [("GLACIER", "3 to 5 hours"), ("DEEP_ARCHIVE", "12 to 48")])
def test_what_is_archived_says_that_it_has_to_be_restored_first(server: ObjectServer, kept: str, hours: str) -> None:
    bucket = server.make_bucket()
    store = server.open(bucket, "be low")
    store.put("packs/aa/one", b"bytes")
    place = {"Bucket": bucket, "Key": "be low/packs/aa/one"}
    server.client.copy_object(**place, CopySource=place, StorageClass=kept)
    assert ("frozen", kept) == (store.head("packs/aa/one").tier, next(store.list()).storage_class)
    for read in (lambda: store.get("packs/aa/one"), lambda: store.get_range("packs/aa/one", 0, 1)):
        with pytest.raises(NotReady, match=r"packs/aa/one in s3://.* is archived.*Restore it first") as caught:
            read()
        assert hours in caught.value.hint
        words = f"aws s3api restore-object --bucket {bucket} --key 'be low/packs/aa/one' --restore-request Days=7"
        assert words == caught.value.next_command


# -- streams ----------------------------------------------------------------------------------------------------------

BIG = bytes(range(251)) * 80_000  # 20 MB: more than one part of either vendor, and no multiple of one


def pieces(data: bytes, *sizes: int) -> Iterator[bytes]:
    position = turn = 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        yield data[position : position + size]
        position, turn = position + size, turn + 1


EXACT = bytes(2 * (8 << 20))  # two parts of either vendor, to the byte


@pytest.mark.parametrize("data", [b"x", b"small" * 100, BIG, EXACT], ids=["one", "small", "big", "exact"])
def test_a_stream_of_odd_parts_arrives_whole(store: ObjectStore, data: bytes) -> None:
    info = store.put_stream("stream", pieces(data, 1, 0, 3_000_001, 77, 9_000_000), len(data))
    assert data == store.get("stream")
    found = store.head("stream")
    assert (len(data), found.token, found.version) == (info.size, info.token, info.version)


@pytest.mark.parametrize("difference", [-1, 1, 9_000_000])
@pytest.mark.parametrize("data", [b"small", BIG], ids=["small", "big"])
def test_a_stream_of_another_size_leaves_nothing_visible(store: ObjectStore, data: bytes, difference: int) -> None:
    with pytest.raises(Corrupt):
        store.put_stream("new", pieces(data, 5_000_011), len(data) + difference)
    store.put("old", b"old")
    with pytest.raises(Corrupt):
        store.put_stream("old", pieces(data, 5_000_011), len(data) + difference)
    assert ["old"] == [info.key for info in store.list()]
    assert b"old" == store.get("old")


def test_a_stream_whose_source_fails_leaves_nothing_visible(store: ObjectStore) -> None:
    def failing() -> Iterator[bytes]:
        yield BIG
        message = "the source went away"
        raise Unreachable(message)

    with pytest.raises(Unreachable, match="the source went away"):
        store.put_stream("new", failing(), len(BIG) + 1)
    assert [] == list(store.list())


@pytest.mark.parametrize("data", [b"", b"small", BIG], ids=["empty", "small", "big"])
def test_a_stream_is_created_once_and_the_first_bytes_stay(store: ObjectStore, data: bytes) -> None:
    info = store.create_stream("once", pieces(data, 3_000_001), len(data))
    found = store.head("once")
    assert (len(data), found.token, found.version) == (info.size, info.token, info.version)
    for other in (data[::-1] + b"!", data):
        with pytest.raises(Conflict):
            store.create_stream("once", pieces(other, 9_000_000), len(other))
    assert data == store.get("once")
    store.delete("once")
    assert [] == list(store.list())


def test_of_many_streams_at_once_exactly_one_wins(store: ObjectStore) -> None:
    bodies = [bytes([number]) * 9_000_000 for number in range(4)]
    start = threading.Barrier(len(bodies))

    def create(body: bytes) -> bool:
        def parts() -> Iterator[bytes]:
            yield body[:-1]
            start.wait(60)  # all are nearly sent before one ends
            yield body[-1:]

        try:
            store.create_stream("contested", parts(), len(body))
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(len(bodies)) as pool:
        outcomes = list(pool.map(create, bodies))
    assert 1 == sum(outcomes)
    assert bodies[outcomes.index(True)] == store.get("contested")
    assert ["contested"] == [info.key for info in store.list()]


def test_a_stream_that_another_overtakes_conflicts_even_when_the_bytes_are_equal(store: ObjectStore) -> None:
    theirs = []

    def parts() -> Iterator[bytes]:
        yield BIG[:-1]
        theirs.append(store.put("overtaken", BIG))
        yield BIG[-1:]

    with pytest.raises(Conflict):
        store.create_stream("overtaken", parts(), len(BIG))
    assert [info.token for info in theirs] == [store.head("overtaken").token]


@pytest.mark.parametrize("size", [6, len(BIG)], ids=["small", "big"])
def test_a_stream_to_create_whose_source_fails_or_is_of_another_size_leaves_nothing_visible(
    store: ObjectStore, size: int
) -> None:
    def failing() -> Iterator[bytes]:
        yield BIG[: size - 1]
        message = "the source went away"
        raise Unreachable(message)

    with pytest.raises(Unreachable, match="the source went away"):
        store.create_stream("new", failing(), size)
    for difference in (-1, 1):
        with pytest.raises(Corrupt):
            store.create_stream("new", pieces(BIG[:size], 5_000_011), size + difference)
    assert [] == list(store.list())
    assert size == store.create_stream("new", [BIG[:size]], size).size


# -- the network ------------------------------------------------------------------------------------------------------


@dataclass
class Behind:
    """A store that is reached through a proxy that loses answers, and the way around it."""

    store: ObjectStore
    direct: ObjectStore
    proxy: LossyProxy
    write: str  # the method of a create on the wire


@pytest.fixture
def behind(server: ObjectServer) -> Iterator[Behind]:
    proxy, bucket = LossyProxy(server.url), server.make_bucket()
    with server.leading_to(proxy.url) as around:
        yield Behind(around.open(bucket), server.open(bucket), proxy, "POST" if server.scheme == "gs" else "PUT")
    proxy.close()


def test_a_create_whose_answer_was_lost_succeeds(behind: Behind) -> None:
    behind.proxy.lose(behind.write)
    info = behind.store.create("lost", b"mine")
    assert 1 == behind.proxy.struck
    assert behind.direct.head("lost").token == info.token
    assert 1 == len(list(behind.direct.list()))


def test_a_create_whose_every_answer_was_lost_finds_its_own_bytes(behind: Behind) -> None:
    behind.proxy.lose(behind.write, times=3)
    assert behind.store.create("lost", b"mine").token == behind.direct.head("lost").token
    assert 3 == behind.proxy.struck


def test_a_create_after_a_lost_answer_does_not_take_others_bytes_for_its_own(behind: Behind) -> None:
    behind.direct.put("taken", b"others")
    behind.proxy.lose(behind.write)
    with pytest.raises(Conflict):
        behind.store.create("taken", b"mine")
    assert b"others" == behind.direct.get("taken")


def test_a_replace_whose_answer_was_lost_succeeds_once(behind: Behind) -> None:
    first = behind.direct.put("pointer", b"1")
    behind.proxy.lose(behind.write)
    second = behind.store.replace("pointer", b"2", expected=first.token)
    assert (b"2", second.token) == (behind.direct.get("pointer"), behind.direct.head("pointer").token)
    with pytest.raises(Conflict):
        behind.store.replace("pointer", b"3", expected=first.token)


def test_a_big_create_whose_last_answer_was_lost_finds_its_own_bytes(behind: Behind) -> None:
    behind.proxy.lose("PUT")
    assert behind.store.create("lost", BIG).token == behind.direct.head("lost").token
    assert 1 == behind.proxy.struck
    with pytest.raises(Conflict):  # other bytes: a server may cut what it refuses, and then equal ones are ours
        behind.store.create("lost", BIG[::-1])


@pytest.mark.slow
def test_a_slow_line_is_no_dead_one(behind: Behind) -> None:
    behind.proxy.bytes_per_second = 5e6
    behind.store.create("body", BIG)
    assert BIG == behind.direct.get("body")


def test_a_body_that_is_cut_short_is_read_again(behind: Behind) -> None:
    behind.direct.put("body", BIG)
    behind.proxy.cut("GET", 100_000)
    assert behind.store.get("body") == BIG
    behind.proxy.cut("GET", 100_000)
    assert behind.store.get_range("body", 5, 1_000_000) == BIG[5:1_000_005]
    assert 2 == behind.proxy.struck


def test_a_body_that_is_always_cut_short_is_unreachable_and_the_error_says_what_it_may_be(behind: Behind) -> None:
    """A network that cuts and a server that cannot read its disk look the same from here."""
    behind.direct.put("body", BIG)
    behind.proxy.cut("GET", 100_000, times=3)
    with pytest.raises(Unreachable, match=r"ended before its length.*vault verify --deep"):
        behind.store.get("body")


def test_a_stream_goes_on_after_a_lost_answer_to_a_part(behind: Behind) -> None:
    behind.proxy.lose("PUT")
    behind.store.put_stream("stream", pieces(BIG, 1_000_003), len(BIG))
    assert BIG == behind.direct.get("stream")
    assert 1 == behind.proxy.struck


def test_a_stream_whose_last_answer_was_lost_is_there(behind: Behind) -> None:
    def parts() -> Iterator[bytes]:
        yield BIG[:-1]
        behind.proxy.lose("POST" if behind.write == "PUT" else "PUT")
        yield BIG[-1:]

    info = behind.store.put_stream("stream", parts(), len(BIG))
    assert 1 == behind.proxy.struck
    assert behind.direct.head("stream").token == info.token
    assert BIG == behind.direct.get("stream")


@pytest.mark.parametrize("times", [1, 3])
def test_a_stream_to_create_whose_last_answer_was_lost_is_there(behind: Behind, times: int) -> None:
    def parts() -> Iterator[bytes]:
        yield BIG[:-1]
        behind.proxy.lose("POST" if behind.write == "PUT" else "PUT", times=times)
        yield BIG[-1:]

    info = behind.store.create_stream("stream", parts(), len(BIG))
    assert 1 <= behind.proxy.struck <= times
    assert behind.direct.head("stream").token == info.token
    assert BIG == behind.direct.get("stream")
    assert 1 == len(list(behind.direct.list()))


def test_a_stream_to_create_after_a_lost_answer_does_not_take_others_bytes_for_its_own(behind: Behind) -> None:
    def parts() -> Iterator[bytes]:
        yield BIG[:-1]
        behind.direct.put("taken", BIG[::-1])
        behind.proxy.lose("POST" if behind.write == "PUT" else "PUT")
        yield BIG[-1:]

    with pytest.raises(Conflict):
        behind.store.create_stream("taken", parts(), len(BIG))
    assert BIG[::-1] == behind.direct.get("taken")


@pytest.mark.parametrize("server", S3_SERVERS, indirect=True)
def test_an_upload_that_is_gone_is_known_by_its_bytes_or_lost(server: ObjectServer) -> None:
    """S3 may say NoSuchUpload to a second completion; these servers look at the condition first, or say it is done."""
    store = S3Store(server.make_bucket(), client=server.client)
    passing = Passing([BIG], len(BIG), "stream")
    list(passing)
    upload, gone = _Upload(store, "stream"), _NoSuchUpload("gone")
    for once in (passing, None):
        with pytest.raises(Unreachable, match="was lost"):
            upload._completed(len(BIG), gone, once)
    assert store.put("stream", BIG).token == upload._completed(len(BIG), gone, passing).token
    store.put("stream", BIG[::-1])
    with pytest.raises(Conflict):
        upload._completed(len(BIG), gone, passing)
    upload.abort()


@pytest.mark.parametrize("server", S3_SERVERS, indirect=True)
def test_a_finished_upload_is_known_by_its_etag(server: ObjectServer) -> None:
    """Moto repeats the answer to a second completion; S3 may say NoSuchUpload."""
    store = S3Store(server.make_bucket(), client=server.client)
    info = store.put_stream("stream", [BIG], len(BIG))
    upload = _Upload(store, "stream")
    upload.send(BIG[: 8 << 20])
    upload.send(BIG[8 << 20 : 16 << 20])
    upload.send(BIG[16 << 20 :])
    assert info.token == upload._completed(len(BIG), _NoSuchUpload("gone")).token
    store.put("stream", BIG)
    with pytest.raises(Unreachable):
        upload._completed(len(BIG), _NoSuchUpload("gone"))
    upload.abort()


def test_a_dead_server_is_noticed_within_seconds(tmp_path: Path) -> None:
    url, server = launch_gcs(tmp_path / "data", tmp_path / "log")
    make_gcs_bucket(url, "bucket")
    gcs = GcsStore("bucket", client=gcp.storage_client(Access(cloud="gcp", endpoints={"gcs": url})))
    gcs.put("kept", b"bytes")
    server.kill()
    s3 = S3Store("bucket", client=aws.client("s3", Access(endpoints={"s3": url})))
    started = time.monotonic()
    for dead in (gcs, s3):
        calls: tuple[Callable[[], object], ...] = (
            lambda dead=dead: list(dead.list()),
            lambda dead=dead: dead.create("new", b""),
        )
        for call in calls:
            with pytest.raises(Unreachable, match="cannot be reached"):
                call()
    assert 4 * 5 > time.monotonic() - started


def test_a_server_over_the_same_disk_serves_what_was_there(tmp_path: Path) -> None:
    url, server = launch_gcs(tmp_path / "data", tmp_path / "log")
    make_gcs_bucket(url, "bucket")
    store = GcsStore("bucket", client=gcp.storage_client(Access(cloud="gcp", endpoints={"gcs": url})))
    first = store.put("a/b #c", b"first")
    store.put("a/b #c", b"second")
    store.put("gone", b"")
    store.delete("gone")
    server.kill()
    port = int(url.rpartition(":")[2])
    _, server = launch_gcs(tmp_path / "data", tmp_path / "log", port=port)
    assert (b"second", b"first") == (store.get("a/b #c"), store.get("a/b #c", version=first.version))
    assert ["a/b #c"] == [info.key for info in store.list()]
    server.kill()


def test_a_missing_bucket_is_not_found(server: ObjectServer) -> None:
    store = server.open(new_name("missing"))
    calls: tuple[Callable[[], object], ...] = (
        lambda: list(store.list()),
        lambda: store.get("x"),
        lambda: store.create("x", b""),
        lambda: store.put_stream("x", [b""], 0),
        store.now,
    )
    for call in calls:
        with pytest.raises(NotFound):
            call()


def test_a_prefix_shows_nothing_beside_it(server: ObjectServer) -> None:
    bucket = server.make_bucket()
    whole, part = server.open(bucket), server.open(bucket, "/models/")
    for key in ("models/", "models/a", "models2/b", "c"):
        whole.put(key, b"")
    assert ["a"] == [info.key for info in part.list()] == [info.key for info in part.list_versions()]
    assert f"{server.scheme}://{bucket}/models" == part.url
    part.put("d", b"")
    assert "models/d" == whole.head("models/d").key


def test_an_object_called_like_the_prefix_is_not_below_it(server: ObjectServer) -> None:
    bucket = server.make_bucket()
    whole, part = server.open(bucket), server.open(bucket, "models")
    whole.put("models", b"1")
    whole.put("models/a", b"2")
    assert ["a"] == [info.key for info in part.list()] == [info.key for info in part.list_versions()]


@pytest.mark.parametrize("server", [real("versitygw")], indirect=True)
def test_what_cannot_be_kept_beside_a_folder_is_unsupported(server: ObjectServer) -> None:
    store = server.open(server.make_bucket())
    store.put("a", b"1")
    with pytest.raises(Unsupported, match="cannot hold a/b beside what is there"):
        store.put("a/b", b"2")
    store.put("c/d", b"3")
    with pytest.raises(Unsupported, match="cannot hold c beside what is there"):
        store.put("c", b"4")
    assert ["a", "c/d"] == [info.key for info in store.list()]


@pytest.mark.parametrize("server", [real("versitygw")], indirect=True)
def test_a_listing_that_does_not_go_on_is_an_error_and_not_endless(server: ObjectServer) -> None:
    """It begins a page of versions with the last row of the one before: with one row a page, the same for ever."""
    bucket = server.make_bucket()
    for key in "ab":
        server.open(bucket).put(key, b"")
    with pytest.raises(Permanent, match="does not go on"):
        list(server.open(bucket, page_max=1).list_versions())


@pytest.mark.parametrize("server", S3_SERVERS, indirect=True)
def test_the_mark_of_a_deletion_is_no_version_to_read(server: ObjectServer) -> None:
    bucket = server.make_bucket()
    store = server.open(bucket)
    store.put("x", b"1")
    store.delete("x")
    [mark] = server.client.list_object_versions(Bucket=bucket)["DeleteMarkers"]
    for read in (store.get, lambda key, version: store.get_range(key, 0, 1, version=version)):
        with pytest.raises(NotFound, match="x is not in"):
            read("x", version=mark["VersionId"])


@pytest.mark.parametrize(
    "wrong",
    [{"SecretAccessKey": "no"}, {"AccessKeyId": "nobody"}, {"SessionToken": "no"}],
    ids=lambda keys: next(iter(keys)),
)
@pytest.mark.parametrize("server", [real("versitygw")], indirect=True)
def test_wrong_keys_are_denied_and_not_shown(server: ObjectServer, wrong: dict[str, str], tmp_path: Path) -> None:
    right = json.loads(Path(str(server.access.credentials).removeprefix("file:")).read_text(encoding="utf-8"))
    (tmp_path / "keys").write_text(json.dumps(right | wrong))
    access = server.access.model_copy(update={"credentials": f"file:{tmp_path / 'keys'}"})
    store = S3Store(server.make_bucket(), client=aws.client("s3", access))
    calls: tuple[Callable[[], object], ...] = (
        lambda: store.put("x", b"1"),
        lambda: store.create("x", b"1"),
        lambda: store.get("x"),
        lambda: list(store.list()),
        lambda: store.abilities,
    )
    for call in calls:
        with pytest.raises(Denied, match="does not allow it") as caught:
            call()
        assert not re.search(r"\.\.|" + right["SecretAccessKey"], str(caught.value))
    if wrong != {"AccessKeyId": "nobody"}:  # to which this server answers 404, and HEAD has no body to say why
        for call in (store.now, lambda: store.head("x")):
            with pytest.raises(Denied):
                call()


@pytest.mark.parametrize("server", [real("versitygw")], indirect=True)
def test_a_server_of_another_kind_is_named_as_such(server: ObjectServer) -> None:
    store = GcsStore("bucket", client=gcp.storage_client(Access(cloud="gcp", endpoints={"gcs": server.url})))
    with pytest.raises(Permanent, match="does not speak the JSON of Cloud Storage"):
        store.get("x")


def test_a_bucket_without_versions_claims_none(server: ObjectServer) -> None:
    store = server.open(server.make_bucket(versioned=False))
    assert not store.abilities.versions
    store.put("x", b"1")
    with pytest.raises(Unsupported if server.scheme == "s3" else NotFound):  # a generation names what is there now
        store.get("x", version="12345")
    assert ["x"] == [info.key for info in store.list_versions()]


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["../up", "/absolute", "a/../b", "a//b", "", ".", "a/", ".understudy/x", "nul\0"])
def test_a_key_that_leaves_the_folder_is_refused(tmp_path: Path, key: str) -> None:
    store = FileStore(tmp_path / "root")
    (tmp_path / "root").mkdir()
    for call in (lambda: store.create(key, b""), lambda: store.get(key), lambda: store.delete(key)):
        with pytest.raises(Unsupported):
            call()
    assert ["root"] == [path.name for path in tmp_path.iterdir()]


def test_what_is_half_written_is_in_no_listing(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    seen: list[str] = []

    def parts() -> Iterator[bytes]:
        yield b"half"
        seen.extend(info.key for info in store.list())
        yield b"whole"

    store.put_stream("file", parts(), 9)
    assert ([], ["file"]) == (seen, [info.key for info in store.list()])
    assert ["lock"] == [path.name for path in (tmp_path / ".understudy").iterdir()]


def test_a_replace_waits_for_another_process_that_writes(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    first = store.put("pointer", b"1")
    with (tmp_path / ".understudy" / "lock").open("rb") as held, ThreadPoolExecutor(1) as pool:
        fcntl.flock(held, fcntl.LOCK_EX)
        waiting = pool.submit(store.replace, "pointer", b"2", expected=first.token)
        time.sleep(0.1)
        assert (False, b"1") == (waiting.done(), store.get("pointer"))
        fcntl.flock(held, fcntl.LOCK_UN)
        assert waiting.result(5).token == store.head("pointer").token


def test_a_missing_folder_is_not_found(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "unmounted")
    for call in (lambda: list(store.list()), lambda: store.create("x", b""), lambda: store.get("x")):
        with pytest.raises(NotFound, match="does not exist"):
            call()
    assert not (tmp_path / "unmounted").exists()


def test_a_key_below_another_object_is_refused_by_name(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.put("a", b"")
    with pytest.raises((Unsupported, Conflict)):
        store.put("a/b", b"")
    store.delete("a/b")
    assert ["a"] == [info.key for info in store.list()]
    assert [] == list(store.list("a/"))


def test_a_memory_store_tells_the_time_that_it_is_given() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    store = MemoryStore(clock=lambda: moment)
    assert (moment, moment) == (store.now(), store.put("x", b"").modified)


def test_hosts_of_tests_are_loopback() -> None:
    assert aws.is_loopback(f"http://{HOST}:80")
    assert aws.is_loopback("127.8.9.1:80")
    assert not aws.is_loopback("https://s3.example.com")
