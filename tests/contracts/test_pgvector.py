"""What is PostgreSQL's own: types, indexes, privileges, locks, and what is refused by name."""

# ruff: noqa: S608 - the names in these statements are the test's own

from __future__ import annotations

import sys
import threading
import time
from dataclasses import replace

import numpy as np
import psycopg
import pytest
from psycopg import sql

from sandbox.postgres import PASSWORD_VARIABLE, accepts_connections
from sandbox.process import free_port, launch
from tests.postgres_fixture import databases_on
from tests.real_servers import real
from tests.vector_sites import TABLE, PgvectorSite, make_rows
from understudy.errors import (
    Conflict,
    Corrupt,
    Denied,
    InvalidConfig,
    NotFound,
    Permanent,
    Refused,
    Unreachable,
    Unsupported,
)
from understudy.objects.memory import MemoryStore
from understudy.vault.store import open_vault
from understudy.vectors import manifest
from understudy.vectors.digest import index_digest
from understudy.vectors.export import export
from understudy.vectors.interface import Hnsw, PlainIndex
from understudy.vectors.pgvector import PgvectorStore
from understudy.vectors.pgvector_config import PgvectorConfig
from understudy.vectors.rebuild import rebuild
from understudy.vectors.verify import verify

INDEX = "products"


@pytest.fixture(params=["sandbox", real("postgres")])
def make_database(request):
    if request.param == "sandbox":
        return databases_on(request.getfixturevalue("postgres_dsn"))
    return databases_on(request.getfixturevalue("real_server")(request.param)["UNDERSTUDY_POSTGRES"])


@pytest.fixture
def source(make_database):
    return PgvectorSite(make_database())


@pytest.fixture
def target(make_database):
    return PgvectorSite(make_database())


@pytest.fixture
def vault():
    return open_vault(MemoryStore("vault"))


def carry(source, target, vault, **options):
    export(source.store, vault, index=INDEX)
    return rebuild(vault, target.store, index=INDEX, **options)


def texts(site):
    return site.execute(f"SELECT t::text FROM {TABLE} t ORDER BY id")


def test_every_supported_type_crosses_exactly(source, target, vault):
    source.execute(
        f"CREATE TABLE {TABLE} (id bigserial PRIMARY KEY, v vector(3) NOT NULL, t text NOT NULL DEFAULT 'new', "
        "s varchar(40), a int2, b int4, c int8, f float4, d float8, ok bool, j jsonb, at timestamptz DEFAULT now(), "
        "u uuid, n numeric, money numeric(12,2))"
    )
    source.execute(
        f"INSERT INTO {TABLE} (v, t, s, a, b, c, f, d, ok, j, at, u, n, money) VALUES "
        "('[1,2,3]', 'naïve \t\n', 'x', -32768, 2147483647, -9223372036854775808, 'NaN', '-0', true, "
        """'{"b": [1, null, "é"], "a": 1.50}', '2026-11-21 10:00:00.123456+02', gen_random_uuid(), '-0.00010', """
        "12.30), "
        "('[0,-0,1e-40]', '', NULL, 0, 0, 0, 'Infinity', 1e-310, false, 'null', 'infinity', NULL, 'NaN', NULL), "
        "('[3.4e38,1,1]', 'x', 'y', NULL, NULL, NULL, NULL, NULL, NULL, NULL, '4713-01-01 00:00:00+00 BC', NULL, "
        "12345678901234567890123456789.123456789, 0.00)"
    )
    carry(source, target, vault)
    assert texts(source) == texts(target)
    definition = (
        "SELECT column_name, data_type, character_maximum_length, numeric_precision, is_nullable, "
        f"CASE WHEN column_name <> 'id' THEN column_default END FROM information_schema.columns "
        f"WHERE table_name = '{TABLE}' ORDER BY ordinal_position"
    )
    assert source.execute(definition) == target.execute(definition)
    assert 0 == verify(vault, target.store, index=INDEX).items_new


