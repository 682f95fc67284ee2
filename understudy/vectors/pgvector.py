"""A table of PostgreSQL with pgvector: ``pgvector://host:port/database?table=products&user=understudy``.

What pgvector promises, and what this relies on: https://github.com/pgvector/pgvector, PostgreSQL 14 or later.
pgvector itself refuses NaN and infinity on input, so a table of it never holds one.

A session must be a session of the server: behind a pooler that hands out transactions neither the exported snapshot nor
the lock of a rebuild would hold.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import numpy as np
import psycopg
from psycopg import errors, sql

from understudy.errors import (
    Conflict,
    Corrupt,
    Denied,
    InvalidConfig,
    NotFound,
    Permanent,
    Refused,
    Transient,
    UnderstudyError,
    Unreachable,
    Unsupported,
)
from understudy.vectors import copy_binary
from understudy.vectors.interface import Column, Description, Hit, Hnsw, PlainIndex, Schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import pyarrow as pa

    from understudy.vectors.interface import Element, Green, Kind, Metric, Snapshot

    Connect = Callable[[], AbstractContextManager[psycopg.Connection[Any]]]

logger = logging.getLogger("understudy.vectors")

_KINDS: dict[str, Kind] = {
    "text": "text",
    "varchar": "text",
    "int2": "int2",
    "int4": "int4",
    "int8": "int8",
    "float4": "float4",
    "float8": "float8",
    "bool": "bool",
    "jsonb": "json",
    "timestamptz": "time",
    "uuid": "uuid",
    "numeric": "numeric",
}
_ELEMENTS: dict[str, Element] = {"vector": "float4", "halfvec": "float2"}
_OPERATORS: dict[Metric, str] = {"cosine": "<=>", "ip": "<#>", "l2": "<->", "l1": "<+>"}
_CLASSES: dict[str, Metric] = {"cosine_ops": "cosine", "ip_ops": "ip", "l2_ops": "l2", "l1_ops": "l1"}
_ID_KINDS = {"text", "int2", "int4", "int8", "uuid"}
_EFFORTS = (40, 100, 200, 400, 1000)
_TABLE_NAME_MAX = 48
_PAGE_BYTES = 8192
_ADVISORY_CLASS = 0x756E6473  # "unds": the first half of the key under which rebuilds of one table exclude each other
_LOCK_TRIES = 6
_LOCK_SECONDS = 5
_MAINTENANCE_MB = (64, 1024)
_PASSED_ON = {"sslmode", "sslrootcert", "sslcert", "sslkey", "connect_timeout", "application_name"}
_OURS = {"table", "schema", "user", "id", "vector", "metric", "workers", "maintenance_mb"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PgvectorConfig:
    """Which table, and how to reach it.

    Attributes:
        host: name or address.
        port: usually 5432.
        database: name of the database.
        table: name of the table, without its schema.
        user: the role.
        password: its password, or None where none is asked for.
        schema: the PostgreSQL schema that holds the table.
        id: the column that names a row; None takes the primary key, which must then be one column.
        vector: the vector column; None takes the only one.
        metric: what nearest means where no HNSW index says so.
        workers: parallel connections, and processes of an index build.
        maintenance_mb: memory of an index build on the server; None estimates it, between 64 and 1,024.
        options: more for libpq (sslmode, sslrootcert).
    """

    host: str
    database: str
    table: str
    port: int = 5432
    user: str = "postgres"
    password: str | None = field(default=None, repr=False)
    schema: str = "public"
    id: str | None = None
    vector: str | None = None
    metric: Metric = "cosine"
    workers: int = 2
    maintenance_mb: int | None = None
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def from_url(cls, url: str, *, password: str | None = None) -> PgvectorConfig:
        """Read ``pgvector://host:port/database?table=products&user=understudy``. Raises InvalidConfig."""
        example = "write pgvector://host:5432/database?table=products&user=understudy"
        try:
            parts = urlsplit(url)
            port = parts.port or 5432
            given = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
            numbers: dict[str, Any] = {
                name: int(given.pop(name)) for name in ("workers", "maintenance_mb") if name in given
            }
        except ValueError as error:
            message = f"{url.partition('?')[0]} cannot be read: {error}"
            raise InvalidConfig(message, hint=example) from error
        if parts.scheme != "pgvector" or not parts.hostname or not parts.path.strip("/") or not given.get("table"):
            message = f"{url.partition('?')[0]} names no host, database or table"
            raise InvalidConfig(message, hint=example)
        if parts.password:
            message = f"the URL of {parts.hostname} holds a password"
            raise InvalidConfig(message, hint="name it by reference: password: env:NAME")
        unknown = sorted(given.keys() - _OURS - _PASSED_ON)
        if unknown:
            message = f"{unknown[0]} is no option of a pgvector URL"
            raise InvalidConfig(message, hint=f"known: {', '.join(sorted(_OURS | _PASSED_ON))}")
        if given.get("metric", "cosine") not in _OPERATORS:
            message = f"{given['metric']} is no metric"
            raise InvalidConfig(message, hint=f"known: {', '.join(_OPERATORS)}")
        if len(given["table"]) > _TABLE_NAME_MAX:
            message = f"the table name {given['table']} is longer than {_TABLE_NAME_MAX} characters"
            raise InvalidConfig(message, hint="a rebuild needs room for its own names; rename the table")
        options = tuple(sorted((name, value) for name, value in given.items() if name in _PASSED_ON))
        chosen: dict[str, Any] = {name: value for name, value in given.items() if name in _OURS}
        chosen.setdefault("user", unquote(parts.username or "postgres"))
        chosen.update(numbers)
        return cls(
            host=parts.hostname,
            port=port,
            database=unquote(parts.path.strip("/")),
            password=password,
            options=options,
            **chosen,
        )


