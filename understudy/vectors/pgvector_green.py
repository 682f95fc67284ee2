"""A fresh table beside the one that serves, and the one transaction that puts it in its place."""

from __future__ import annotations

import json
import logging
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
from psycopg import errors, sql

from understudy.errors import Conflict, NotFound, Refused, Transient, Unsupported
from understudy.vectors import copy_binary
from understudy.vectors import pgvector_catalog as catalog
from understudy.vectors import pgvector_definition as definition
from understudy.vectors import pgvector_reading as reading
from understudy.vectors.interface import NotADefinition

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa

    from understudy.vectors.interface import Description, Green, Hit, Schema, Snapshot
    from understudy.vectors.pgvector_config import PgvectorConfig
    from understudy.vectors.pgvector_definition import Definition
    from understudy.vectors.pgvector_reading import Connect

logger = logging.getLogger("understudy.vectors")

_ADVISORY_CLASS = 0x756E6473  # "unds": the first half of the key under which rebuilds of one table exclude each other
_LOCK_TRIES = 6
_LOCK_SECONDS = 5
_MAINTENANCE_MB = (64, 1024)


@contextmanager
def green_table(connect: Connect, config: PgvectorConfig, schema: Schema, sequence: int) -> Iterator[Green]:
    """Begin ``<table>__g<sequence>`` under an advisory lock that ends with its connection, by whatever cause.

    Raises:
        Conflict: another rebuild of the table holds the lock.
        NotADefinition: the schema holds what is not to be run; the server was not even asked.
    """
    try:
        parts = definition.read(schema)
    except definition.Unreadable as error:
        raise NotADefinition(str(error), hint="nothing was run; export again from the source") from error
    with connect() as leader:
        name = f"{config.schema}.{config.table}"
        try:
            # A holder that was killed while the server built its index is noticed within seconds.
            leader.execute(sql.SQL("SET lock_timeout = {}").format(sql.Literal(f"{_LOCK_SECONDS}s")))
            leader.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (_ADVISORY_CLASS, name))
            leader.execute("RESET lock_timeout")
        except errors.LockNotAvailable as error:
            message = f"another rebuild of {config.table} is running at {config.host}"
            raise Conflict(message, hint="wait for it to end; a lost client is noticed within a minute") from error
        green = _PgvectorGreen(config, connect, leader, schema, parts, sequence=sequence)
        green.begin()
        try:
            yield green
        finally:
            green.drop()
            with suppress(psycopg.Error):
                leader.execute("SELECT pg_advisory_unlock_all()")


