"""Which table of PostgreSQL, and how to reach it, from its URL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args
from urllib.parse import parse_qsl, unquote, urlsplit

from understudy.errors import InvalidConfig
from understudy.vectors.interface import Metric

_TABLE_NAME_MAX = 48
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
        if given.get("metric", "cosine") not in get_args(Metric):
            message = f"{given['metric']} is no metric"
            raise InvalidConfig(message, hint=f"known: {', '.join(get_args(Metric))}")
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