class PgvectorStore:
    """One table with one vector column. Safe to use from many threads: every call has a connection of its own."""

    def __init__(self, url: str, *, password: str | None = None) -> None:
        """Take the table that a URL names, and connect to nothing yet. Raises InvalidConfig."""
        self.config = config = PgvectorConfig.from_url(url, password=password)
        self.url = f"pgvector://{config.host}:{config.port}/{config.database}?table={config.table}"
        self._named: dict[str, tuple[Schema, int]] = {}
        self._idle: list[psycopg.Connection[Any]] = []
        self._idle_lock = threading.Lock()

    def describe(self) -> Description:
        """Return schema, rows (counted), labels. Raises NotFound, Unsupported."""
        with self._connection() as connection:
            return _describe(connection, self.config, self.config.table)

    @contextmanager
    def snapshot(self, slices: int) -> Iterator[Snapshot]:
        """Fix one state by an exported snapshot; slices are ranges of the table's pages (ctid)."""
        with _snapshot(self._connection, self.config, self.config.table, slices) as taken:
            yield taken

    @contextmanager
    def green(self, schema: Schema, sequence: int) -> Iterator[Green]:
        """Begin ``<table>__g<sequence>`` under an advisory lock that ends with its connection, by whatever cause."""
        with self._connection() as leader:
            name = f"{self.config.schema}.{self.config.table}"
            try:
                # A holder that was killed while the server built its index is noticed within seconds.
                leader.execute(sql.SQL("SET lock_timeout = {}").format(sql.Literal(f"{_LOCK_SECONDS}s")))
                leader.execute("SELECT pg_advisory_lock(%s, hashtext(%s))", (_ADVISORY_CLASS, name))
                leader.execute("RESET lock_timeout")
            except errors.LockNotAvailable as error:
                message = f"another rebuild of {self.config.table} is running at {self.config.host}"
                raise Conflict(message, hint="wait for it to end; a lost client is noticed within a minute") from error
            green = _PgvectorGreen(self.config, self._connection, leader, schema, sequence)
            green.begin()
            try:
                yield green
            finally:
                green.drop()
                with suppress(psycopg.Error):
                    leader.execute("SELECT pg_advisory_unlock_all()")

    def query(self, vector: np.ndarray, k: int, *, exact: bool, effort: int | None = None) -> list[Hit]:
        """Return the ``k`` nearest rows, score descending, then id ascending.

        Score: 1 - cosine distance, inner product, or the negative L2 or L1 distance.
        """
        try:
            return self._query(vector, k, exact=exact, effort=effort, fresh=False)
        except Unreachable:
            # A connection that lay idle may have been cut long ago; a new one tells whether the server is there.
            self.close()
            return self._query(vector, k, exact=exact, effort=effort, fresh=True)

    def _query(self, vector: np.ndarray, k: int, *, exact: bool, effort: int | None, fresh: bool) -> list[Hit]:
        config = self.config
        with self._reused(fresh=fresh) as connection:
            labels = _labels(connection, config, config.table)
            token = str(labels.get("digest", "")) + str(labels.get("sequence", ""))
            known = self._named.get(token)
            if known is None:
                schema = _schema(connection, config, config.table)
                self._named = {token: (schema, int(labels.get("ef_search", 0) or 0))}
                known = self._named[token]
            return _search(
                connection, config, config.table, known[0], vector, k=k, exact=exact, effort=effort or known[1]
            )

    def close(self) -> None:
        """Close the connections that queries left open."""
        with self._idle_lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        """Open a connection for this block; errors of the server leave it as ours."""
        with _translated(self.config):
            connection = _connect(self.config)
            try:
                yield connection
            finally:
                connection.close()

    @contextmanager
    def _reused(self, *, fresh: bool) -> Iterator[psycopg.Connection[Any]]:
        """Like ``_connection``, but kept for the next query, when it ended well."""
        with self._idle_lock:
            connection = self._idle.pop() if self._idle and not fresh else None
        with _translated(self.config):
            if connection is None or connection.closed:
                connection = _connect(self.config)
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
        with self._idle_lock:
            self._idle.append(connection)


