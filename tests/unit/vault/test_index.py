"""The index: what is appended is found, many sequences are merged into one, and damage is named."""

from __future__ import annotations

import hashlib
import io
import tracemalloc

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import Corrupt
from understudy.objects.memory import MemoryStore
from understudy.vault import index as index_module
from understudy.vault.chunks import Location
from understudy.vault.index import LIVE_SEQUENCES_MAX, PackRecord, append_index, appended, load_index
from understudy.vault.store import open_vault


def digest(number):
    return hashlib.sha256(str(number).encode()).digest()


def row(number, pack=0, coder="zstd", base=None):
    return Location(digest(number), digest(f"pack{pack}").hex(), number * 10, 7, 100, coder, base)


def append(vault, rows, packs=()):
    records = {digest(f"pack{number}").hex(): PackRecord(1000 + number, "AAAAAA==") for number in packs}
    return append_index(vault, load_index(vault), rows, records)


@pytest.fixture
def vault():
    return open_vault(MemoryStore("vault"))


def test_an_empty_index_finds_nothing(vault):
    index = load_index(vault)
    assert index.find(digest(1)) is None
    assert 0 == len(index)


@given(st.sets(st.integers(0, 5000), max_size=200), st.sets(st.integers(0, 5000), max_size=50))
@settings(max_examples=25, deadline=None)
def test_every_appended_row_is_found_and_no_other(known, asked):
    vault = open_vault(MemoryStore())
    append(vault, [row(number) for number in known])
    index = load_index(vault)
    for number in known | asked:
        assert (row(number) if number in known else None) == index.find(digest(number))


def test_ids_that_begin_alike_are_told_apart(vault):
    ids = [b"\xff" * 8 + bytes([number]) * 24 for number in range(5)]
    rows = [Location(name, "ab" * 32, place, 1, 1, "raw") for place, name in enumerate(ids)]
    append(vault, rows)
    index = load_index(vault)
    assert rows == [index.find(name) for name in ids]
    assert index.find(b"\xff" * 8 + b"\x09" * 24) is None


def test_coder_base_and_pack_records_come_back(vault):
    rows = [row(1, coder="planes", base=digest("base")), row(2)]
    append(vault, rows, packs=[0, 1])
    index = load_index(vault)
    assert rows == [index.find(digest(1)), index.find(digest(2))]
    assert PackRecord(1001, "AAAAAA==") == index.packs[digest("pack1").hex()]


def test_of_two_places_the_one_written_last_is_found_first(vault):
    append(vault, [row(1, pack=1)])
    append(vault, [row(1, pack=2)])
    index = load_index(vault)
    assert [row(1, pack=2), row(1, pack=1)] == list(index.find_all(digest(1)))
    assert row(1, pack=1) == index.find_in(digest(1), lambda pack: pack != digest("pack2").hex())


def test_more_than_sixteen_sequences_are_merged_and_nothing_is_lost(vault):
    for number in range(LIVE_SEQUENCES_MAX):
        append(vault, [row(number), row(100 + number, base=digest("b"))], packs=[number])
    assert LIVE_SEQUENCES_MAX == len(load_index(vault).live)
    append(vault, [row(999), row(3, pack=9)], packs=[77])
    merged = load_index(vault)
    assert (LIVE_SEQUENCES_MAX + 1,) == merged.live
    assert ((1, LIVE_SEQUENCES_MAX),) == merged.replaced
    assert 2 * LIVE_SEQUENCES_MAX + 1 == len(merged)
    assert row(3, pack=9) == merged.find(digest(3))
    assert row(105, base=digest("b")) == merged.find(digest(105))
    assert LIVE_SEQUENCES_MAX + 1 == len(merged.packs)


def test_replaced_sequences_are_not_read_again(vault):
    for number in range(2 * LIVE_SEQUENCES_MAX + 5):
        append(vault, [row(number)])
    live = load_index(vault).live
    assert len(live) <= LIVE_SEQUENCES_MAX
    for sequence in range(1, live[0]):
        vault.store.delete(f"index/{sequence:08d}/00000.parquet")
    index = load_index(vault)
    assert all(index.find(digest(number)) == row(number) for number in range(2 * LIVE_SEQUENCES_MAX + 5))