def test_a_table_that_numbers_its_rows_goes_on_numbering(source, target, vault):
    source.execute(f"CREATE TABLE {TABLE} (id bigserial PRIMARY KEY, v vector(2))")
    source.execute(f"INSERT INTO {TABLE} (v) SELECT '[1,2]' FROM generate_series(1, 5)")
    carry(source, target, vault)
    target.execute(f"INSERT INTO {TABLE} (v) VALUES ('[3,4]')")
    assert [(6,)] == target.execute(f"SELECT max(id) FROM {TABLE}")


def test_half_vectors_cross_bit_for_bit(source, target, vault):
    source.execute(f"CREATE TABLE {TABLE} (id int PRIMARY KEY, v halfvec(4))")
    source.execute(f"INSERT INTO {TABLE} VALUES (1, '[1,-0,6e-8,65504]'), (2, '[0.1,0.2,0.3,0.4]')")
    source.execute(f"CREATE INDEX ON {TABLE} USING hnsw (v halfvec_ip_ops)")
    carry(source, target, vault)
    assert texts(source) == texts(target)
    query = np.array([1, 2, 3, 4], np.float32)
    assert source.store.query(query, 2, exact=True) == target.store.query(query, 2, exact=True)
    assert "ip" == target.store.describe().schema.metric


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine", "l1"])
def test_the_parameters_of_the_graph_are_those_of_the_source(source, target, vault, metric):
    rows = make_rows(200)
    source.execute(f"CREATE TABLE {TABLE} (id text PRIMARY KEY, embedding vector(8), title text, price int)")
    source.upsert(rows)
    source.execute(
        f"CREATE INDEX my_graph ON {TABLE} USING hnsw (embedding vector_{metric}_ops) "
        "WITH (m = 7, ef_construction = 33)"
    )
    carry(source, target, vault)
    (graph,) = target.store.describe().schema.hnsw
    assert ("my_graph", metric, 7, 33) == (graph.name, graph.metric, graph.m, graph.ef_construction)
    for row in rows[:5]:
        query = np.array(row[1], np.float32)
        exact = target.store.query(query, 10, exact=True)
        assert source.store.query(query, 10, exact=True) == exact
        assert sorted(exact, key=lambda hit: (-hit.score, hit.id)) == exact


@pytest.mark.parametrize("exact", [False, True])
def test_the_graph_is_asked_for_approximate_hits_and_not_for_exact_ones(source, exact):
    rows = make_rows(3000 if exact else 30)
    source.create(rows)
    if exact:
        # The planner is made to like the graph.
        source.execute(f"ALTER DATABASE {source.store.config.database} SET enable_seqscan = off")
        source.execute(f"ALTER DATABASE {source.store.config.database} SET enable_sort = off")
    source.store.query(np.array(rows[0][1], np.float32), 5, exact=exact)
    source.store.close()
    scans = "SELECT sum(idx_scan)::int FROM pg_stat_user_indexes WHERE indexrelname = 'products_embedding_idx'"
    deadline = time.monotonic() + 10
    while not (found := source.execute(scans)[0][0]) and time.monotonic() < deadline and not exact:
        time.sleep(0.05)
    assert (0 if exact else 1) == found


def test_other_indexes_are_made_again(source, target, vault):
    source.execute(f"CREATE TABLE {TABLE} (id text PRIMARY KEY, embedding vector(8), title text, price int, j jsonb)")
    source.execute(f'CREATE UNIQUE INDEX "odd USING name" ON {TABLE} USING btree (title) INCLUDE (price)')
    source.execute(f"CREATE INDEX cheap ON {TABLE} (price DESC, lower(title)) WHERE price < 10")
    source.execute(f"CREATE INDEX inside ON {TABLE} USING gin (j jsonb_path_ops)")
    source.execute(f"INSERT INTO {TABLE} VALUES ('a', '[1,2,3,4,5,6,7,8]', 't', 1, '{{}}')")
    carry(source, target, vault)
    listing = f"SELECT indexdef FROM pg_indexes WHERE tablename = '{TABLE}' ORDER BY 1"
    assert source.execute(listing) == target.execute(listing)
    assert 4 == len(source.execute(listing))
    with pytest.raises(psycopg.errors.UniqueViolation):
        target.execute(f"INSERT INTO {TABLE} VALUES ('b', NULL, 't', 1, NULL)")