@dataclass(slots=True)
class _PgvectorSnapshot:
    watermark: datetime
    description: Description
    slices: Sequence[Callable[[], Iterator[pa.RecordBatch]]]


class _PgvectorGreen:
    """See ``interface.Green``. The leader's connection holds the lock, and swaps: without the lock there is no swap."""

    efforts: Sequence[int] = _EFFORTS

    def __init__(
        self,
        config: PgvectorConfig,
        connection: Connect,
        leader: psycopg.Connection[Any],
        schema: Schema,
        sequence: int,
    ) -> None:
        self.config = config
        self.schema = schema
        self.table = f"{config.table}__g{sequence}"
        self.served: Description | None = None
        self._connection = connection
        self._leader = leader
        self._hnsw_mb = 0

    def begin(self) -> None:
        """Remove what killed runs left, remember what serves, make the empty table."""
        for name in _leftovers(self._leader, self.config):
            logger.info("removing %s, left by a rebuild that did not end", name)
            self._leader.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self._identifier(name)))
        try:
            self.served = _describe(self._leader, self.config, self.config.table)
        except NotFound:
            self.served = None
        else:
            self._refuse_dependents()
        columns = [_column_ddl(column) for column in self.schema.columns]
        self._leader.execute(
            sql.SQL("CREATE TABLE {} ({})").format(self._identifier(self.table), sql.SQL(", ").join(columns))
        )

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
        with _snapshot(self._connection, self.config, self.table, slices, like=self.schema) as taken:
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
            leader.execute(statement + sql.SQL(index.definition))
            if index.primary:
                leader.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY USING INDEX {}").format(table, name))
        started = time.monotonic()
        for number, graph in enumerate(self.schema.hnsw):
            suffix = f"{graph.metric}_ops"
            operators = sql.Identifier(f"{'vector' if self.schema.element == 'float4' else 'halfvec'}_{suffix}")
            leader.execute(
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
                leader.execute(
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
        return _describe(self._leader, self.config, self.table)

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
        return _search(self._leader, self.config, self.table, self.schema, vector, k=k, exact=exact, effort=effort or 0)

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
        token = _token(leader, config, config.table)
        if token is not None:
            # Holds up writers, not yet readers, so that the count below stays true until the end.
            leader.execute(sql.SQL("LOCK TABLE {} IN EXCLUSIVE MODE").format(served))
            token = _token(leader, config, config.table)
        if token != (self.served.token if self.served else None):
            message = f"{config.table} at {config.host} was replaced while this rebuild ran"
            raise Conflict(message, hint="what serves now is newer; run it again to compare")
        vanishing = self.vanishing()
        if vanishing > deletes_max:
            raise Refused(*_too_many(config.table, vanishing, deletes_max))
        if token is not None:
            grants = self._grants()
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
                leader.execute(
                    sql.SQL("ALTER INDEX {} RENAME TO {}").format(self._identifier(temporary), sql.Identifier(wanted))
                )
        comment = json.dumps(labels, sort_keys=True, ensure_ascii=False)
        leader.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(served, sql.Literal(comment)))
        for grant in grants:
            leader.execute(grant)

    def drop(self) -> None:
        """Remove the green table unless it was swapped in; what cannot be removed now, the next run removes."""
        try:
            self._leader.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(self._identifier(self.table)))
        except psycopg.Error as error:
            logger.info("%s stays until the next rebuild: %s", self.table, error)

    def _grants(self) -> list[sql.Composed]:
        """Return the statements that give the roles what they may do with the table that serves now."""
        rows = self._leader.execute(
            "SELECT g.privilege_type, r.rolname, g.is_grantable FROM pg_class c "
            "CROSS JOIN LATERAL aclexplode(c.relacl) g LEFT JOIN pg_roles r ON r.oid = g.grantee "
            "WHERE c.oid = to_regclass(%s) AND g.grantee <> c.relowner",
            (self._identifier(self.config.table).as_string(self._leader),),
        ).fetchall()
        return [
            sql.SQL("GRANT {} ON {} TO {}{}").format(
                sql.SQL(privilege),
                self._identifier(self.config.table),
                sql.Identifier(role) if role else sql.SQL("PUBLIC"),
                sql.SQL(" WITH GRANT OPTION" if grantable else ""),
            )
            for privilege, role, grantable in rows
        ]

    def _refuse_dependents(self) -> None:
        found = self._leader.execute(
            "SELECT DISTINCT v.relname FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid "
            "JOIN pg_class v ON v.oid = w.ev_class "
            "WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = to_regclass(%(table)s) AND v.oid <> d.refobjid "
            "UNION SELECT conname FROM pg_constraint WHERE contype = 'f' AND confrelid = to_regclass(%(table)s) "
            "AND conrelid <> confrelid ORDER BY 1",
            {"table": self._identifier(self.config.table).as_string(self._leader)},
        ).fetchone()
        if found:
            message = (
                f"{found[0]} depends on the table {self.config.table} at {self.config.host}, which a rebuild replaces"
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

    def _identifier(self, name: str) -> sql.Identifier:
        return sql.Identifier(self.config.schema, name)


def _too_many(table: str, vanishing: int, deletes_max: int) -> tuple[str]:
    return (f"{vanishing:,} rows of {table} would vanish, more than the limit of {deletes_max:,}",)


def _connect(config: PgvectorConfig) -> psycopg.Connection[Any]:
    parameters: dict[str, Any] = {"connect_timeout": "10", "application_name": "understudy", **dict(config.options)}
    connection: psycopg.Connection[Any] = psycopg.connect(
        host=config.host,
        port=config.port,
        dbname=config.database,
        user=config.user,
        password=config.password,
        autocommit=True,
        client_encoding="utf8",
        **parameters,
    )
    # A client that was killed must not leave the server building its index, nor holding its lock.
    for setting in (
        "client_connection_check_interval = '1s'",
        "tcp_keepalives_idle = 20",
        "tcp_keepalives_interval = 5",
    ):
        connection.execute(f"SET {setting}")
    connection.execute("SET extra_float_digits = 1")
    return connection


@contextmanager
def _translated(config: PgvectorConfig) -> Iterator[None]:
    """Turn psycopg's errors into ours; nothing secret stands in them."""
    where = f"{config.host}:{config.port}/{config.database}"
    try:
        yield
    except UnderstudyError:
        raise
    except (errors.InsufficientPrivilege, errors.InvalidAuthorizationSpecification) as error:
        message = f"{config.user} may not do that at {where}: {_first_line(error)}"
        raise Denied(message, hint="grant the role what it lacks") from error
    except (errors.UndefinedTable, errors.InvalidCatalogName, errors.InvalidSchemaName) as error:
        message = f"{where}: {_first_line(error)}"
        raise NotFound(message, hint="check the database and table in the config") from error
    except errors.UniqueViolation as error:
        message = f"{config.table} holds an id twice: {_first_line(error)}"
        raise Corrupt(message, hint="make the id column the primary key at the source") from error
    except psycopg.OperationalError as error:
        text = _first_line(error)
        if re.search(
            r"authentication failed|no password supplied|role .* does not exist|no pg_hba.conf entry", str(error)
        ):
            message = f"{where} refused {config.user}: {text}"
            raise Denied(message, hint="check user and password of the pair") from error
        if re.search(r"database .* does not exist", str(error)):
            message = f"{where}: the database does not exist"
            raise NotFound(message, hint="create it, then CREATE EXTENSION vector in it") from error
        message = f"PostgreSQL at {where} does not answer: {text}"
        raise Unreachable(message, hint="check that the server is up and the address is right") from error
    except psycopg.Error as error:
        message = f"PostgreSQL at {where} refused a statement: {_first_line(error)}"
        raise Permanent(message) from error


def _first_line(error: psycopg.Error) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].removeprefix("connection failed: ") if lines else type(error).__name__


