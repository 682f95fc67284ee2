"""Features in Bigtable: tables ``<name>__<generation>``, a row ``entity#feature`` for each cell.

``features:value`` is the JSON text, ``metadata:timestamp`` the version that newest-wins compares (it begins with the
event time in microseconds); both cells are stamped with the event time, truncated to milliseconds. A tombstone has no
``features:value``. ``#`` and ``%`` in an entity are written ``%23`` and ``%25``. The table ``<name>`` has one row,
``#pointer``. https://cloud.google.com/bigtable/docs/reference/data/rpc
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from google.api_core import exceptions as google_errors
from google.auth.exceptions import GoogleAuthError
from google.cloud.bigtable.data import (
    DeleteRangeFromColumn,
    Mutation,
    ReadRowsQuery,
    RowMutationEntry,
    RowRange,
    SetCell,
    row_filters,
)
from google.cloud.bigtable.data.exceptions import FailedMutationEntryError, MutationsExceptionGroup, RetryExceptionGroup
from google.cloud.bigtable_admin_v2 import types as admin_types

from understudy.errors import Conflict, Denied, NotFound, Throttled, UnderstudyError, Unreachable, Unsupported
from understudy.features.interface import Cell, Key, Pointer, times_of, version_of
from understudy.objects.attempts import persist
from understudy.report import Progress, quiet
from understudy.threads import ThreadPool
from understudy.vault.lanes import each
from understudy.vault.store import numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Result = TypeVar("Result")

VALUES = "features"
VALUE = b"value"
STAMPS = "metadata"
STAMP = b"timestamp"
POINTER_ROW = b"#pointer"

_BATCH_ROWS = 1_000
_LANES = 4
_LIVE_LANES = 8
_KEYS_A_READ = 500
_CALL_SECONDS = 5.0
_BULK_SECONDS = 60.0
_SCAN_SECONDS = 120.0
_ADMIN_SECONDS = 30.0
_GRANULARITY_US = 1_000
_ROW_KEY_BYTES_MAX = 4096


class BigtableStore:
    """An OnlineStore over one Bigtable instance."""

    vendor = "bigtable"

    ABILITIES: ClassVar[dict[str, str]] = {
        "newest wins": "CheckAndMutateRow a cell",
        "pointer": "CheckAndMutateRow",
        "bulk": "batched mutations into a fresh table",
        "limits": "row key 4 KB, cell 100 MB",
    }

    def __init__(self, project: str, instance: str, name: str, *, data: Any, admin: Any) -> None:  # noqa: ANN401
        """Use tables of an instance whose names start with ``name``.

        Args:
            project: the Google Cloud project.
            instance: the Bigtable instance.
            name: the control table, and the stem of the data tables.
            data: a BigtableDataClient of that project.
            admin: a BigtableTableAdminClient.
        """
        self.name = name
        self._instance = instance
        self._parent = f"projects/{project}/instances/{instance}"
        self._data = data
        self._admin = admin
        self._handles: dict[str, Any] = {}
        self._ids = re.compile(rf"{re.escape(self._parent)}/tables/{re.escape(name)}__(\d{{8}})")

    def generations(self) -> list[int]:
        """Return the numbers of all data tables."""

        def listed() -> list[int]:
            names = [table.name for table in self._admin.list_tables(parent=self._parent, timeout=_ADMIN_SECONDS)]
            return sorted(int(match[1]) for name in names if (match := self._ids.fullmatch(name)))

        return self._call("list the tables", listed)

    def create_generation(self, generation: int) -> None:
        """Make an empty data table."""
        self._create_table(self._id(generation), (VALUES, STAMPS))

    def drop_generation(self, generation: int) -> None:
        """Remove a data table."""
        table = self._id(generation)
        try:
            self._call(
                "drop a table",
                lambda: self._admin.delete_table(name=f"{self._parent}/tables/{table}", timeout=_ADMIN_SECONDS),
            )
        except NotFound:
            return

    def fill(self, generation: int, cells: Iterable[Cell], *, progress: Progress = quiet) -> int:
        """Write cells by MutateRows, 1,000 rows a call, four calls at a time."""
        table = self._handle(self._id(generation))
        source = iter(cells)
        batches = iter(lambda: list(islice(source, _BATCH_ROWS)), [])
        written = 0
        with ThreadPool(_LANES) as pool:
            jobs = (partial(self._write_batch, table, batch) for batch in batches)
            for count in each(pool, jobs, ahead=_LANES * 2):
                written += count
                progress(self.name, written, None, "cells")
        return written

    def write_newer(self, generation: int, cells: Sequence[Cell]) -> int:
        """Write each cell by CheckAndMutateRow."""
        table = self._handle(self._id(generation))
        if len(cells) == 1:
            return int(self._put_newer(table, cells[0]))
        with ThreadPool(_LIVE_LANES) as pool:
            jobs = (partial(self._put_newer, table, cell) for cell in cells)
            return sum(each(pool, jobs, ahead=_LIVE_LANES * 2))

    def scan(self, generation: int) -> Iterator[Cell]:
        """Yield every cell, one tablet after the other."""
        table = self._handle(self._id(generation))
        samples = self._call(
            "sample keys", lambda: table.sample_row_keys(operation_timeout=_CALL_SECONDS, attempt_timeout=_CALL_SECONDS)
        )
        bounds = [b"", *sorted(key for key, _ in samples if key), None]
        for start, end in pairwise(bounds):
            yield from self._read_range(table, RowRange(start or None, end))

    def read(self, generation: int, entity: str) -> dict[str, Cell]:
        """Return an entity's cells by one prefix read."""
        table = self._handle(self._id(generation))
        stem = escape(entity).encode() + b"#"
        query = ReadRowsQuery(row_ranges=RowRange(stem, stem[:-1] + b"$"), row_filter=_LATEST)
        rows = self._call("read an entity", lambda: _read(table, query))
        return {cell.feature: cell for cell in map(_to_cell, rows)}

    def read_keys(self, generation: int, keys: Sequence[Key]) -> dict[Key, Cell]:
        """Return the cells of these keys, 500 rows a call."""
        table = self._handle(self._id(generation))
        found: dict[Key, Cell] = {}
        for start in range(0, len(keys), _KEYS_A_READ):
            rows: list[str | bytes] = [
                row_key(entity, feature) for entity, feature in keys[start : start + _KEYS_A_READ]
            ]
            query = ReadRowsQuery(row_keys=rows, row_filter=_LATEST)
            for cell in map(_to_cell, self._call("read cells", partial(_read, table, query))):
                found[cell.key] = cell
        return found

    def pointer(self) -> Pointer | None:
        """Return what is live."""
        table = self._handle(self.name)
        try:
            row = self._call(
                "read the pointer",
                lambda: table.read_row(
                    POINTER_ROW, row_filter=_LATEST, operation_timeout=_CALL_SECONDS, attempt_timeout=_CALL_SECONDS
                ),
            )
        except NotFound:
            return None
        return Pointer.from_text(row.cells[0].value.decode()) if row is not None else None

    def move_pointer(self, pointer: Pointer, *, expected: Pointer | None) -> None:
        """Compare-and-set by CheckAndMutateRow on the pointer's text."""
        # One cell with a fixed timestamp: a move overwrites it, so there is never an older one to fall back to.
        written = SetCell(STAMPS, b"pointer", pointer.to_text().encode(), timestamp_micros=0)
        if expected is None:
            outcome: dict[str, Any] = {"predicate": None, "false_case_mutations": written}
        else:
            text = expected.to_text().encode()
            outcome = {"predicate": row_filters.ValueRangeFilter(text, text), "true_case_mutations": written}
        table = self._handle(self.name)

        def move() -> bool:
            matched = bool(table.check_and_mutate_row(POINTER_ROW, **outcome, operation_timeout=_CALL_SECONDS))
            return matched == (expected is not None)

        try:
            moved = self._call("move the pointer", move)
        except NotFound:
            if expected is not None:
                raise
            with suppress(Conflict):  # another one made it just now; its pointer decides
                self._create_table(self.name, (STAMPS,))
            moved = self._call("move the pointer", move)
        if not moved and self.pointer() != pointer:
            message = f"the pointer of {self.name} was moved by another run"
            raise Conflict(message, hint="run again: it starts from what is live now")

    # ------------------------------------------------------------------ private

    def _id(self, generation: int) -> str:
        return f"{self.name}__{numbered(generation)}"

    def _handle(self, table: str) -> Any:  # noqa: ANN401 - the SDK has no types
        if table not in self._handles:
            self._handles[table] = self._data.get_table(self._instance, table)
        return self._handles[table]

    def _create_table(self, table: str, families: tuple[str, ...]) -> None:
        newest_only = admin_types.GcRule(max_num_versions=1)  # type: ignore[no-untyped-call, unused-ignore]
        described = admin_types.Table(
            column_families={name: admin_types.ColumnFamily(gc_rule=newest_only) for name in families}
        )
        self._call(
            "make a table",
            lambda: self._admin.create_table(
                parent=self._parent, table_id=table, table=described, timeout=_ADMIN_SECONDS
            ),
        )

    def _write_batch(self, table: Any, cells: Sequence[Cell]) -> int:  # noqa: ANN401
        entries = [RowMutationEntry(row_key(cell.entity, cell.feature), _mutations(cell)) for cell in cells]
        self._call(
            "write cells",
            lambda: table.bulk_mutate_rows(entries, operation_timeout=_BULK_SECONDS, attempt_timeout=_BULK_SECONDS),
        )
        return len(entries)

    def _put_newer(self, table: Any, cell: Cell) -> bool:  # noqa: ANN401
        not_older = row_filters.RowFilterChain(
            [
                row_filters.FamilyNameRegexFilter(STAMPS),
                row_filters.ColumnQualifierRegexFilter(STAMP),
                row_filters.CellsColumnLimitFilter(1),
                row_filters.ValueRangeFilter(start_value=version_of(cell).encode()),
            ]
        )
        matched = self._call(
            "write a cell",
            lambda: table.check_and_mutate_row(
                row_key(cell.entity, cell.feature),
                not_older,
                false_case_mutations=_mutations(cell),
                operation_timeout=_CALL_SECONDS,
            ),
        )
        return not matched

    def _read_range(self, table: Any, wanted: RowRange) -> Iterator[Cell]:  # noqa: ANN401
        query = ReadRowsQuery(row_ranges=wanted, row_filter=_LATEST)
        try:
            rows = table.read_rows_stream(query, operation_timeout=_SCAN_SECONDS, attempt_timeout=_SCAN_SECONDS)
            yield from map(_to_cell, rows)
        except (google_errors.GoogleAPIError, GoogleAuthError, MutationsExceptionGroup) as error:
            raise self._translate("scan", error) from error

    def _call(self, what: str, call: Callable[[], Result]) -> Result:
        def translated() -> Result:
            try:
                return call()
            except (google_errors.GoogleAPIError, GoogleAuthError, MutationsExceptionGroup) as error:
                raise self._translate(what, error) from error

        return persist(translated)

    def _translate(self, what: str, error: BaseException) -> UnderstudyError:
        cause = _cause(error)
        words = f"Bigtable did not {what} for {self.name}: {getattr(cause, 'message', None) or cause}"
        if isinstance(cause, google_errors.NotFound):
            return NotFound(words, hint="rebuild the features")
        if isinstance(cause, google_errors.AlreadyExists):
            return Conflict(words, hint="another rebuild runs; let it finish")
        if isinstance(cause, google_errors.Forbidden | google_errors.Unauthorized | GoogleAuthError):
            return Denied(words, hint="grant the identity of this site roles/bigtable.user and table administration")
        if isinstance(cause, google_errors.TooManyRequests):
            return Throttled(words, hint="try again later, or add nodes")
        if isinstance(cause, google_errors.ClientError) and not isinstance(
            cause, google_errors.Aborted | google_errors.Cancelled
        ):
            return Unsupported(words, hint="a row key has at most 4 KB, a cell 100 MB")
        return Unreachable(words, hint="check the endpoint and the network")