def test_defaults_and_expressions_of_every_kind_are_made_again(source, target, vault):
    source.execute(
        f"CREATE TABLE {TABLE} (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), embedding vector(2) DEFAULT '[0,0]', "
        "title varchar(40) DEFAULT 'it''s; \\ --', body text DEFAULT lower('X'), price numeric(12,2) DEFAULT 0.50, "
        "low int DEFAULT -1, j jsonb DEFAULT '{}', at timestamptz(3) DEFAULT timezone('utc', now()), "
        "til timestamptz DEFAULT now() + interval '1 day', born timestamptz DEFAULT CURRENT_TIMESTAMP(3), "
        "ok bool DEFAULT true, by text DEFAULT CURRENT_USER, epoch int8 DEFAULT extract(epoch FROM now())::int8, "
        '"order" text DEFAULT NULL)'
    )
    for definition in (
        'USING btree ("left"(body, 3) DESC NULLS LAST, md5(title)) WITH (fillfactor = 70, deduplicate_items = off)',
        'USING btree (body COLLATE "C" text_pattern_ops, "order") INCLUDE (price) NULLS NOT DISTINCT',
        "USING hash (title)",
        "USING brin (at) WITH (pages_per_range = 32, autosummarize = on)",
        "USING gin (to_tsvector('english', coalesce(title, '') || ' ' || coalesce(j ->> 'body', '')))",
        "USING btree ((j -> 'a' ->> 'b'), ((j ->> 'n')::int))",
        "USING btree (substring(body from 1 for 3), trim(both '-' from body), nullif(low, 0), greatest(low, 1))",
        "USING btree (date_trunc('day', at AT TIME ZONE 'UTC'), extract(year FROM at AT TIME ZONE 'UTC'))",
        "USING btree (id) WHERE title IN ('a', 'it''s; --') AND NOT (low IS DISTINCT FROM -1 OR ok)",
        "USING btree (id) WHERE body IN ('a', 'b') AND price BETWEEN 1 AND 10.5 AND body LIKE 'C:\\\\%' AND j ? 'k'",
        "USING btree ((CASE WHEN low > 10 THEN 'dear' WHEN low IS NULL THEN NULL ELSE 'low' END), abs(-low))",
        "USING btree (id) WHERE at > '2026-01-01'::timestamptz AND ok IS NOT TRUE AND (ARRAY[1, 2])[1] = low",
    ):
        source.execute(f"CREATE INDEX ON {TABLE} {definition}")
    source.execute(f"INSERT INTO {TABLE} DEFAULT VALUES")
    carry(source, target, vault)
    assert texts(source) == texts(target)
    # A list of varchars is told in other words when it was made from its own; see ``settled``.
    listing = f"SELECT indexdef FROM pg_indexes WHERE tablename = '{TABLE}' AND indexdef !~ 'DISTINCT FROM' ORDER BY 1"
    assert source.execute(listing) == target.execute(listing)
    assert source.store.describe().schema.definition() == target.store.describe().schema.definition()
    assert 12 == len(source.execute(listing))
    defaults = (
        "SELECT column_name, data_type, column_default FROM information_schema.columns "
        f"WHERE table_name = '{TABLE}' ORDER BY ordinal_position"
    )
    assert source.execute(defaults) == target.execute(defaults)


EVIL = "DROP TABLE canary"


