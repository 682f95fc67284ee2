from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.vector_sites import make_rows, make_site
from understudy.errors import Conflict, Corrupt, NotFound, Refused
from understudy.objects.memory import MemoryStore
from understudy.vault.store import open_vault
from understudy.vectors import manifest as manifests
from understudy.vectors.export import export
from understudy.vectors.pull import diff, pull, render_diff
from understudy.vectors.rebuild import preview, rebuild

INDEX = "products"


@pytest.fixture
def exported():
    """Two sequences of one index: 300 rows, then one added, one removed, one changed."""
    site, vault = make_site("memory", lambda: ""), open_vault(MemoryStore("vault"))
    rows = make_rows(301)
    site.create(rows[:300])
    export(site.store, vault, index=INDEX)
    changed = (rows[7][0], rows[7][1], "another title", rows[7][3])
    site.upsert([rows[300], changed])
    site.delete([rows[3][0]])
    export(site.store, vault, index=INDEX)
    return vault, rows, site


def test_the_files_hold_every_row_for_any_reader_of_parquet(exported, tmp_path):
    vault, rows, _ = exported
    report = pull(vault, tmp_path, index=INDEX, sequence=1)
    tables = [pq.read_table(path) for path in (tmp_path / INDEX / "1").glob("*.parquet")]
    assert {row[0] for row in rows[:300]} == set(pa.concat_tables(tables).column("id").to_pylist())
    assert f"sha256 {len(tables)}/{len(tables)}" == report.proven
    again = pull(vault, tmp_path, index=INDEX, sequence=1)
    assert ("unchanged", 0) == (again.verdict, again.bytes_read)


def test_a_damaged_bucket_is_named_and_not_written(exported, tmp_path):
    vault, _, _ = exported
    manifest = manifests.read(vault, INDEX, 2)
    key = manifest.data_key(manifest.parts[0])
    vault.store.put(key, vault.store.get(key)[:-1])
    with pytest.raises(Corrupt, match=manifest.parts[0].digest):
        pull(vault, tmp_path, index=INDEX)
    assert [] == list(tmp_path.rglob("*.parquet"))


def test_the_difference_names_the_rows(exported):
    vault, rows, _ = exported
    changes = diff(vault, INDEX, 1, 2)
    assert ([rows[300][0]], [rows[3][0]], [rows[7][0]]) == (changes.added, changes.removed, changes.changed)
    lines = render_diff(INDEX, 1, 2, changes)
    assert lines[0].startswith("products 1 -> 2: 300 -> 300 rows; 1 rows added, 1 removed, 1 changed; ")
    assert f"  changed  {rows[7][0]}" in lines


def test_a_sequence_that_is_not_there_is_an_error(exported):
    with pytest.raises(NotFound):
        diff(exported[0], INDEX, 1, 9)


def test_a_preview_says_what_a_rebuild_would_do_and_does_nothing(exported):
    vault = exported[0]
    target = make_site("memory", lambda: "")
    assert "products: nothing -> sequence 2, 300 rows" == preview(vault, target.store, index=INDEX).sentence
    rebuild(vault, target.store, index=INDEX, sequence=1)
    wanted = "products: sequence 1, 300 rows -> sequence 2, 300 rows"
    assert wanted == preview(vault, target.store, index=INDEX, deletes_max=300).sentence
    unknown = "; refused if more than 299 of the rows would vanish"
    assert f"{wanted}{unknown}" == preview(vault, target.store, index=INDEX, deletes_max=299).sentence
    assert 300 == target.store.describe().rows
    rebuild(vault, target.store, index=INDEX)
    assert "unchanged" == preview(vault, target.store, index=INDEX).verdict
    assert ("changed", 300) == whole_of(preview(vault, target.store, index=INDEX, full=True))


def whole_of(report):
    return report.verdict, report.items_new


def test_a_preview_refuses_what_the_rebuild_is_sure_to_refuse(exported):
    vault, rows, site = exported
    target = make_site("memory", lambda: "")
    rebuild(vault, target.store, index=INDEX)
    site.delete([row[0] for row in rows[100:200]])
    export(site.store, vault, index=INDEX, deletes_max=100)
    for run in (preview, rebuild):
        with pytest.raises(Refused, match="would vanish, more than the limit of 99"):
            run(vault, target.store, index=INDEX, deletes_max=99)
        assert "3" == run(vault, make_site("memory", lambda: "").store, index=INDEX, deletes_max=99).version
    rebuild(vault, target.store, index=INDEX, deletes_max=100)
    newest = manifests.read(vault, INDEX, 3).key
    vault.store.delete(newest)
    for run in (preview, rebuild):
        with pytest.raises(Conflict, match="serves sequence 3, the newest in memory://vault is 2"):
            run(vault, target.store, index=INDEX)