def escape(entity: str) -> str:
    """Return an entity as it stands in a row key, so that the first ``#`` ends it."""
    return entity.replace("%", "%25").replace("#", "%23")


def unescape(text: str) -> str:
    """Return the entity of ``escape``'s text."""
    return text.replace("%23", "#").replace("%25", "%")


def row_key(entity: str, feature: str) -> bytes:
    """Return ``entity#feature``. Raises Unsupported beyond Bigtable's 4 KB."""
    key = f"{escape(entity)}#{feature}".encode()
    if len(key) > _ROW_KEY_BYTES_MAX:
        message = f"{entity[:40]}.../{feature[:40]} makes a row key of {len(key):,} bytes"
        raise Unsupported(message, hint="Bigtable allows 4,096; use shorter entity ids")
    return key


#: Garbage collection is lazy, so older cells may still be there: only the newest of each column counts.
_LATEST = row_filters.CellsColumnLimitFilter(1)


def _mutations(cell: Cell) -> list[Mutation]:
    stamp = cell.event_us - cell.event_us % _GRANULARITY_US
    version = SetCell(STAMPS, STAMP, version_of(cell).encode(), timestamp_micros=stamp)
    if cell.value is None:
        return [DeleteRangeFromColumn(VALUES, VALUE), version]
    return [SetCell(VALUES, VALUE, cell.value.encode(), timestamp_micros=stamp), version]


def _read(table: Any, query: ReadRowsQuery) -> list[Any]:  # noqa: ANN401
    return list(table.read_rows(query, operation_timeout=_CALL_SECONDS * 2, attempt_timeout=_CALL_SECONDS * 2))


def _to_cell(row: Any) -> Cell:  # noqa: ANN401 - the SDK has no types
    entity, _, feature = row.row_key.decode().partition("#")
    value: str | None = None
    version = ""
    for cell in row.cells:
        if cell.family == STAMPS:
            version = cell.value.decode()
        else:
            value = cell.value.decode()
    event, created, deleted = times_of(version)
    return Cell(unescape(entity), feature, None if deleted else value, event, created)


_WRAPPERS = (FailedMutationEntryError, google_errors.RetryError, google_errors.DeadlineExceeded)


def _cause(error: BaseException) -> BaseException:
    """Return what is behind the SDK's groups and wrappers: the first server's answer among them."""
    while True:
        if isinstance(error, MutationsExceptionGroup | RetryExceptionGroup) and error.exceptions:
            error = error.exceptions[0]
        elif isinstance(error, _WRAPPERS) and error.__cause__ is not None:
            error = error.__cause__
        else:
            return error
