"""A table of PostgreSQL with pgvector: ``pgvector://host:port/database?table=products&user=understudy``.

What pgvector promises, and what this relies on: https://github.com/pgvector/pgvector, PostgreSQL 14 or later.
pgvector itself refuses NaN and infinity on input, so a table of it never holds one.

A session must be a session of the server: behind a pooler that hands out transactions neither the exported snapshot nor
the lock of a rebuild would hold.
"""

from __future__ import annotations

import re
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
from psycopg import errors

from understudy.errors import Corrupt, Denied, NotFound, Permanent, UnderstudyError, Unreachable
from understudy.vectors import pgvector_catalog as catalog
from understudy.vectors import pgvector_reading as reading
from understudy.vectors.labels import Rebuilt
from understudy.vectors.pgvector_config import PgvectorConfig
from understudy.vectors.pgvector_green import green_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from understudy.vectors.interface import Description, Green, Hit, Schema, Snapshot


class PgvectorStore:
    """One table with one vector column. Safe to use from many threads: every call has a connection of its own."""

    ABILITIES: ClassVar[dict[str, str]] = {
        "carries": "vector and halfvec bit for bit, plain columns, HNSW and other indexes",
        "one state": "a repeatable-read snapshot, exported to parallel readers",
        "swap": "a rename in one transaction",
        "exact search": "with the index scan off",
    }

    def __init__(self, url: str, *, password: str | None = None) -> None:
        """Take the table that a URL names, and connect to nothing yet. Raises InvalidConfig."""
        self.config = config = PgvectorConfig.from_url(url, password=password)
        self.url = f"pgvector://{config.host}:{config.port}/{config.database}?table={config.table}"
        self._known: tuple[Rebuilt, Schema] | None = None
        self._idle: list[psycopg.Connection[Any]] = []
        self._idle_lock = threading.Lock()

    def describe(self) -> Description:
        """Return schema, rows (counted), labels. Raises NotFound, Unsupported."""
        with self._connection() as connection:
            return catalog.describe(connection, self.config, self.config.table)

    @contextmanager
    def snapshot(self, slices: int) -> Iterator[Snapshot]:
        """Fix one state by an exported snapshot; slices are ranges of the table's pages (ctid)."""
        with reading.snapshot(self._connection, self.config, self.config.table, slices) as taken:
            yield taken

    @contextmanager
    def green(self, schema: Schema, sequence: int) -> Iterator[Green]:
        """Begin ``<table>__g<sequence>`` under an advisory lock that ends with its connection, by whatever cause."""
        with green_table(self._connection, self.config, schema, sequence) as green:
            yield green

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
            rebuilt = Rebuilt.read(catalog.read_labels(connection, config, config.table))
            known = self._known
            if known is None or known[0] != rebuilt:
                known = self._known = rebuilt, catalog.read_schema(connection, config, config.table)
            least = effort or rebuilt.ef_search or 0
            return reading.search(connection, config, config.table, known[1], vector, k=k, exact=exact, effort=least)

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
        # A default or an index would else be told with its backslashes doubled.
        "standard_conforming_strings = on",
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