class _PgvectorGreen:
    """See ``interface.Green``. The leader's connection holds the lock, and swaps: without the lock there is no swap."""

    efforts: Sequence[int] = reading.EFFORTS

    def __init__(
        self,
        config: PgvectorConfig,
        connection: Connect,
        leader: psycopg.Connection[Any],
        schema: Schema,
        parts: Definition,
        *,
        sequence: int,
    ) -> None:
        self.config = config
        self.schema = schema
        self._parts = parts
        self.table = f"{config.table}__g{sequence}"
        self.served: Description | None = None
        self._connection = connection
        self._leader = leader

    def begin(self) -> None:
        """Remove what killed runs left, remember what serves, make the empty table."""
        for name in catalog.leftovers(self._leader, self.config):
            logger.info("removing %s, left by a rebuild that did not end", name)
            self._leader.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self._identifier(name)))
        try:
            self.served = catalog.describe(self._leader, self.config, self.config.table)
        except NotFound:
            self.served = None
        else:
            self._refuse_dependents()
        columns = sql.SQL(", ").join(self._parts.columns)
        self._run(sql.SQL("CREATE TABLE {} ({})").format(self._identifier(self.table), columns))

    def load(self, batches: Iterable[pa.RecordBatch]) -> int:
        names = sql.SQL(", ").join(sql.Identifier(column.name) for column in self.schema.columns)
        statement = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(self._identifier(self.table), names)
        with self._connection() as connection, connection.transaction(), connection.cursor() as cursor:
            with cursor.copy(statement) as copy:
                for block in copy_binary.write(self.schema, batches):
                    copy.write(block)
            return int(cursor.rowcount)

    @contextmanager
    def snapshot(self, slices: int) -> Iterator[Snapshot]:
        with reading.snapshot(self._connection, self.config, self.table, slices, like=self.schema) as taken:
            yield taken

    def finish(self) -> float:
        """Build the indexes with memory and workers that fit, then gather statistics."""
        table = self._identifier(self.table)
        leader = self._leader
        memory = self._maintenance_mb()
        helpers = max(0, self.config.workers - 1)
        leader.execute(sql.SQL("SET maintenance_work_mem = {}").format(sql.Literal(f"{memory}MB")))
        leader.execute(sql.SQL("SET max_parallel_maintenance_workers = {}").format(sql.Literal(helpers)))
        # The server's own choice goes by the table's pages, where vectors lie out of line: too few.
        leader.execute(sql.SQL("ALTER TABLE {} SET (parallel_workers = {})").format(table, sql.Literal(helpers)))
        for number, index in enumerate(self.schema.indexes):
            unique = sql.SQL("UNIQUE " if index.unique else "")
            name = sql.Identifier(f"{self.table}_i{number}")
            statement = sql.SQL("CREATE {}INDEX {} ON {} ").format(unique, name, table)
            self._run(statement + self._parts.indexes[number])
            if index.primary:
                self._run(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY USING INDEX {}").format(table, name))
        started = time.monotonic()
        for number, graph in enumerate(self.schema.hnsw):
            suffix = f"{graph.metric}_ops"
            operators = sql.Identifier(f"{'vector' if self.schema.element == 'float4' else 'halfvec'}_{suffix}")
            self._run(
                sql.SQL("CREATE INDEX {} ON {} USING hnsw ({} {}) WITH (m = {}, ef_construction = {})").format(
                    sql.Identifier(f"{self.table}_h{number}"),
                    table,
                    sql.Identifier(self.schema.vector),
                    operators,
                    sql.Literal(graph.m),
                    sql.Literal(graph.ef_construction),
                )
            )
        seconds = time.monotonic() - started if self.schema.hnsw else 0.0
        leader.execute(sql.SQL("ALTER TABLE {} RESET (parallel_workers)").format(table))
        for column in self.schema.columns:
            if column.default == "identity":
                self._run(
                    sql.SQL(
                        "SELECT setval(pg_get_serial_sequence({name}, {column}), "
                        "coalesce(max({identifier}), 0) + 1, false) FROM {table}"
                    ).format(
                        name=sql.Literal(table.as_string(leader)),
                        column=sql.Literal(column.name),
                        identifier=sql.Identifier(column.name),
                        table=table,
                    )
                )
        leader.execute(sql.SQL("ANALYZE {}").format(table))
        return seconds

    def describe(self) -> Description:
        return catalog.describe(self._leader, self.config, self.table)

    def vanishing(self) -> int:
        if self.served is None:
            return 0
        old, new = self._identifier(self.config.table), self._identifier(self.table)
        served_id = sql.Identifier(self.served.schema.id)
        found = self._leader.execute(
            sql.SQL(
                "SELECT count(*) FROM {old} s "
                "WHERE NOT EXISTS (SELECT 1 FROM {new} g WHERE g.{id}::text = s.{served}::text)"
                if self.served.schema.column(self.served.schema.id).kind != self.schema.column(self.schema.id).kind
                else "SELECT count(*) FROM {old} s WHERE NOT EXISTS (SELECT 1 FROM {new} g WHERE g.{id} = s.{served})"
            ).format(old=old, new=new, id=sql.Identifier(self.schema.id), served=served_id)
        ).fetchone()
        return int(found[0]) if found else 0

    def query(self, vector: np.ndarray, k: int, *, exact: bool, effort: int | None = None) -> list[Hit]:
        return reading.search(
            self._leader, self.config, self.table, self.schema, vector, k=k, exact=exact, effort=effort or 0
        )

    def sample(self, count: int) -> list[np.ndarray]:
        column, identifier = sql.Identifier(self.schema.vector), sql.Identifier(self.schema.id)
        # Any order will do that has nothing to do with the vectors and is the same everywhere.
        found = self._leader.execute(
            sql.SQL("SELECT {}::text FROM {} WHERE {} IS NOT NULL ORDER BY md5({}::text), {} LIMIT {}").format(
                column, self._identifier(self.table), column, identifier, identifier, sql.Literal(count)
            )
        )
        return [np.array(json.loads(row[0]), np.float32) for row in found]

    def swap(self, labels: dict[str, Any], *, deletes_max: int) -> None:
        """Rename in one transaction; see ``interface.Green.swap``."""
        for attempt in range(1, _LOCK_TRIES + 1):
            try:
                with self._leader.transaction():
                    self._swap(labels, deletes_max)
            except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
                if attempt == _LOCK_TRIES:
                    message = f"{self.config.table} was read or written without a pause, so it could not be swapped"
                    raise Transient(
                        message, hint="look for a transaction that stays open, then run it again"
                    ) from error
                logger.info("%s is busy, waiting to swap (%d of %d)", self.config.table, attempt, _LOCK_TRIES)
            else:
                return

    def _swap(self, labels: dict[str, Any], deletes_max: int) -> None:
        leader, config = self._leader, self.config
        served, green = self._identifier(config.table), self._identifier(self.table)
        leader.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(f"{_LOCK_SECONDS}s")))
        grants: list[sql.Composed] = []
        token = catalog.token(leader, config, config.table)
        if token is not None:
            # Holds up writers, not yet readers, so that the count below stays true until the end.
            leader.execute(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(served))
            token = catalog.token(leader, config, config.table)
        if token != (self.served.token if self.served else None):
            message = f"{config.table} at {config.host} was replaced while this rebuild ran"
            raise Conflict(message, hint="what serves now is newer; run it again to compare")
        vanishing = self.vanishing()
        if vanishing > deletes_max:
            raise Refused(*_too_many(config.table, vanishing, deletes_max))
        if token is not None:
            grants = catalog.grants(leader, config)
            leader.execute(sql.SQL("DROP TABLE {}").format(served))
        leader.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(green, sql.Identifier(config.table)))
        renamed = [(f"{self.table}_i{number}", index.name) for number, index in enumerate(self.schema.indexes)]
        renamed += [(f"{self.table}_h{number}", index.name) for number, index in enumerate(self.schema.hnsw)]
        for temporary, wanted in renamed:
            free = leader.execute(
                "SELECT to_regclass(%s) IS NULL",
                (sql.Identifier(config.schema, wanted).as_string(leader),),
            ).fetchone()
            if free and free[0]:
                self._run(
                    sql.SQL("ALTER INDEX {} RENAME TO {}").format(self._identifier(temporary), sql.Identifier(wanted))
                )
        comment = json.dumps(labels, sort_keys=True, ensure_ascii=False)
        self._run(sql.SQL("COMMENT ON TABLE {} IS {}").format(served, sql.Literal(comment)))
        for grant in grants:
            leader.execute(grant)

    def drop(self) -> None:
        """Remove the green table unless it was swapped in; what cannot be removed now, the next run removes."""
        try:
            self._leader.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self._identifier(self.table)))
        except psycopg.Error as error:
            logger.info("%s stays until the next rebuild: %s", self.table, error)

    def _refuse_dependents(self) -> None:
        dependent = catalog.dependent(self._leader, self.config)
        if dependent:
            message = (
                f"{dependent} depends on the table {self.config.table} at {self.config.host}, which a rebuild replaces"
            )
            raise Unsupported(
                message, hint="drop the view or foreign key, or point it at the table by name in the query"
            )

    def _maintenance_mb(self) -> int:
        if self.config.maintenance_mb:
            return self.config.maintenance_mb
        found = self._leader.execute(sql.SQL("SELECT count(*) FROM {}").format(self._identifier(self.table))).fetchone()
        rows = int(found[0]) if found else 0
        # A graph element in memory: the vector, its neighbours' slots (twice m at the bottom), and some 150 bytes.
        degree = max((graph.m for graph in self.schema.hnsw), default=0)
        element = self.schema.dimension * (4 if self.schema.element == "float4" else 2) + degree * 40 + 150
        least, most = _MAINTENANCE_MB
        return max(least, min(most, int(rows * element * 1.2) // 1_000_000 + 1))

    def _run(self, statement: sql.Composed) -> None:
        """Run a statement that holds something of a manifest."""
        # Asking for a binary answer takes the extended protocol, in which one call is one statement and never two.
        self._leader.execute(statement, binary=True)

    def _identifier(self, name: str) -> sql.Identifier:
        return sql.Identifier(self.config.schema, name)


def _too_many(table: str, vanishing: int, deletes_max: int) -> tuple[str]:
    return (f"{vanishing:,} rows of {table} would vanish, more than the limit of {deletes_max:,}",)
