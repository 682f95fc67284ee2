"""Two kinds of sites that hold one vector index, for the contract: rows go in as an owner would write them."""

# ruff: noqa: S608 - the names in these statements are the test's own

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import psycopg
import pyarrow as pa

from understudy.vectors.interface import Column, Hnsw, PlainIndex, Schema
from understudy.vectors.memory import MemoryVectors
from understudy.vectors.pgvector import PgvectorStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from understudy.vectors.interface import VectorStore

DIMENSION = 8
LABELS = {"model": "minilm", "model_version": "1", "model_digest": "ab" * 32}
TABLE = "products"

Row = tuple[str, list[float] | None, str | None, int | None]


def make_rows(count: int, *, seed: int = 0) -> list[Row]:
    """Rows as (id, vector, title, price), some with nulls in title and price."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((count, DIMENSION)).astype(np.float32)
    return [
        (f"item-{i}", vectors[i].tolist(), None if i % 7 == 3 else f"título {i}", None if i % 5 == 4 else i * 3)
        for i in range(count)
    ]


class SiteIndex(Protocol):
    """One index at one site, and its owner's hand."""

    store: VectorStore

    def create(self, rows: Sequence[Row], labels: dict[str, Any] | None = None) -> None: ...

    def upsert(self, rows: Sequence[Row]) -> None: ...

    def delete(self, ids: Sequence[str]) -> None: ...

    def label(self, labels: dict[str, Any]) -> None: ...

    def tables(self) -> list[str]: ...


class MemorySite:
    """See SiteIndex."""

    schema = Schema(
        columns=(
            Column("id", "text", "text", nullable=False),
            Column("embedding", "vector", f"vector({DIMENSION})"),
            Column("title", "text", "text"),
            Column("price", "int4", "integer"),
        ),
        id="id",
        vector="embedding",
        dimension=DIMENSION,
        hnsw=(Hnsw("products_embedding_idx", "cosine", 12, 48),),
        indexes=(PlainIndex("products_pkey", "USING btree (id)", unique=True, primary=True),),
    )

    def __init__(self) -> None:
        self.store = MemoryVectors(uuid.uuid4().hex)
        self._rows: dict[str, Row] = {}
        self._labels: dict[str, Any] = {}

    def create(self, rows: Sequence[Row], labels: dict[str, Any] | None = None) -> None:
        self._labels = dict(LABELS if labels is None else labels)
        self._rows = {row[0]: row for row in rows}
        self._put()

    def upsert(self, rows: Sequence[Row]) -> None:
        self._load()
        self._rows.update({row[0]: row for row in rows})
        self._put()

    def delete(self, ids: Sequence[str]) -> None:
        self._load()
        for each in ids:
            del self._rows[each]
        self._put()

    def label(self, labels: dict[str, Any]) -> None:
        self._load()
        self._labels = labels
        self._put()

    def tables(self) -> list[str]:
        return [TABLE]

    def _load(self) -> None:
        self._labels = self.store.describe().labels
        with self.store.snapshot(1) as snapshot:
            for batch in snapshot.slices[0]():
                self._rows.update({row["id"]: tuple(row.values()) for row in batch.to_pylist()})

    def _put(self) -> None:
        columns = list(zip(*self._rows.values(), strict=True)) or [[], [], [], []]
        arrays = [pa.array(values, field.type) for values, field in zip(columns, self.schema.arrow(), strict=True)]
        self.store.replace(self.schema, pa.Table.from_arrays(arrays, schema=self.schema.arrow()), self._labels)


class PgvectorSite:
    """See SiteIndex."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.store = PgvectorStore(f"{url}?table={TABLE}&user=understudy")

    def connect(self) -> psycopg.Connection[Any]:
        config = self.store.config
        return psycopg.connect(
            host=config.host, port=config.port, dbname=config.database, user=config.user, autocommit=True
        )

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self.connect() as connection:
            cursor = connection.execute(statement, parameters or None)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def create(self, rows: Sequence[Row], labels: dict[str, Any] | None = None) -> None:
        self.execute(
            f"CREATE TABLE {TABLE} (id text PRIMARY KEY, embedding vector({DIMENSION}), title text, price int)"
        )
        self.upsert(rows)
        self.execute(
            f"CREATE INDEX ON {TABLE} USING hnsw (embedding vector_cosine_ops) WITH (m = 12, ef_construction = 48)"
        )
        self.label(LABELS if labels is None else labels)

    def upsert(self, rows: Sequence[Row]) -> None:
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.executemany(
                f"INSERT INTO {TABLE} VALUES (%s, %s::vector, %s, %s) ON CONFLICT (id) DO UPDATE "
                "SET embedding = excluded.embedding, title = excluded.title, price = excluded.price",
                [(row[0], None if row[1] is None else str(row[1]), row[2], row[3]) for row in rows],
            )

    def delete(self, ids: Sequence[str]) -> None:
        self.execute(f"DELETE FROM {TABLE} WHERE id = ANY(%s)", (list(ids),))

    def label(self, labels: dict[str, Any]) -> None:
        quoted = json.dumps(labels).replace("'", "''")
        self.execute(f"COMMENT ON TABLE {TABLE} IS '{quoted}'")

    def tables(self) -> list[str]:
        found = self.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        return sorted(row[0] for row in found)


def make_site(kind: str, make_database: Callable[[], str]) -> SiteIndex:
    """Return an empty site of a kind: ``memory`` or ``pgvector``."""
    return MemorySite() if kind == "memory" else PgvectorSite(make_database())
