"""The offline store: Parquet is the truth, and the newest row of each feature as of a moment is what goes online.

``history/**.parquet`` is wide: ``entity``, ``event_timestamp``, ``created_timestamp`` (may be missing), one column a
feature; a null cell is "not written in this row". ``log/<writer>/<n>.parquet`` is long: ``entity``, ``feature``,
``value`` (JSON text), ``event_timestamp``, ``created_timestamp``, ``deleted`` (a tombstone).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from understudy.errors import Corrupt, Unsupported
from understudy.features.interface import Cell, canonical_json
from understudy.features.spill import Spill

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import duckdb

HISTORY = "history/"
LOG = "log/"
WRITERS = "writers/"

Kind = Literal["history", "log"]
_BATCH_ROWS = 20_000
_MEMORY = "256MB"
_TIMES = ("event_timestamp", "created_timestamp")
_LOG_TYPES = {"entity": "string", "feature": "string", "value": "string", "deleted": "bool"}

#: The schema of a log file, as writers make it.
LOG_SCHEMA = pa.schema(
    [
        pa.field("entity", pa.string(), nullable=False),
        pa.field("feature", pa.string(), nullable=False),
        pa.field("value", pa.string()),
        pa.field("event_timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("created_timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("deleted", pa.bool_(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A Parquet file of the offline store on this machine's disk, and its key in the store."""

    key: str
    path: Path


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a checked Parquet file holds: rows, and the type of each feature (``json`` for those of a log)."""

    rows: int
    features: dict[str, str]


def kind_of(key: str) -> Kind | None:
    """Return what a key of the offline store is; None for what is no part of the truth."""
    if key.endswith(".parquet"):
        if key.startswith(HISTORY):
            return "history"
        if key.startswith(LOG):
            return "log"
    return None


def check_parquet(key: str, source: Path | bytes) -> FileFacts:
    """Read a whole file once and return what it holds.

    Raises:
        Corrupt: it is truncated, does not decode, or misses what every row must have; the error names it.
        Unsupported: a column has a type that has no JSON form.
    """
    kind = kind_of(key)
    hint = "write the file again at the source; nothing of it was copied"
    try:
        handle = pa.BufferReader(source) if isinstance(source, bytes) else pa.OSFile(str(source))
        with handle, pq.ParquetFile(handle, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            _check_schema(key, kind, schema)
            rows = 0
            names: set[str] = set()
            for batch in file.iter_batches(_BATCH_ROWS):
                batch.validate(full=True)
                rows += batch.num_rows
                _check_rows(key, kind, batch)
                if kind == "log":
                    names.update(pc.unique(batch.column("feature")).to_pylist())
            if rows != file.metadata.num_rows:
                message = f"{key} holds {rows} rows, its footer says {file.metadata.num_rows}"
                raise Corrupt(message, hint=hint)
    except (pa.ArrowException, OSError) as error:
        message = f"{key} is not a whole Parquet file ({str(error).splitlines()[0][:120]})"
        raise Corrupt(message, hint=hint) from error
    if kind == "log":
        return FileFacts(rows, dict.fromkeys(sorted(names), "json"))
    return FileFacts(rows, {name: str(schema.field(name).type) for name in _feature_columns(schema)})


def _check_schema(key: str, kind: Kind | None, schema: pa.Schema) -> None:
    wanted = ["entity", "event_timestamp"] if kind == "history" else [*_LOG_TYPES, *_TIMES]
    for name in wanted:
        if schema.get_field_index(name) < 0:
            message = f"{key} has no column {name}, or it twice"
            raise Corrupt(message, hint="see docs/formats.md for the columns of the offline store")
    lowered = [name.lower() for name in schema.names]
    if len(set(lowered)) != len(lowered):
        message = f"{key} has two columns whose names differ in case alone"
        raise Unsupported(message, hint="rename one of them")
    for field in schema:
        if field.name in _TIMES:
            good = pa.types.is_timestamp(field.type)
        elif field.name == "entity" or (kind == "log" and _LOG_TYPES.get(field.name) == "string"):
            good = _is_string(field.type)
        elif kind == "log":
            good = field.name != "deleted" or pa.types.is_boolean(field.type)
        else:
            good = _has_json_form(field.type)
        if not good:
            message = f"{key}: column {field.name} has the type {field.type}"
            raise Unsupported(message, hint="see docs/formats.md for the types of the offline store")


def _check_rows(key: str, kind: Kind | None, batch: pa.RecordBatch) -> None:
    hint = "correct the row at the source"
    for name in ("entity", "event_timestamp", "feature") if kind == "log" else ("entity", "event_timestamp"):
        if batch.column(name).null_count:
            message = f"{key} has a row without {name}"
            raise Corrupt(message, hint=hint)
    for name in ("entity", "feature") if kind == "log" else ("entity",):
        if pc.any(pc.equal(batch.column(name), "")).as_py():
            message = f"{key} has a row with an empty {name}"
            raise Corrupt(message, hint=hint)
    if kind == "log":
        kept = pc.invert(pc.fill_null(batch.column("deleted"), fill_value=False))
        if pc.any(pc.and_(kept, pc.is_null(batch.column("value")))).as_py():
            message = f"{key} has a row without value that is no tombstone"
            raise Corrupt(message, hint=hint)
    event = batch.column("event_timestamp")
    if batch.num_rows and pc.min(event.cast(pa.int64())).as_py() < 0:
        message = f"{key} has an event time before 1970"
        raise Unsupported(message, hint=hint)


def _is_string(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_string(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _has_json_form(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return _has_json_form(kind.value_type)
    if types.is_struct(kind):
        return all(_has_json_form(kind.field(place).type) for place in range(kind.num_fields))
    if types.is_timestamp(kind):
        return bool(kind.unit != "ns")
    return bool(
        _is_string(kind)
        or types.is_integer(kind)
        or types.is_float32(kind)
        or types.is_float64(kind)
        or types.is_boolean(kind)
        or types.is_decimal128(kind)
        or types.is_date(kind)
        or types.is_null(kind)
    )


def _feature_columns(schema: pa.Schema) -> list[str]:
    return [name for name in schema.names if name not in ("entity", *_TIMES)]


@dataclass(frozen=True, slots=True)
class Truth:
    """The newest cell of every (entity, feature), tombstones included, by partition.

    Attributes:
        cells: the cells; read them partition by partition.
        set_aside: rows left out because their event time is later than ``event_us_max``.
        set_aside_from_us: the least event time of these, microseconds; 0 when there are none.
    """

    cells: Spill
    set_aside: int
    set_aside_from_us: int = 0


def read_truth(
    files: Sequence[LocalFile],
    directory: Path,
    *,
    as_of_us: int | None = None,
    event_us_max: int | None = None,
    memory: str = _MEMORY,
) -> Truth:
    """Compute what the online store has to hold.

    Args:
        files: Parquet files that ``check_parquet`` accepted.
        directory: scratch space on disk, removed by the caller.
        as_of_us: what was known then: only rows whose event and created times are not later (microseconds).
        event_us_max: rows with later event times are set aside and counted: a far future stamp would win for ever.
        memory: what DuckDB may use before it goes to disk.

    Raises:
        Corrupt: a file does not read.
    """
    import duckdb  # not for those who only write the log

    cells = Spill(directory, "truth")
    aside: list[tuple[int, int]] = []
    with duckdb.connect() as database:
        database.execute(f"SET memory_limit = '{memory}'")
        database.execute("SET temp_directory = ?", [str(directory / "duckdb")])
        database.execute("SET TimeZone = 'UTC'")
        database.execute("SET preserve_insertion_order = false")
        database.execute("SET enable_object_cache = true")
        try:
            for paths, columns, created in _histories(files):
                rows = _Rows(paths, "entity", created=created, as_of_us=as_of_us, event_us_max=event_us_max)
                aside.append(rows.ahead(database))
                for column in columns:
                    one = replace(rows, wanted=f"entity, {_name(column)} AS value")
                    for batch in one.newest(database, "entity", "WHERE value IS NOT NULL"):
                        cells.add(_history_cells(column, batch))
            logs = [str(file.path) for file in files if kind_of(file.key) == "log"]
            if logs:
                wanted = "entity, feature, if(deleted, NULL, value) AS value"
                rows = _Rows(logs, wanted, created=True, as_of_us=as_of_us, event_us_max=event_us_max)
                aside.append(rows.ahead(database))
                for batch in rows.newest(database, "entity, feature"):
                    cells.add(_log_cells(batch))
        except duckdb.Error as error:
            message = f"the offline store's files do not read ({str(error).splitlines()[0][:160]})"
            raise Corrupt(message, hint="run: understudy vault verify --deep") from error
    return Truth(cells, sum(count for count, _ in aside), min((least for count, least in aside if count), default=0))


def _histories(files: Sequence[LocalFile]) -> Iterator[tuple[list[str], list[str], bool]]:
    """Group histories by schema: DuckDB would turn an integer into a float where another file has floats."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for file in files:
        if kind_of(file.key) == "history":
            try:
                schema = pq.read_schema(file.path)
            except (pa.ArrowException, OSError) as error:
                message = f"{file.key} is not a whole Parquet file"
                raise Corrupt(message, hint="run: understudy vault verify --deep") from error
            groups.setdefault(tuple((field.name, str(field.type)) for field in schema), []).append(str(file.path))
    for described, paths in groups.items():
        names = [name for name, _ in described]
        columns = [name for name, kind in described if name not in ("entity", *_TIMES) and kind != "null"]
        yield paths, columns, "created_timestamp" in names


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows of files of one schema, as SQL.

    Attributes:
        paths: the files.
        wanted: the columns to take.
        created: whether the files have a created time.
        as_of_us: only rows whose times are not later.
        event_us_max: rows with later event times are set aside.
    """

    paths: list[str]
    wanted: str
    created: bool
    as_of_us: int | None
    event_us_max: int | None

    def _known(self) -> str:
        listed = ", ".join(_text(path) for path in self.paths)
        event = "epoch_us(event_timestamp)"
        written = f"coalesce(epoch_us(created_timestamp), {event})" if self.created else event
        rows = f"SELECT {self.wanted}, {event} AS event_us, {written} AS created_us FROM read_parquet([{listed}])"  # noqa: S608 - quoted
        if self.as_of_us is None:
            return rows
        return f"SELECT * FROM ({rows}) WHERE event_us <= {self.as_of_us:d} AND created_us <= {self.as_of_us:d}"  # noqa: S608

    def ahead(self, database: duckdb.DuckDBPyConnection) -> tuple[int, int]:
        """Return how many rows are set aside, and their least event time (microseconds, 0 without any)."""
        if self.event_us_max is None:
            return 0, 0
        rows = f"({self._known()}) WHERE event_us > {self.event_us_max:d}"
        query = f"SELECT count(*), coalesce(min(event_us), 0) FROM {rows}"  # noqa: S608 - numbers and quoted names
        found = database.execute(query).fetchone()
        return (int(found[0]), int(found[1])) if found else (0, 0)

    def newest(
        self, database: duckdb.DuckDBPyConnection, group: str, condition: str = "WHERE true"
    ) -> Iterator[pa.RecordBatch]:
        """Yield the newest row of each group; of rows with equal times all, the caller decides."""
        if self.event_us_max is not None:
            condition += f" AND event_us <= {self.event_us_max:d}"
        query = (
            "SELECT * EXCLUDE (place) FROM (SELECT *, rank() OVER "  # noqa: S608 - quoted
            f"(PARTITION BY {group} ORDER BY event_us DESC, created_us DESC) AS place "
            f"FROM ({self._known()}) {condition}) WHERE place = 1"
        )
        yield from database.execute(query).to_arrow_reader(_BATCH_ROWS)


def _history_cells(feature: str, batch: pa.RecordBatch) -> Iterator[Cell]:
    columns = [batch.column(name).to_pylist() for name in ("entity", "value", "event_us", "created_us")]
    for entity, value, event, created in zip(*columns, strict=True):
        yield Cell(entity, feature, canonical_json(value), event, created)


def _log_cells(batch: pa.RecordBatch) -> Iterator[Cell]:
    columns: list[list[Any]] = [
        batch.column(name).to_pylist() for name in ("entity", "feature", "value", "event_us", "created_us")
    ]
    for entity, feature, value, event, created in zip(*columns, strict=True):
        yield Cell(entity, feature, value, event, created)


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _name(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'