def changed(schema, *, index=None, m=12, metric="cosine", **of_price):
    """Return a schema with parts of somebody else's."""
    return replace(
        schema,
        columns=(*schema.columns[:3], replace(schema.columns[3], **of_price)),
        indexes=(*schema.indexes, *([PlainIndex("i", index)] if index else [])),
        hnsw=(Hnsw("h", "cosine", m=m, ef_construction=48),),
        metric=metric,
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"index": f"USING btree (price); {EVIL}; --"}, "the index i"),
        ({"index": "USING btree (spring(price))"}, "the index i"),
        ({"default": f"0); {EVIL}; --"}, "the default of column price"),
        ({"default": "spring(1)"}, "the default of column price"),
        ({"declared": f"integer); {EVIL}; --"}, "the type of column price"),
        ({"m": f"2); {EVIL}; --"}, "the index h"),
        ({"metric": EVIL}, "the metric"),
    ],
)
def test_what_somebody_else_wrote_into_a_manifest_is_never_run(source, target, vault, change, what):
    source.create(make_rows(20))
    target.create(make_rows(3))
    target.execute("CREATE TABLE canary AS SELECT 'alive' AS state")
    # They end the canary's life when an index is made of them; what is immutable may call what is not.
    for name, kind, body in (
        ("snap", "VOLATILE", "UPDATE public.canary SET state = 'dead'"),
        ("spring", "IMMUTABLE", "PERFORM public.snap($1)"),
    ):
        target.execute(
            f"CREATE FUNCTION {name}(int) RETURNS int LANGUAGE plpgsql {kind} AS $$ BEGIN {body}; RETURN $1; END $$"
        )
    export(source.store, vault, index=INDEX)
    state = manifest.newest(vault, INDEX)
    schema = changed(state.schema, **change)
    # Whoever writes to the bucket can state the digest that fits.
    digest = index_digest(schema, state.buckets, [(part.bucket, part.rows, part.digest) for part in state.parts])
    vault.store.put(state.key, replace(state, schema=schema, digest=digest).encode())
    with pytest.raises(Corrupt, match=f"{state.key} in .* holds what is not to be run: .*{what}") as caught:
        rebuild(vault, target.store, index=INDEX)
    assert (8, True) == (caught.value.exit_code, caught.value.hint.startswith("nothing was run"))
    assert [("alive",)] == target.execute("SELECT state FROM canary")
    assert (["canary", TABLE], 3) == (target.tables(), target.store.describe().rows)


def test_the_server_takes_one_statement_at_a_time_from_a_rebuild(source, target, vault):
    source.create(make_rows(5))
    export(source.store, vault, index=INDEX)
    target.execute("CREATE TABLE canary (id int)")
    schema = manifest.newest(vault, INDEX).schema
    with pytest.raises(Permanent, match="multiple commands"), target.store.green(schema, 1) as green:
        green._run(sql.SQL("SELECT 1; DROP TABLE {}").format(sql.Identifier("canary")))
    assert ["canary"] == target.tables()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (f"CREATE INDEX odd ON {TABLE} (plus(price))", "products has what .*the index odd, .*the function plus is not"),
        (f"ALTER TABLE {TABLE} ALTER price SET DEFAULT plus(1)", "the default of column price, plus.1.: the function"),
    ],
)
def test_what_a_rebuild_would_not_run_is_refused_when_it_is_exported(source, vault, statement, words):
    source.create(make_rows(5))
    source.execute("CREATE FUNCTION plus(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1'")
    source.execute(statement)
    with pytest.raises(Unsupported, match=words) as caught:
        export(source.store, vault, index=INDEX)
    assert "or drop it" in caught.value.hint or "drop it, or" in caught.value.hint
    assert [] == list(vault.store.list("vectors/"))
    # What serves can still be asked.
    assert 5 == source.store.describe().rows


def test_what_is_not_carried_over_is_said(source, vault):
    source.create(make_rows(5))
    source.execute(f"ALTER TABLE {TABLE} ADD CONSTRAINT sane CHECK (price >= 0)")
    report = export(source.store, vault, index=INDEX)
    assert report.sentence.endswith("; not carried over: check sane")


def test_who_may_read_what_serves_may_read_what_replaces_it(source, target, vault):
    source.create(make_rows(10))
    target.create(make_rows(3))
    target.execute(f"GRANT SELECT ON {TABLE} TO PUBLIC")
    carry(source, target, vault)
    found = target.execute(f"SELECT relacl::text FROM pg_class WHERE relname = '{TABLE}'")
    assert "{understudy=arwdDxtm/understudy,=r/understudy}" == found[0][0]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("x point", r"column x \(point\)"),
        ("x text[]", r"column x \(text\[\]\)"),
        ("x json", r"column x \(json\)"),
        ("x timestamp", r"column x \(timestamp without time zone\)"),
        ("x sparsevec(3)", r"column x \(sparsevec\(3\)\)"),
        ("x int GENERATED ALWAYS AS (1) STORED", r"column x \(integer\) of products is generated"),
        ("x vector", r"column x \(vector\) of products has no dimension"),
        ("x vector(3)", "2 vector columns"),
    ],
)
def test_what_cannot_be_carried_exactly_is_named(source, vault, column, words):
    source.execute(f"CREATE TABLE {TABLE} (id int PRIMARY KEY, v vector(3), {column})")
    with pytest.raises(Unsupported, match=words):
        export(source.store, vault, index=INDEX)


