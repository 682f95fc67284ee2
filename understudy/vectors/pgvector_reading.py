"""Rows of a table of pgvector: one consistent state of all of them, and the nearest to a vector."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from psycopg import sql

from understudy.errors import Unsupported
from understudy.vectors import copy_binary
from understudy.vectors import pgvector_definition as definition
from understudy.vectors.interface import Hit
from understudy.vectors.pgvector_catalog import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import psycopg
    import pyarrow as pa

    from understudy.vectors.interface import Description, Metric, Schema
    from understudy.vectors.pgvector_config import PgvectorConfig

    Connect = Callable[[], AbstractContextManager[psycopg.Connection[Any]]]

#: Values of ``hnsw.ef_search`` to try; the first is the server's own.
EFFORTS = (40, 100, 200, 400, 1000)
_OPERATORS: dict[Metric, str] = {"cosine": "<=>", "ip": "<#>", "l2": "<->", "l1": "<+>"}
_PAGE_BYTES = 8192


@dataclass(slots=True)
class _PgvectorSnapshot:
    watermark: datetime
    description: Description
    slices: Sequence[Callable[[], Iterator[pa.RecordBatch]]]


@contextmanager
def snapshot(
    connect: Connect, config: PgvectorConfig, table: str, slices: int, *, like: Schema | None = None
) -> Iterator[_PgvectorSnapshot]:
    """Fix one state of a table by an exported snapshot; slices are ranges of the table's pages (ctid).

    Args:
        connect: opens a connection of its own for each slice.
        config: where the table is.
        table: its name.
        slices: into how many parts, at the most.
        like: its schema where that is known already.

    Raises:
        NotFound, Unsupported.
    """
    with connect() as leader:
        # Before the snapshot, so that what commits in between is at worst in both this run and the next.
        clock = _one(
            leader.execute(
                "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_xact_replay_timestamp() ELSE clock_timestamp() END"
            )
        )
        if clock is None:
            message = f"{config.host} is a replica that has replayed nothing yet, so its data has no known age"
            raise Unsupported(message, hint="export from the primary")
        watermark: datetime = clock.astimezone(UTC)
        leader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        name = str(_one(leader.execute("SELECT pg_export_snapshot()")))
        description = describe(leader, config, table, schema=like)
        if like is None:
            _refuse_unreadable(description.schema, table)
        size = leader.execute(
            "SELECT pg_relation_size(to_regclass(%s))", (sql.Identifier(config.schema, table).as_string(leader),)
        )
        pages = int(_one(size)) // _PAGE_BYTES
        count = max(1, min(slices, pages or 1))
        cuts = [pages * place // count for place in range(count)]
        ranges: list[tuple[int, int | None]] = list(zip(cuts, [*cuts[1:], None], strict=True))
        functions = [
            partial(_read_range, connect, config, table, description.schema, name=name, pages=each) for each in ranges
        ]
        yield _PgvectorSnapshot(watermark, description, functions)


def _refuse_unreadable(schema: Schema, table: str) -> None:
    """Refuse what a rebuild would refuse, on a calm day. Raises Unsupported."""
    try:
        definition.read(schema)
    except definition.Unreadable as error:
        message = f"{table} has what cannot be made again elsewhere: {error}"
        if error.what.startswith("the index"):
            hint = (
                "drop it, or make it of columns, literals and PostgreSQL's own immutable functions "
                "(lower, coalesce, to_tsvector, md5, ...)"
            )
        elif error.what.startswith("the default"):
            hint = "make it a literal, now(), gen_random_uuid() or an identity, or drop it"
        else:
            hint = "change it at the source"
        raise Unsupported(message, hint=hint) from error


def _read_range(
    connect: Connect, config: PgvectorConfig, table: str, schema: Schema, *, name: str, pages: tuple[int, int | None]
) -> Iterator[pa.RecordBatch]:
    first, behind = pages
    names = sql.SQL(", ").join(sql.Identifier(column.name) for column in schema.columns)
    where = sql.SQL("ctid >= {}::tid").format(sql.Literal(f"({first},0)"))
    if behind is not None:
        where += sql.SQL(" AND ctid < {}::tid").format(sql.Literal(f"({behind},0)"))
    statement = sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT (FORMAT BINARY)").format(
        names, sql.Identifier(config.schema, table), where
    )
    with connect() as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(name)))
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            yield from copy_binary.read(schema, copy)


def search(
    connection: psycopg.Connection[Any],
    config: PgvectorConfig,
    table: str,
    schema: Schema,
    vector: np.ndarray,
    *,
    k: int,
    exact: bool,
    effort: int,
) -> list[Hit]:
    """Return the ``k`` nearest rows as ``VectorStore.query`` does; an ``effort`` of 0 leaves it to the server."""
    # Every float32 is a double, whose text reads back as the same float32.
    text = "[" + ",".join(map(str, np.asarray(vector, np.float32).tolist())) + "]"
    kind = "vector" if schema.element == "float4" else "halfvec"
    distance = sql.SQL("{} {} %s::{}").format(
        sql.Identifier(schema.vector), sql.SQL(_OPERATORS[schema.metric]), sql.Identifier(kind)
    )
    identifier = sql.Identifier(schema.id)
    # The graph's scan ends at k rows by distance alone; an exact scan settles ties at the end by id as well.
    order = sql.SQL("d, {}").format(identifier) if exact else sql.SQL("d")
    statement = sql.SQL(
        "SELECT {id}, d FROM (SELECT {id}, {distance} AS d FROM {table} WHERE {vector} IS NOT NULL "
        "ORDER BY {order} LIMIT %s) AS nearest ORDER BY d, {id}"
    ).format(
        id=identifier,
        distance=distance,
        table=sql.Identifier(config.schema, table),
        vector=sql.Identifier(schema.vector),
        order=order,
    )
    with connection.transaction():
        # ef_search cannot be less than k, or k rows would not be found.
        wanted = min(1000, max(effort, k)) if effort or k > EFFORTS[0] else 0
        if exact:
            # Whatever the role or the database sets: the graph could serve this order too, with a sort on top.
            for setting, value in (("indexscan", "off"), ("seqscan", "on"), ("sort", "on")):
                connection.execute(f"SET LOCAL enable_{setting} = {value}")
        elif schema.hnsw:
            # In a small table the planner would rather scan and sort, and a recall measured so would say nothing.
            connection.execute("SET LOCAL enable_seqscan = off")
            connection.execute("SET LOCAL enable_sort = off")
        if wanted and not exact:
            connection.execute(sql.SQL("SET LOCAL hnsw.ef_search = {}").format(sql.Literal(wanted)))
        rows = connection.execute(statement, (text, k), prepare=False).fetchall()
    sign = {"cosine": 1.0, "ip": 0.0, "l2": 0.0, "l1": 0.0}[schema.metric]
    hits = [
        Hit(str(row[0]) if schema.column(schema.id).kind in {"uuid", "text"} else row[0], sign - row[1]) for row in rows
    ]
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))


def _one(cursor: psycopg.Cursor[Any]) -> Any:  # noqa: ANN401 - whatever was selected
    """Return the only value of the only row."""
    row = cursor.fetchone()
    return row[0] if row else None
