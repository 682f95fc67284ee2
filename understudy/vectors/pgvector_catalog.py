"""What PostgreSQL's catalogue says of a table: its columns and indexes in our words, and the labels in its comment."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from psycopg import sql

from understudy.errors import Unsupported
from understudy.vectors.interface import Column, Description, Hnsw, NoSuchIndex, PlainIndex, Schema
from understudy.vectors.pgvector_definition import settled

if TYPE_CHECKING:
    import psycopg

    from understudy.vectors.interface import Element, Kind, Metric
    from understudy.vectors.pgvector_config import PgvectorConfig

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
_CLASSES: dict[str, Metric] = {"cosine_ops": "cosine", "ip_ops": "ip", "l2_ops": "l2", "l1_ops": "l1"}
_ID_KINDS = {"text", "int2", "int4", "int8", "uuid"}


def describe(
    connection: psycopg.Connection[Any], config: PgvectorConfig, table: str, *, schema: Schema | None = None
) -> Description:
    """Describe a table with its rows counted; ``schema`` where it is known already. Raises NotFound, Unsupported."""
    schema = schema or read_schema(connection, config, table)
    rows = connection.execute(
        sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(config.schema, table))
    ).fetchone()
    return Description(
        schema=schema,
        rows=int(rows[0]) if rows else 0,
        labels=read_labels(connection, config, table),
        token=token(connection, config, table) or "",
    )


def read_schema(connection: psycopg.Connection[Any], config: PgvectorConfig, table: str) -> Schema:
    """Return a table's columns and indexes.

    Raises:
        NoSuchIndex: there is no such table.
        Unsupported: it has what cannot be carried exactly, no single vector column, or no column that names a row.
    """
    oid = _oid(connection, config, table)
    if oid is None:
        message = f"the table {config.schema}.{table} is not in {config.host}:{config.port}/{config.database}"
        raise NoSuchIndex(message, hint="create it, or correct ?table= in the config")
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
            columns.append(Column(name, "vector", declared.rpartition(".")[2], not not_null, default))
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
        plain.append(PlainIndex(name, settled(definition), unique, primary))
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


def read_labels(connection: psycopg.Connection[Any], config: PgvectorConfig, table: str) -> dict[str, Any]:
    """Return what the table's comment says; empty when it is no JSON object, or there is no table."""
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


def token(connection: psycopg.Connection[Any], config: PgvectorConfig, table: str) -> str | None:
    """Return what changes when the table is replaced or relabelled; None when there is no table."""
    oid = _oid(connection, config, table)
    if oid is None:
        return None
    row = connection.execute("SELECT md5(coalesce(obj_description(%s, 'pg_class'), ''))", (oid,)).fetchone()
    return f"{oid}-{row[0] if row else ''}"


def _oid(connection: psycopg.Connection[Any], config: PgvectorConfig, table: str) -> int | None:
    row = connection.execute(
        "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relname = %s AND c.relkind = 'r'",
        (config.schema, table),
    ).fetchone()
    return int(row[0]) if row else None


def leftovers(connection: psycopg.Connection[Any], config: PgvectorConfig) -> list[str]:
    """Return the names of fresh tables beside the one that serves: left by rebuilds that did not end."""
    rows = connection.execute(
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relkind = 'r' AND c.relname ~ ('^' || %s || '__g[0-9]+$') ORDER BY 1",
        (config.schema, re.escape(config.table)),
    ).fetchall()
    return [row[0] for row in rows]


def dependent(connection: psycopg.Connection[Any], config: PgvectorConfig) -> str | None:
    """Return the name of a view or foreign key that needs the table that serves, None when there is none."""
    found = connection.execute(
        "SELECT DISTINCT v.relname FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid "
        "JOIN pg_class v ON v.oid = w.ev_class "
        "WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = to_regclass(%(table)s) AND v.oid <> d.refobjid "
        "UNION SELECT conname FROM pg_constraint WHERE contype = 'f' AND confrelid = to_regclass(%(table)s) "
        "AND conrelid <> confrelid ORDER BY 1",
        {"table": sql.Identifier(config.schema, config.table).as_string(connection)},
    ).fetchone()
    return str(found[0]) if found else None


def grants(connection: psycopg.Connection[Any], config: PgvectorConfig) -> list[sql.Composed]:
    """Return the statements that give the roles what they may do with the table that serves now."""
    table = sql.Identifier(config.schema, config.table)
    rows = connection.execute(
        "SELECT g.privilege_type, r.rolname, g.is_grantable FROM pg_class c "
        "CROSS JOIN LATERAL aclexplode(c.relacl) g LEFT JOIN pg_roles r ON r.oid = g.grantee "
        "WHERE c.oid = to_regclass(%s) AND g.grantee <> c.relowner",
        (table.as_string(connection),),
    ).fetchall()
    return [
        sql.SQL("GRANT {} ON {} TO {}{}").format(
            sql.SQL(privilege),
            table,
            sql.Identifier(role) if role else sql.SQL("PUBLIC"),
            sql.SQL(" WITH GRANT OPTION" if grantable else ""),
        )
        for privilege, role, grantable in rows
    ]