def test_of_many_appends_each_row_is_written_a_few_times_and_nothing_is_lost(vault):
    count = 400
    index = load_index(vault)
    for number in range(count):
        record = {digest(f"pack{number}").hex(): PackRecord(9, None)}
        index, _ = appended(vault, index, [row(number, pack=number)], record)
        assert len(index.live) <= LIVE_SEQUENCES_MAX
    written = sum(
        pq.read_metadata(io.BytesIO(vault.store.get(info.key))).num_rows for info in vault.store.list("index/")
    )
    assert written < 6 * count  # all of them at each merge would be 13 times as many
    loaded = load_index(vault)
    assert (index.live, index.replaced, index.packs) == (loaded.live, loaded.replaced, loaded.packs)
    assert count == len(loaded) == len(index)
    for number in range(count):
        assert row(number, pack=number) == loaded.find(digest(number)) == index.find(digest(number))


def test_a_pack_whose_chunks_all_lie_elsewhere_too_stays_known(vault):
    append(vault, [row(1, pack=0)], packs=[0])
    append(vault, [row(1, pack=1)], packs=[1])
    for number in range(2, 60):
        append(vault, [row(number, pack=number)], packs=[number])
    assert PackRecord(1000, "AAAAAA==") == load_index(vault).packs[digest("pack0").hex()]


def test_a_sequence_is_cut_into_shards_sorted_by_id(vault, monkeypatch):
    monkeypatch.setattr(index_module, "SHARD_ROWS_MAX", 10)
    append(vault, [row(number) for number in range(35)], packs=[0])
    keys = [info.key for info in vault.store.list("index/")]
    assert 4 == len(keys)
    tables = [pq.read_table(io.BytesIO(vault.store.get(key))) for key in keys]
    ids = [name for table in tables for name in table["id"].to_pylist()]
    assert sorted(digest(number) for number in range(35)) == ids
    index = load_index(vault)
    assert all(index.find(digest(number)) for number in range(35))
    assert (1,) == index.live


def test_a_merge_that_was_cut_short_replaces_nothing(vault, monkeypatch):
    for number in range(LIVE_SEQUENCES_MAX):
        append(vault, [row(number)], packs=[number])
    monkeypatch.setattr(index_module, "SHARD_ROWS_MAX", 5)
    append(vault, [row(500)], packs=[500])
    vault.store.delete("index/00000017/00002.parquet")
    index = load_index(vault)
    assert tuple(range(1, LIVE_SEQUENCES_MAX + 1)) == index.live
    assert all(index.find(digest(number)) for number in range(LIVE_SEQUENCES_MAX))
    assert digest("pack500").hex() not in index.packs


def test_two_writers_get_two_sequences(vault):
    stale = load_index(vault)
    append_index(vault, stale, [row(1)], {})
    append_index(vault, stale, [row(2)], {})
    index = load_index(vault)
    assert (1, 2) == index.live
    assert [row(1), row(2)] == [index.find(digest(1)), index.find(digest(2))]


def test_a_damaged_shard_is_named(vault):
    append(vault, [row(1)])
    data = bytearray(vault.store.get("index/00000001/00000.parquet"))
    data[-6] ^= 255
    vault.store.put("index/00000001/00000.parquet", bytes(data))
    with pytest.raises(Corrupt, match=r"index/00000001/00000.parquet"):
        load_index(vault)


def test_rows_by_pack_come_together_by_offset(vault):
    append(vault, [row(5, pack=1), row(1, pack=2)])
    append(vault, [row(2, pack=1)])
    found = dict(load_index(vault).by_pack())
    assert [row(2, pack=1), row(5, pack=1)] == found[digest("pack1").hex()]
    assert [row(1, pack=2)] == found[digest("pack2").hex()]


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_less_than_seventy_bytes_each(vault):
    append(vault, [row(number, pack=number % 50) for number in range(100_000)])
    tracemalloc.start()
    index = load_index(vault)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 100_000 == len(index)
    assert size < 7_000_000
    assert index.find(digest(77_777)) is not None