def test_a_table_without_a_key_needs_a_named_id(source, target, vault):
    source.execute(f"CREATE TABLE {TABLE} (sku text, v vector(2))")
    source.execute(f"INSERT INTO {TABLE} VALUES ('a', '[1,2]'), ('b', '[3,4]')")
    with pytest.raises(Unsupported, match="names a row"):
        source.store.describe()
    named, other = (PgvectorStore(f"{s.url}?table={TABLE}&user=understudy&id=sku") for s in (source, target))
    export(named, vault, index=INDEX)
    assert 2 == rebuild(vault, other, index=INDEX).items_new


def test_an_ivfflat_index_is_refused(source):
    source.create(make_rows(50))
    source.execute(f"CREATE INDEX ivf ON {TABLE} USING ivfflat (embedding vector_l2_ops) WITH (lists = 2)")
    with pytest.raises(Unsupported, match="the index ivf of products is ivfflat"):
        source.store.describe()


def test_a_view_on_what_serves_is_refused_by_name_before_anything_is_built(source, target, vault):
    source.create(make_rows(5))
    target.create(make_rows(3))
    target.execute(f"CREATE VIEW shop AS SELECT id FROM {TABLE}")
    with pytest.raises(Unsupported, match="shop depends on the table products"):
        carry(source, target, vault)
    assert [TABLE] == target.tables()


def test_two_rebuilds_of_one_table_do_not_meet(source, target, vault, monkeypatch):
    monkeypatch.setattr("understudy.vectors.pgvector_green._LOCK_SECONDS", 0.3)
    source.create(make_rows(5))
    export(source.store, vault, index=INDEX)
    schema = manifest.newest(vault, INDEX).schema
    with target.store.green(schema, 1), pytest.raises(Conflict, match="another rebuild"):
        rebuild(vault, target.store, index=INDEX)
    assert "changed" == rebuild(vault, target.store, index=INDEX).verdict


def test_rows_written_while_a_rebuild_runs_count_as_vanishing(source, target, vault):
    source.create(make_rows(30))
    export(source.store, vault, index=INDEX)
    target.create(make_rows(30))

    def write_late(what, done, *_):
        if what.endswith(": swap") and not done:
            target.upsert([("late", make_rows(1)[0][1], None, None)])

    with pytest.raises(Refused, match="1 rows"):
        rebuild(vault, target.store, index=INDEX, deletes_max=0, progress=write_late)
    assert 31 == target.store.describe().rows


def test_a_reader_that_never_ends_holds_up_the_swap_and_nothing_breaks(source, target, vault, monkeypatch):
    monkeypatch.setattr("understudy.vectors.pgvector_green._LOCK_SECONDS", 0.2)
    source.create(make_rows(30))
    target.create(make_rows(3))
    export(source.store, vault, index=INDEX)
    with target.connect() as reader:
        reader.autocommit = False
        reader.execute(f"SELECT count(*) FROM {TABLE}")
        threading.Timer(0.7, reader.rollback).start()
        assert "changed" == rebuild(vault, target.store, index=INDEX).verdict


def test_an_export_sees_each_transaction_whole(source):
    source.create(make_rows(400))
    stop = threading.Event()
    vector = str(make_rows(1)[0][1])

    def write():
        with source.connect() as connection:
            number = 0
            while not stop.is_set():
                number += 1
                with connection.transaction():
                    for side in ("left", "right"):
                        connection.execute(f"INSERT INTO {TABLE} VALUES (%s, %s::vector)", (f"{side}-{number}", vector))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(5):
            with source.store.snapshot(4) as snapshot:
                parts = [part() for part in snapshot.slices]
                ids = [i for part in parts for batch in part for i in batch.column(0).to_pylist()]
            assert len(ids) == len(set(ids)) == snapshot.description.rows
            sides = [{i.partition("-")[2] for i in ids if i.startswith(side)} for side in ("left", "right")]
            assert sides[0] == sides[1]
    finally:
        stop.set()
        writer.join()