@contextmanager
def _snapshot(
    connect: Connect, config: PgvectorConfig, table: str, slices: int, *, like: Schema | None = None
) -> Iterator[_PgvectorSnapshot]:
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
        description = _describe(leader, config, table, schema=like)
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


def _one(cursor: psycopg.Cursor[Any]) -> Any:  # noqa: ANN401 - whatever was selected
    """Return the only value of the only row."""
    row = cursor.fetchone()
    return row[0] if row else None


def _oid(connection: psycopg.Connection[Any], config: PgvectorConfig, table: str) -> int | None:
    row = connection.execute(
        "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relname = %s AND c.relkind = 'r'",
        (config.schema, table),
    ).fetchone()
    return int(row[0]) if row else None


def _token(connection: psycopg.Connection[Any], config: PgvectorConfig, table: str) -> str | None:
    """Return what changes when the table is replaced or relabelled; None when there is no table."""
    oid = _oid(connection, config, table)
    if oid is None:
        return None
    row = connection.execute("SELECT md5(coalesce(obj_description(%s, 'pg_class'), ''))", (oid,)).fetchone()
    return f"{oid}-{row[0] if row else ''}"


def _labels(connection: psycopg.Connection[Any], config: PgvectorConfig, table: str) -> dict[str, Any]:
    row = connection.execute(
        "SELECT obj_description(c.oid, 'pg_class') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relname = %s",
        (config.schema, table),
    ).fetchone()
    try:
        found = json.loads(row[0]) if row and row[0] else {}
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _leftovers(connection: psycopg.Connection[Any], config: PgvectorConfig) -> list[str]:
    rows = connection.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relkind = 'r' AND c.relname ~ ('^' || %s || '__g[0-9]+$') ORDER BY 1",
        (config.schema, re.escape(config.table)),
    ).fetchall()
    return [row[0] for row in rows]


