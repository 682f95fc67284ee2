"""A rebuild is killed at every stage: what served goes on serving, the next run completes, nothing is left over."""

# ruff: noqa: S608 - the names in these statements are the test's own

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest

from tests.vector_sites import LABELS, TABLE, PgvectorSite
from understudy.objects.file import FileStore
from understudy.vault.store import open_vault
from understudy.vectors.export import export
from understudy.vectors.interface import Column, Hnsw, PlainIndex, Schema
from understudy.vectors.memory import MemoryVectors
from understudy.vectors.rebuild import rebuild
from understudy.vectors.verify import verify

# Enough that the graph takes about a second: the kill must fall into the middle of it.
ROWS = 6000
DIMENSION = 64


@pytest.fixture(scope="module")
def vault(tmp_path_factory):
    return open_vault(FileStore(tmp_path_factory.mktemp("vault")))


def fill(site):
    """What serves before: fewer rows, as an earlier state would have."""
    vectors = np.random.default_rng(2).standard_normal((50, DIMENSION)).astype(np.float32)
    site.execute(f"CREATE TABLE {TABLE} (id int PRIMARY KEY, embedding vector({DIMENSION}))")
    with site.connect() as connection, connection.cursor() as cursor:
        values = [(number, str(vector)) for number, vector in enumerate(vectors.tolist())]
        cursor.executemany(f"INSERT INTO {TABLE} VALUES (%s, %s::vector)", values)


def fill_vault(vault):
    if list(vault.store.list("vectors/")):
        return
    schema = Schema(
        columns=(
            Column("id", "int4", "integer", nullable=False),
            Column("embedding", "vector", f"vector({DIMENSION})"),
        ),
        id="id",
        vector="embedding",
        dimension=DIMENSION,
        metric="l2",
        hnsw=(Hnsw("products_embedding_idx", "l2"),),
        indexes=(PlainIndex("products_pkey", "USING btree (id)", unique=True, primary=True),),
    )
    vectors = np.random.default_rng(1).standard_normal((ROWS, DIMENSION)).astype(np.float32)
    arrays = [pa.array(np.arange(ROWS, dtype=np.int32)), pa.array(list(vectors), schema.arrow().field(1).type)]
    source = MemoryVectors("source")
    source.replace(schema, pa.Table.from_arrays(arrays, schema=schema.arrow()), LABELS)
    export(source, vault, index="products")


def run_child(vault, target, stage):
    folder = str(vault.store.url).removeprefix("file://")
    url = f"{target.url}?table={TABLE}&user=understudy"
    command = [sys.executable, "-m", "tests.drill.rebuild_child", folder, url, stage]
    return subprocess.run(command, check=False).returncode


def green_backends(site):
    """What the server still does for a rebuild's clients."""
    return site.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'understudy' "
        "AND state = 'active' AND query LIKE '%USING hnsw%' AND pid <> pg_backend_pid()"
    )[0][0]


@pytest.mark.parametrize(
    "stage",
    ["load", "read back", "index", "hnsw", "swap"],
    ids=["during the copy", "before the proof", "before the index", "during the index", "before the swap"],
)
def test_a_rebuild_killed(make_database, vault, stage):
    target = PgvectorSite(make_database())
    fill_vault(vault)
    fill(target)
    before = target.execute(f"SELECT id, embedding::text FROM {TABLE} ORDER BY id")
    assert -9 == run_child(vault, target, stage)
    assert before == target.execute(f"SELECT id, embedding::text FROM {TABLE} ORDER BY id")
    assert [TABLE, f"{TABLE}__g1"] == target.tables()
    if stage == "hnsw":
        assert 1 <= green_backends(target), "the kill did not fall into the build of the index"

    started = time.monotonic()
    report = rebuild(vault, target.store, index="products")
    assert "changed" == report.verdict
    assert time.monotonic() - started < 20
    assert [TABLE] == target.tables()
    assert ROWS == verify(vault, target.store, index="products").items_total
    assert 0 == green_backends(target)
    assert ["products_embedding_idx", "products_pkey"] == [
        row[0] for row in target.execute("SELECT indexname FROM pg_indexes WHERE tablename = 'products' ORDER BY 1")
    ]


def test_a_rebuild_killed_after_the_swap_is_done(make_database, vault):
    target = PgvectorSite(make_database())
    fill_vault(vault)
    assert -9 == run_child(vault, target, "swapped")
    assert "unchanged" == rebuild(vault, target.store, index="products").verdict
    assert ROWS == verify(vault, target.store, index="products").items_total