def test_a_table_of_many_pages_is_cut_into_slices_that_share_no_row(source):
    source.create(make_rows(3000))
    with source.store.snapshot(4) as snapshot:
        counts = [sum(batch.num_rows for batch in part()) for part in snapshot.slices]
    assert 4 == len(counts)
    assert 3000 == sum(counts)
    assert min(counts) > 0


def test_queries_go_on_after_the_server_cut_an_idle_connection(source):
    source.create(make_rows(20))
    query = np.array(make_rows(1)[0][1], np.float32)
    before = source.store.query(query, 3, exact=True)
    source.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'understudy'"
    )
    assert before == source.store.query(query, 3, exact=True)


def test_queries_follow_a_swap(source, target, vault):
    source.create(make_rows(50))
    target.create(make_rows(5, seed=9), {})
    query = np.array(make_rows(1)[0][1], np.float32)
    target.store.query(query, 3, exact=False)
    carry(source, target, vault)
    assert source.store.query(query, 3, exact=True) == target.store.query(query, 3, exact=False)


def test_the_server_notices_a_killed_client_in_the_middle_of_a_statement(source):
    with source.store._connection() as connection:
        assert ("1s",) == connection.execute("SHOW client_connection_check_interval").fetchone()


def test_errors_say_what_is_wrong(make_database):
    url = make_database()
    with pytest.raises(NotFound, match=r"table public\.absent is not in"):
        PgvectorStore(f"{url}?table=absent&user=understudy").describe()
    with pytest.raises(NotFound, match="database"):
        PgvectorStore(f"{url}_absent?table=t&user=understudy").describe()
    with pytest.raises(Unreachable, match="does not answer"):
        PgvectorStore(f"pgvector://127.0.0.1:{free_port()}/vectors?table=t").describe()


def test_a_password_is_asked_for_and_never_shown(tmp_path):
    port = free_port()
    server = launch(
        [sys.executable, "-m", "sandbox.postgres", "--port", str(port), "--data", tmp_path / "data"],
        name="PostgreSQL",
        log=tmp_path / "log",
        ready=lambda: accepts_connections("127.0.0.1", port),
        env={PASSWORD_VARIABLE: "cor'rect"},
    )
    try:
        url = f"pgvector://127.0.0.1:{port}/vectors?table=products&user=understudy"
        for password in (None, "wr0ng"):
            with pytest.raises(Denied) as caught:
                PgvectorStore(url, password=password).describe()
            assert "wr0ng" not in str(caught.value)
        with pytest.raises(NotFound, match="products"):
            PgvectorStore(url, password="cor'rect").describe()
        assert "cor'rect" not in repr(PgvectorStore(url, password="cor'rect").config)
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("pgvector://host/db", "names no host, database or table"),
        ("pgvector:///db?table=t", "names no host"),
        ("pgvector://u:secret@host/db?table=t", "holds a password"),
        ("pgvector://host/db?table=t&colour=red", "colour is no option"),
        ("pgvector://host:port/db?table=t", "cannot be read"),
        ("pgvector://host/db?table=t&workers=many", "cannot be read"),
        ("pgvector://host/db?table=t&metric=far", "far is no metric"),
        (f"pgvector://host/db?table={'t' * 49}", "longer than 48"),
    ],
)
def test_a_url_that_is_wrong_says_why(url, words):
    with pytest.raises(InvalidConfig, match=words) as caught:
        PgvectorConfig.from_url(url)
    assert "secret" not in str(caught.value)


def test_a_url_says_it_all():
    config = PgvectorConfig.from_url(
        "pgvector://understudy@db.acme:5433/vectors?table=products&schema=shop&id=sku&workers=4&sslmode=require"
    )
    assert ("db.acme", 5433, "vectors", "products") == (config.host, config.port, config.database, config.table)
    assert ("understudy", "shop", "sku", 4) == (config.user, config.schema, config.id, config.workers)
    assert (("sslmode", "require"),) == config.options
