"""The contract of every ``VectorStore``: memory first, then PostgreSQL with pgvector (two databases are two sites)."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from tests.postgres_fixture import databases_on
from tests.real_servers import real
from tests.vector_sites import DIMENSION, LABELS, TABLE, make_rows, make_site
from understudy.errors import Conflict, Corrupt, NotFound, NotReady, Refused
from understudy.objects.memory import MemoryStore
from understudy.vault.pointers import watermark_key
from understudy.vault.store import open_vault
from understudy.vectors import manifest, parquet
from understudy.vectors.export import export
from understudy.vectors.rebuild import rebuild
from understudy.vectors.verify import verify

KINDS = ["memory", "pgvector", real("postgres")]
INDEX = "products"


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def source(kind, make_site_of):
    return make_site_of(kind)


@pytest.fixture
def target(kind, make_site_of):
    return make_site_of(kind)


@pytest.fixture
def make_site_of(request):
    def make(kind):
        if kind == "postgres":
            return make_site(kind, databases_on(request.getfixturevalue("real_server")(kind)["UNDERSTUDY_POSTGRES"]))
        return make_site(kind, request.getfixturevalue("make_database") if kind == "pgvector" else None)

    return make


@pytest.fixture
def vault():
    return open_vault(MemoryStore("vault"))


def pointer(vault):
    return json.loads(vault.store.get(watermark_key("vector_index", INDEX)))


def read_all(store):
    with store.snapshot(3) as snapshot:
        rows = [row for part in snapshot.slices for batch in part() for row in batch.to_pylist()]
    return {row["id"]: row for row in rows}


def test_an_absent_index_is_not_found(source):
    with pytest.raises(NotFound):
        source.store.describe()


def test_a_rebuilt_index_has_the_same_rows_definition_and_labels(source, target, vault):
    source.create(make_rows(500))
    exported = export(source.store, vault, index=INDEX)
    report = rebuild(vault, target.store, index=INDEX)
    assert ("changed", "1", 500) == (exported.verdict, exported.version, exported.items_new)
    assert ("changed", "1", 500) == (report.verdict, report.version, report.items_new)
    assert "digest equal, recall@10 1.000" in report.sentence
    assert read_all(source.store) == read_all(target.store)
    served = target.store.describe()
    assert source.store.describe().schema.definition() == served.schema.definition()
    assert source.store.describe().schema == served.schema
    assert LABELS == {name: served.labels[name] for name in LABELS}
    assert (1, exported.details["digest"]) == (served.labels["sequence"], served.labels["digest"])
    assert [TABLE] == target.tables()
    assert verify(vault, target.store, index=INDEX).proven == "digest"


def test_a_second_export_sends_nothing_and_still_advances_the_watermark(source, vault):
    source.create(make_rows(100))
    first = export(source.store, vault, index=INDEX)
    keys = {info.key for info in vault.store.list()}
    before = pointer(vault)
    second = export(source.store, vault, index=INDEX)
    assert ("unchanged", 0, 0) == (second.verdict, second.items_new, second.bytes_sent)
    assert first.version == second.version
    assert keys == {info.key for info in vault.store.list()}
    assert before["watermark"] < pointer(vault)["watermark"] == second.watermark.isoformat(timespec="microseconds")
    assert before["digest"] == pointer(vault)["digest"] == first.details["digest"]


def test_the_watermark_is_taken_before_the_rows(source, vault):
    source.create(make_rows(20))
    before = datetime.now(UTC)
    watermark = export(source.store, vault, index=INDEX).watermark
    assert before - timedelta(seconds=1) <= watermark <= datetime.now(UTC)


def test_only_the_buckets_that_changed_are_sent_again(source, vault):
    rows = make_rows(1000)
    source.create(rows)
    first = export(source.store, vault, index=INDEX)
    source.upsert([(rows[5][0], rows[6][1], "new", 1)])
    second = export(source.store, vault, index=INDEX)
    assert (16, 1) == (first.details["buckets_new"], second.details["buckets_new"])
    assert ("changed", "2") == (second.verdict, second.version)
    assert first.details["digest"] != second.details["digest"]


def test_a_change_of_one_title_changes_the_digest(source, vault):
    rows = make_rows(50)
    source.create(rows)
    first = export(source.store, vault, index=INDEX)
    source.upsert([(*rows[9][:2], "another title", rows[9][3])])
    assert first.details["digest"] != export(source.store, vault, index=INDEX).details["digest"]


def test_new_labels_alone_are_a_new_sequence(source, vault):
    source.create(make_rows(50))
    export(source.store, vault, index=INDEX)
    source.label({**LABELS, "model_digest": "cd" * 32})
    report = export(source.store, vault, index=INDEX)
    assert ("changed", "2", 0) == (report.verdict, report.version, report.bytes_sent)
    assert "cd" * 32 == manifest.newest(vault, INDEX).model_digest


def test_a_second_rebuild_does_nothing(source, target, vault):
    source.create(make_rows(60))
    export(source.store, vault, index=INDEX)
    rebuild(vault, target.store, index=INDEX)
    token = target.store.describe().token
    report = rebuild(vault, target.store, index=INDEX)
    assert ("unchanged", 0) == (report.verdict, report.items_new)
    assert token == target.store.describe().token


def test_a_rebuild_in_full_is_done_where_nothing_seems_to_have_changed(source, target, vault):
    source.create(make_rows(60))
    export(source.store, vault, index=INDEX)
    rebuild(vault, target.store, index=INDEX)
    token = target.store.describe().token
    report = rebuild(vault, target.store, index=INDEX, full=True)
    assert ("changed", 60) == (report.verdict, report.items_new)
    assert token != target.store.describe().token


def test_null_vectors_titles_and_prices_come_back(source, target, vault):
    rows = [*make_rows(30), ("bare", None, None, None), ("zero", [0.0] * DIMENSION, "", 0)]
    source.create(rows)
    export(source.store, vault, index=INDEX)
    rebuild(vault, target.store, index=INDEX)
    assert {"id": "bare", "embedding": None, "title": None, "price": None} == read_all(target.store)["bare"]
    assert "" == read_all(target.store)["zero"]["title"]


def test_floats_cross_bit_for_bit(source, target, vault):
    bits = np.array([0x80000000, 1, 0x007FFFFF, 0x5F7FFFFF, 0x807FFFFF, 0x3F800001, 0x00800000, 0], np.uint32)
    source.create([*make_rows(20), ("edge", bits.view(np.float32).astype(float).tolist(), None, None)])
    export(source.store, vault, index=INDEX)
    rebuild(vault, target.store, index=INDEX)
    found = np.array(read_all(target.store)["edge"]["embedding"], np.float32).view(np.uint32)
    assert bits.tolist() == found.tolist()


def test_a_shrunken_source_is_refused_with_the_count(source, vault):
    rows = make_rows(200)
    source.create(rows)
    export(source.store, vault, index=INDEX)
    source.delete([row[0] for row in rows[:101]])
    with pytest.raises(Refused, match="101 rows have vanished"):
        export(source.store, vault, index=INDEX)
    assert [1] == manifest.sequences(vault, INDEX)
    assert "changed" == export(source.store, vault, index=INDEX, deletes_max=101).verdict


def test_rows_that_were_all_replaced_by_others_count_as_vanished(source, vault):
    rows = make_rows(150)
    source.create(rows)
    export(source.store, vault, index=INDEX)
    source.delete([row[0] for row in rows])
    source.upsert([(f"other-{i}", *row[1:]) for i, row in enumerate(rows)])
    with pytest.raises(Refused, match="150 rows have vanished"):
        export(source.store, vault, index=INDEX)


def test_an_emptied_source_is_refused(source, vault):
    rows = make_rows(120)
    source.create(rows)
    export(source.store, vault, index=INDEX)
    source.delete([row[0] for row in rows])
    with pytest.raises(Refused, match="120 rows"):
        export(source.store, vault, index=INDEX)


def test_a_rebuild_that_would_drop_rows_is_refused_and_leaves_what_serves(source, target, vault):
    source.create(make_rows(30))
    export(source.store, vault, index=INDEX)
    target.create([(f"own-{i}", *row[1:]) for i, row in enumerate(make_rows(12))], {})
    before = read_all(target.store)
    stages = []
    with pytest.raises(Refused, match="12 rows"):
        rebuild(vault, target.store, index=INDEX, deletes_max=11, progress=lambda what, *_: stages.append(what))
    assert {"products: load"} == set(stages), "refused before the costly part"
    assert before == read_all(target.store)
    assert [TABLE] == target.tables()
    assert "changed" == rebuild(vault, target.store, index=INDEX, deletes_max=12).verdict
    assert 30 == len(read_all(target.store))


def test_an_earlier_sequence_is_rebuilt_only_when_it_is_named(source, target, vault):
    rows = make_rows(40)
    source.create(rows[:30])
    export(source.store, vault, index=INDEX)
    source.upsert(rows[30:])
    export(source.store, vault, index=INDEX)
    rebuild(vault, target.store, index=INDEX)
    assert 40 == len(read_all(target.store))
    assert "1" == rebuild(vault, target.store, index=INDEX, sequence=1).version
    assert 30 == len(read_all(target.store))
    with pytest.raises(NotFound):
        rebuild(vault, target.store, index=INDEX, sequence=9)


def test_a_stale_rebuild_never_replaces_what_another_swapped_in(source, target, vault):
    rows = make_rows(40)
    source.create(rows)
    export(source.store, vault, index=INDEX)
    state = manifest.newest(vault, INDEX)
    with target.store.green(state.schema, 1) as green:
        with source.store.snapshot(1) as snapshot:
            green.load(batch for part in snapshot.slices for batch in part())
        green.finish()
        target.create(rows[:3], {"sequence": 7})
        with pytest.raises(Conflict):
            green.swap({"sequence": 1}, deletes_max=100)
    assert 7 == target.store.describe().labels["sequence"]
    assert 3 == len(read_all(target.store))


def test_a_vault_that_is_behind_the_target_changes_nothing(source, target, vault):
    source.create(make_rows(10))
    export(source.store, vault, index=INDEX)
    target.create(make_rows(5), {"sequence": 2, "vault": vault.url})
    with pytest.raises(Conflict, match="serves sequence 2"):
        rebuild(vault, target.store, index=INDEX)


def test_two_exports_at_once_publish_one_sequence(source, vault):
    source.create(make_rows(300))
    outcomes = []

    def run():
        try:
            outcomes.append(export(source.store, vault, index=INDEX).verdict)
        except Conflict:
            outcomes.append("conflict")

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # put_once takes equal bytes for its own; the watermarks differ, so one alone can have changed anything.
    assert 1 == outcomes.count("changed")
    assert [1] == manifest.sequences(vault, INDEX)


def test_a_flipped_byte_in_the_vault_is_found_before_anything_is_swapped(source, target, vault):
    source.create(make_rows(100))
    export(source.store, vault, index=INDEX)
    key = next(info.key for info in vault.store.list(f"vectors/{INDEX}/data/"))
    data = bytearray(vault.store.get(key))
    data[len(data) // 2] ^= 1
    vault.store.put(key, bytes(data))
    with pytest.raises(Corrupt, match="SHA-256"):
        rebuild(vault, target.store, index=INDEX)
    with pytest.raises(NotFound):
        target.store.describe()


def test_rows_other_than_the_manifest_says_are_never_swapped_in(source, target, vault):
    source.create(make_rows(100))
    export(source.store, vault, index=INDEX)
    state = manifest.newest(vault, INDEX)
    part = state.parts[3]
    rows = parquet.decode(state.schema, vault.store.get(state.data_key(part)))
    forged = parquet.encode(state.schema, rows.set_column(2, "title", pa.array(["forged"] * len(rows))))
    vault.store.put(state.data_key(part), forged)
    parts = list(state.parts)
    parts[3] = replace(part, size=len(forged), sha256=hashlib.sha256(forged).hexdigest())
    vault.store.put(f"vectors/{INDEX}/00000001/manifest.json", replace(state, parts=tuple(parts)).encode())
    with pytest.raises(Corrupt, match="the rebuilt index differs from sequence 1 of the vault in 1 of 16 buckets"):
        rebuild(vault, target.store, index=INDEX)
    with pytest.raises(NotFound):
        target.store.describe()


def test_a_missing_bucket_is_corrupt(source, target, vault):
    source.create(make_rows(100))
    export(source.store, vault, index=INDEX)
    vault.store.delete(next(info.key for info in vault.store.list(f"vectors/{INDEX}/data/")))
    with pytest.raises(Corrupt, match="is missing"):
        rebuild(vault, target.store, index=INDEX)


class MeasuredStore(MemoryStore):
    """Remembers the most that it handed out of a bucket at once."""

    most = 0

    def get(self, key, *, version=None):
        return self._measured(key, super().get(key, version=version))

    def get_range(self, key, start, length, *, version=None):
        return self._measured(key, super().get_range(key, start, length, version=version))

    def _measured(self, key, data):
        self.most = max(self.most, len(data) if key.endswith(".parquet") else 0)
        return data


@pytest.mark.parametrize("size", [5_000_000, 10], ids=["huge", "short"])
def test_of_an_object_in_the_place_of_a_bucket_no_more_is_read_than_was_written(source, target, size):
    store = MeasuredStore("vault")
    vault = open_vault(store)
    source.create(make_rows(100))
    export(source.store, vault, index=INDEX)
    part = manifest.newest(vault, INDEX).parts[0]
    store.put(manifest.data_key(INDEX, part.digest), b"x" * size)
    store.most = 0
    with pytest.raises(Corrupt, match="SHA-256"):
        rebuild(vault, target.store, index=INDEX)
    assert store.most <= max(part.size for part in manifest.newest(vault, INDEX).parts)


def test_verify_finds_a_row_that_was_changed_at_the_target(source, target, vault):
    rows = make_rows(50)
    source.create(rows)
    export(source.store, vault, index=INDEX)
    rebuild(vault, target.store, index=INDEX)
    target.upsert([(rows[7][0], rows[8][1], rows[7][2], rows[7][3])])
    with pytest.raises(Corrupt, match="1 of 16 buckets"):
        verify(vault, target.store, index=INDEX)


def test_verify_of_an_index_that_was_never_rebuilt_says_so(target, vault):
    target.create(make_rows(5))
    with pytest.raises(NotReady):
        verify(vault, target.store, index=INDEX)


def test_what_a_killed_export_left_is_used_and_not_sent_again(source, vault):
    source.create(make_rows(100))
    export(source.store, vault, index=INDEX)
    vault.store.delete(f"vectors/{INDEX}/00000001/manifest.json")
    vault.store.delete(watermark_key("vector_index", INDEX))
    report = export(source.store, vault, index=INDEX)
    assert ("changed", "1", 0) == (report.verdict, report.version, report.bytes_sent)


def test_a_leftover_that_holds_other_rows_is_corrupt(source, vault):
    source.create(make_rows(100))
    export(source.store, vault, index=INDEX)
    keys = [info.key for info in vault.store.list(f"vectors/{INDEX}/data/")]
    vault.store.put(keys[0], vault.store.get(keys[1]))
    vault.store.delete(f"vectors/{INDEX}/00000001/manifest.json")
    with pytest.raises(Corrupt, match="named after"):
        export(source.store, vault, index=INDEX)


def test_exact_search_is_ordered_by_score_then_id(source):
    rows = make_rows(200)
    twin = [(f"twin-{i}", rows[0][1], None, None) for i in range(4)]
    source.create([*rows, *twin])
    hits = source.store.query(np.array(rows[0][1], np.float32), 5, exact=True)
    assert ["item-0", "twin-0", "twin-1", "twin-2", "twin-3"] == [hit.id for hit in hits]
    assert all(abs(1.0 - hit.score) < 1e-6 for hit in hits)
    vectors = np.array([row[1] for row in rows], np.float32)
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(vectors[9])
    expected = np.argsort(-(vectors @ vectors[9] / lengths))[:10]
    hits = source.store.query(vectors[9], 10, exact=True)
    assert [f"item-{i}" for i in expected] == [hit.id for hit in hits]


def test_approximate_search_finds_what_exact_search_finds(source):
    rows = make_rows(300)
    source.create(rows)
    query = np.array(rows[42][1], np.float32)
    exact, found = (source.store.query(query, 10, exact=each, effort=200) for each in (True, False))
    assert exact == found


def test_the_same_questions_get_the_same_hits_and_scores_at_both_sites(source, target, vault):
    rows = make_rows(300)
    source.create(rows)
    export(source.store, vault, index=INDEX)
    rebuild(vault, target.store, index=INDEX)
    for row in rows[:10]:
        query = np.array(row[1], np.float32)
        assert source.store.query(query, 10, exact=True) == target.store.query(query, 10, exact=True)


def test_an_index_crosses_from_memory_to_pgvector(make_site_of, vault):
    source, target = make_site_of("memory"), make_site_of("pgvector")
    source.create(make_rows(50))
    export(source.store, vault, index=INDEX)
    rebuild(vault, target.store, index=INDEX)
    assert read_all(source.store) == read_all(target.store)