def _describe(
    connection: psycopg.Connection[Any], config: PgvectorConfig, table: str, *, schema: Schema | None = None
) -> Description:
    schema = schema or _schema(connection, config, table)
    rows = connection.execute(
        sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(config.schema, table))
    ).fetchone()
    return Description(
        schema=schema,
        rows=int(rows[0]) if rows else 0,
        labels=_labels(connection, config, table),
        token=_token(connection, config, table) or "",
    )


def _schema(connection: psycopg.Connection[Any], config: PgvectorConfig, table: str) -> Schema:
    oid = _oid(connection, config, table)
    if oid is None:
        message = f"the table {config.schema}.{table} is not in {config.host}:{config.port}/{config.database}"
        raise NotFound(message, hint="create it, or correct ?table= in the config")
    columns, dimensions = _columns(connection, oid, config, table)
    vectors = [column.name for column in columns if column.kind == "vector"]
    if len(vectors) != 1:
        message = f"{table} has {len(vectors) or 'no'} vector column{'s' * bool(vectors)}"
        raise Unsupported(message, hint="an index is one vector column; give each its own table")
    hnsw, indexes, keys = _indexes(connection, oid, table)
    identity = config.id or (keys[0] if len(keys) == 1 else None)
    names = {column.name: column for column in columns}
    if identity is None or identity not in names:
        message = f"{table} has no column that names a row"
        raise Unsupported(message, hint="give it a primary key of one column, or name a unique column with ?id=")
    if names[identity].kind not in _ID_KINDS:
        message = f"the id column {identity} of {table} is a {names[identity].declared}"
        raise Unsupported(message, hint="an id is text, varchar, an integer or a uuid")
    dimension, element = dimensions[vectors[0]]
    return Schema(
        columns=tuple(columns),
        id=identity,
        vector=vectors[0],
        dimension=dimension,
        element=element,
        metric=hnsw[0].metric if hnsw else config.metric,
        hnsw=tuple(hnsw),
        indexes=tuple(indexes),
        left_behind=_left_behind(connection, oid),
    )


def _columns(
    connection: psycopg.Connection[Any], oid: int, config: PgvectorConfig, table: str
) -> tuple[list[Column], dict[str, tuple[int, Element]]]:
    rows = connection.execute(
        "SELECT a.attname, t.typname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, "
        "a.attgenerated, a.atttypmod, pg_get_expr(d.adbin, d.adrelid) "
        "FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
        "LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum "
        "WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        (oid,),
    ).fetchall()
    columns: list[Column] = []
    dimensions: dict[str, tuple[int, Element]] = {}
    for name, kind, declared, not_null, identity, generated, modifier, default in rows:
        if generated:
            message = f"column {name} ({declared}) of {table} is generated"
            raise Unsupported(message, hint="a generated column cannot be copied; make it a plain one")
        if kind in _ELEMENTS and config.vector in (None, name):
            if modifier < 1:
                message = f"column {name} ({declared}) of {table} has no dimension"
                raise Unsupported(message, hint=f"declare it: ALTER TABLE {table} ALTER {name} TYPE {kind}(384)")
            dimensions[name] = (int(modifier), _ELEMENTS[kind])
            columns.append(Column(name, "vector", declared.rpartition(".")[2], nullable=not not_null))
            continue
        if kind not in _KINDS:
            message = f"column {name} ({declared}) of {table} has a type that cannot be carried exactly yet"
            raise Unsupported(message, hint=f"carried are vector, halfvec, {', '.join(_KINDS)}")
        # A serial is an identity in older words: the rebuilt table numbers its rows the same way.
        numbered = bool(identity) or str(default or "").startswith("nextval(")
        columns.append(Column(name, _KINDS[kind], declared, not not_null, "identity" if numbered else default))
    return columns, dimensions


def _indexes(
    connection: psycopg.Connection[Any], oid: int, table: str
) -> tuple[list[Hnsw], list[PlainIndex], list[str]]:
    """Return the HNSW graphs, the other indexes, and the columns of the primary key."""
    rows = connection.execute(
        "SELECT i.relname, am.amname, x.indisunique, x.indisprimary, x.indisvalid, "
        "substr(pg_get_indexdef(x.indexrelid), 1 + length(format('CREATE %%sINDEX %%I ON %%I.%%I ', "
        "CASE WHEN x.indisunique THEN 'UNIQUE ' ELSE '' END, i.relname, s.nspname, t.relname))), "
        "coalesce(i.reloptions, '{}'), o.opcname, x.indkey::int[], x.indpred IS NOT NULL, "
        "ARRAY(SELECT a.attname::text FROM unnest(x.indkey::int[]) WITH ORDINALITY k(n, place) "
        "JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.n ORDER BY k.place) "
        "FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am am ON am.oid = i.relam "
        "JOIN pg_opclass o ON o.oid = x.indclass[0] JOIN pg_class t ON t.oid = x.indrelid "
        "JOIN pg_namespace s ON s.oid = t.relnamespace WHERE x.indrelid = %s ORDER BY i.relname",
        (oid,),
    ).fetchall()
    hnsw: list[Hnsw] = []
    plain: list[PlainIndex] = []
    keys: list[str] = []
    for name, method, unique, primary, valid, definition, options, operators, places, partial_, names in rows:
        if not valid:
            message = f"the index {name} of {table} is not valid"
            raise Unsupported(message, hint=f"REINDEX INDEX {name}, or drop it")
        if method == "hnsw" and 0 not in places and not partial_:
            parameters = dict(option.split("=", 1) for option in options)
            metric = next((_CLASSES[end] for end in _CLASSES if operators.endswith(end)), None)
            if metric is None:
                message = f"the index {name} of {table} uses {operators}, which is not known here"
                raise Unsupported(message)
            hnsw.append(Hnsw(name, metric, int(parameters.get("m", 16)), int(parameters.get("ef_construction", 64))))
            continue
        if method in {"hnsw", "ivfflat"}:
            extent = " over an expression or part of the rows" if method == "hnsw" else ""
            message = f"the index {name} of {table} is {method}{extent}"
            raise Unsupported(message, hint="HNSW over the whole vector column is what is rebuilt")
        plain.append(PlainIndex(name, definition, unique, primary))
        if primary:
            keys = list(names)
    return hnsw, plain, keys


def _left_behind(connection: psycopg.Connection[Any], oid: int) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgrelid = %(oid)s AND NOT tgisinternal "
        "UNION ALL SELECT CASE contype WHEN 'c' THEN 'check ' WHEN 'f' THEN 'foreign key ' ELSE 'exclusion ' END "
        "|| conname "
        "FROM pg_constraint WHERE conrelid = %(oid)s AND contype IN ('c', 'f', 'x') "
        "UNION ALL SELECT 'policy ' || polname FROM pg_policy WHERE polrelid = %(oid)s ORDER BY 1",
        {"oid": oid},
    ).fetchall()
    return tuple(row[0] for row in rows)


def _column_ddl(column: Column) -> sql.Composed:
    words = [sql.Identifier(column.name), sql.SQL(column.declared)]
    if column.default == "identity":
        words.append(sql.SQL("GENERATED BY DEFAULT AS IDENTITY"))
    elif column.default is not None:
        words += [sql.SQL("DEFAULT"), sql.SQL(column.default)]
    if not column.nullable:
        words.append(sql.SQL("NOT NULL"))
    return sql.SQL(" ").join(words)


def _search(
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
        wanted = min(1000, max(effort, k)) if effort or k > _EFFORTS[0] else 0
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
