"""A small Bigtable: the admin and data RPCs that this product uses, over gRPC, in memory.

Message classes come with google-cloud-bigtable, so no protoc is needed. It keeps what Bigtable promises and what the
product leans on: a row changes atomically, CheckAndMutateRow is a compare-and-set, cells of a column stand newest
first, rows stand sorted by the bytes of their key, timestamps have millisecond granularity. It cannot prove: latency,
garbage collection (nothing is ever collected), replication between clusters, quotas, permissions.
"""

from __future__ import annotations

import argparse
import re
import signal
import threading
import time
from bisect import bisect_left, bisect_right
from concurrent import futures
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from google.cloud.bigtable_admin_v2.types import bigtable_table_admin as admin_types
from google.cloud.bigtable_admin_v2.types import table as table_types
from google.cloud.bigtable_v2.types import bigtable as data_types
from google.protobuf import empty_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Cell = tuple[str, bytes, int, bytes, tuple[str, ...]]
    Cells = list[Cell]
    Filter = Callable[[bytes, Cells], Cells]
    Columns = dict[tuple[str, bytes], list[tuple[int, bytes]]]

_ROWS_A_MESSAGE = 500
_BYTES_A_MESSAGE = 1 << 20
_MUTATIONS_MAX = 100_000
_ROW_KEY_BYTES_MAX = 4096
_GRANULARITY_MICROS = 1000
_INT64_BYTES = 8
_TABLE_ID = re.compile(r"[_a-zA-Z0-9][-_.a-zA-Z0-9]{0,49}")
_MESSAGE_BYTES_MAX = 256 << 20


class Refusal(Exception):
    """An RPC that fails with a status code."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        """Keep the code and the words."""
        super().__init__(message)
        self.code = code


def _invalid(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)


@dataclass
class Table:
    """Rows by key, and the keys in order, sorted again only when a read finds new ones."""

    families: dict[str, Any] = field(default_factory=dict)
    rows: dict[bytes, Columns] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    _sorted: list[bytes] = field(default_factory=list)
    _dirty: bool = False

    def keys(self) -> list[bytes]:
        """Return all row keys in order. Call with the lock held; the list is never changed in place."""
        if self._dirty:
            self._sorted = sorted(self.rows)
            self._dirty = False
        return self._sorted

    def cells(self, key: bytes) -> Cells:
        """Return a row's cells: by family, qualifier, newest first."""
        columns = self.rows.get(key)
        if not columns:
            return []
        ordered = sorted(columns) if len(columns) > 1 else columns
        return [(name[0], name[1], stamp, value, ()) for name in ordered for stamp, value in columns[name]]

    def check(self, mutations: Any) -> None:
        """Refuse what cannot be applied, before any of it is."""
        if not mutations:
            message = "No mutations provided"
            raise _invalid(message)
        for mutation in mutations:
            kind = mutation.WhichOneof("mutation")
            if kind == "set_cell":
                self._check_family(mutation.set_cell.family_name)
                stamp = mutation.set_cell.timestamp_micros
                if stamp < -1 or (stamp >= 0 and stamp % _GRANULARITY_MICROS):
                    expected = "Expected a multiple of 1000 (millisecond granularity)"
                    message = f"Timestamp granularity mismatch. {expected}, but got {stamp}."
                    raise _invalid(message)
            elif kind == "delete_from_column":
                self._check_family(mutation.delete_from_column.family_name)
            elif kind == "delete_from_family":
                self._check_family(mutation.delete_from_family.family_name)
            elif kind != "delete_from_row":
                message = f"mutation {kind} is not supported here"
                raise Refusal(grpc.StatusCode.UNIMPLEMENTED, message)

    def _check_family(self, name: str) -> None:
        if name not in self.families:
            message = f'unknown family "{name}"'
            raise Refusal(grpc.StatusCode.NOT_FOUND, message)

    def apply(self, key: bytes, mutations: Any) -> None:
        """Apply checked mutations to one row, in order. Call with the lock held."""
        columns = self.rows.get(key)
        if columns is None:
            columns = {}
        for mutation in mutations:
            kind = mutation.WhichOneof("mutation")
            if kind == "set_cell":
                cell = mutation.set_cell
                stamp = cell.timestamp_micros
                if stamp == -1:
                    stamp = _now_micros()
                self.set_cell(columns, (cell.family_name, cell.column_qualifier), stamp, cell.value)
            elif kind == "delete_from_row":
                columns.clear()
            elif kind == "delete_from_family":
                family = mutation.delete_from_family.family_name
                for name in [name for name in columns if name[0] == family]:
                    del columns[name]
            else:
                _delete_from_column(columns, mutation.delete_from_column)
        self.keep(key, columns)

    def keep(self, key: bytes, columns: Columns) -> None:
        """Put a changed row back; a row without cells is no row."""
        if columns:
            if key not in self.rows:
                self.rows[key] = columns
                self._dirty = True
        elif self.rows.pop(key, None) is not None:
            self._dirty = True

    @staticmethod
    def set_cell(columns: Columns, name: tuple[str, bytes], stamp: int, value: bytes) -> None:
        """Write one cell; the same timestamp overwrites."""
        versions = columns.get(name)
        if versions is None:
            columns[name] = [(stamp, value)]
            return
        for place, (other, _) in enumerate(versions):
            if other == stamp:
                versions[place] = (stamp, value)
                return
            if other < stamp:
                versions.insert(place, (stamp, value))
                return
        versions.append((stamp, value))

    def drop(self, keys: list[bytes]) -> None:
        """Remove rows. Call with the lock held."""
        for key in keys:
            del self.rows[key]
        self._dirty = True


def _delete_from_column(columns: Columns, order: Any) -> None:
    name = (order.family_name, order.column_qualifier)
    start, end = order.time_range.start_timestamp_micros, order.time_range.end_timestamp_micros
    left = [cell for cell in columns.get(name, ()) if cell[0] < start or (end and cell[0] >= end)]
    if left:
        columns[name] = left
    else:
        columns.pop(name, None)


def _now_micros() -> int:
    return time.time_ns() // 1_000_000 * 1000


# --- filters -----------------------------------------------------------------------------------------------------


def compile_filter(message: Any) -> Filter:  # noqa: C901, PLR0911, PLR0912 - one branch a kind of filter
    """Turn a RowFilter into a function of (row key, cells). Refuses what is not supported here."""
    kind = message.WhichOneof("filter")
    if kind is None or kind == "pass_all_filter":
        return lambda _key, cells: cells
    if kind == "block_all_filter":
        return lambda _key, _cells: []
    if kind == "chain":
        parts = [compile_filter(part) for part in message.chain.filters]
        return lambda key, cells: _run_chain(parts, key, cells)
    if kind == "interleave":
        parts = [compile_filter(part) for part in message.interleave.filters]
        return lambda key, cells: sorted(
            (cell for part in parts for cell in part(key, cells)), key=lambda cell: (cell[0], cell[1], -cell[2])
        )
    if kind == "row_key_regex_filter":
        rows = _regex(message.row_key_regex_filter)
        return lambda key, cells: cells if rows.fullmatch(key) else []
    if kind == "family_name_regex_filter":
        families = _regex(message.family_name_regex_filter.encode())
        return lambda _key, cells: [cell for cell in cells if families.fullmatch(cell[0].encode())]
    if kind == "column_qualifier_regex_filter":
        qualifiers = _regex(message.column_qualifier_regex_filter)
        return lambda _key, cells: [cell for cell in cells if qualifiers.fullmatch(cell[1])]
    if kind == "value_regex_filter":
        values = _regex(message.value_regex_filter)
        return lambda _key, cells: [cell for cell in cells if values.fullmatch(cell[3])]
    if kind == "column_range_filter":
        family = message.column_range_filter.family_name
        inside = _range(message.column_range_filter, "qualifier")
        return lambda _key, cells: [cell for cell in cells if cell[0] == family and inside(cell[1])]
    if kind == "value_range_filter":
        within = _range(message.value_range_filter, "value")
        return lambda _key, cells: [cell for cell in cells if within(cell[3])]
    if kind == "timestamp_range_filter":
        start = message.timestamp_range_filter.start_timestamp_micros
        end = message.timestamp_range_filter.end_timestamp_micros or 1 << 63
        return lambda _key, cells: [cell for cell in cells if start <= cell[2] < end]
    if kind == "cells_per_row_limit_filter":
        row_limit = message.cells_per_row_limit_filter
        return lambda _key, cells: cells[:row_limit]
    if kind == "cells_per_row_offset_filter":
        offset = message.cells_per_row_offset_filter
        return lambda _key, cells: cells[offset:]
    if kind == "cells_per_column_limit_filter":
        column_limit = message.cells_per_column_limit_filter
        return lambda _key, cells: _limit_columns(cells, column_limit)
    if kind == "strip_value_transformer":
        return lambda _key, cells: [(family, name, stamp, b"", labels) for family, name, stamp, _, labels in cells]
    if kind == "apply_label_transformer":
        label = message.apply_label_transformer
        return lambda _key, cells: [(*cell[:4], (*cell[4], label)) for cell in cells]
    message = f"filter {kind} is not supported here"
    raise Refusal(grpc.StatusCode.UNIMPLEMENTED, message)


def _run_chain(parts: list[Filter], key: bytes, cells: Cells) -> Cells:
    for part in parts:
        if not cells:
            break
        cells = part(key, cells)
    return cells


def _limit_columns(cells: Cells, limit: int) -> Cells:
    kept: Cells = []
    column: tuple[str, bytes] | None = None
    seen = 0
    for cell in cells:
        seen = seen + 1 if (cell[0], cell[1]) == column else 1
        column = (cell[0], cell[1])
        if seen <= limit:
            kept.append(cell)
    return kept


def _regex(pattern: bytes) -> re.Pattern[bytes]:
    try:
        return re.compile(pattern.replace(rb"\C", rb"."), re.DOTALL)
    except re.error as error:
        message = f"Error in field 'row_filter': bad regex: {error}"
        raise _invalid(message) from error


def _range(message: Any, noun: str) -> Callable[[bytes], bool]:
    start_kind, end_kind = message.WhichOneof(f"start_{noun}"), message.WhichOneof(f"end_{noun}")
    start = getattr(message, start_kind) if start_kind else b""
    end = getattr(message, end_kind) if end_kind else None
    start_open = bool(start_kind) and start_kind.endswith("open")
    end_open = bool(end_kind) and end_kind.endswith("open")

    def inside(value: bytes) -> bool:
        after = value > start if start_open else value >= start
        return after and (end is None or (value < end if end_open else value <= end))

    return inside


# --- services ----------------------------------------------------------------------------------------------------


class Server:
    """All tables of all instances, and the RPCs over them."""

    def __init__(self) -> None:
        """Begin empty."""
        self._tables: dict[str, Table] = {}
        self._lock = threading.Lock()

    def table(self, name: str) -> Table:
        """Return a table by its full name. Refuses with NOT_FOUND."""
        found = self._tables.get(name)
        if found is None:
            message = f'table "{name}" not found'
            raise Refusal(grpc.StatusCode.NOT_FOUND, message)
        return found

    # admin

    def create_table(self, request: Any, _context: Any) -> Any:
        """BigtableTableAdmin.CreateTable."""
        if not _TABLE_ID.fullmatch(request.table_id):
            message = f'Invalid id for collection tables : "{request.table_id}"'
            raise _invalid(message)
        name = f"{request.parent}/tables/{request.table_id}"
        families = {key: _copy(value) for key, value in request.table.column_families.items()}
        with self._lock:
            if name in self._tables:
                message = f'table "{name}" already exists'
                raise Refusal(grpc.StatusCode.ALREADY_EXISTS, message)
            self._tables[name] = Table(families=families)
        return self._describe(name)

    def get_table(self, request: Any, _context: Any) -> Any:
        """BigtableTableAdmin.GetTable."""
        self.table(request.name)
        return self._describe(request.name)

    def list_tables(self, request: Any, _context: Any) -> Any:
        """BigtableTableAdmin.ListTables: names only, one page."""
        with self._lock:
            names = sorted(name for name in self._tables if name.startswith(f"{request.parent}/tables/"))
        answer = admin_types.ListTablesResponse.pb()()
        for name in names:
            answer.tables.add().name = name
        return answer

    def delete_table(self, request: Any, _context: Any) -> Any:
        """BigtableTableAdmin.DeleteTable."""
        with self._lock:
            self.table(request.name)
            del self._tables[request.name]
        return empty_pb2.Empty()

    def modify_column_families(self, request: Any, _context: Any) -> Any:
        """BigtableTableAdmin.ModifyColumnFamilies: all of them or none."""
        table = self.table(request.name)
        with table.lock:
            families = dict(table.families)
            dropped: list[str] = []
            for change in request.modifications:
                kind = change.WhichOneof("mod")
                if kind == "create":
                    if change.id in families:
                        message = f'family "{change.id}" already exists'
                        raise Refusal(grpc.StatusCode.ALREADY_EXISTS, message)
                    families[change.id] = _copy(change.create)
                elif change.id not in families:
                    message = f'unknown family "{change.id}"'
                    raise Refusal(grpc.StatusCode.NOT_FOUND, message)
                elif kind == "update":
                    families[change.id] = _copy(change.update)
                else:
                    del families[change.id]
                    dropped.append(change.id)
            table.families = families
            for key in list(table.rows) if dropped else ():
                columns = table.rows[key]
                for name in [name for name in columns if name[0] in dropped]:
                    del columns[name]
                table.keep(key, columns)
        return self._describe(request.name)

    def drop_row_range(self, request: Any, _context: Any) -> Any:
        """BigtableTableAdmin.DropRowRange: a prefix or all."""
        table = self.table(request.name)
        kind = request.WhichOneof("target")
        if kind == "row_key_prefix" and not request.row_key_prefix:
            message = "row_key_prefix must not be empty"
            raise _invalid(message)
        if kind is None or (kind == "delete_all_data_from_table" and not request.delete_all_data_from_table):
            message = "a target must be given"
            raise _invalid(message)
        prefix = request.row_key_prefix if kind == "row_key_prefix" else b""
        with table.lock:
            table.drop([key for key in table.rows if key.startswith(prefix)])
        return empty_pb2.Empty()

    def _describe(self, name: str) -> Any:
        answer = table_types.Table.pb()()
        answer.name = name
        answer.granularity = 1
        for key, family in self.table(name).families.items():
            answer.column_families[key].CopyFrom(family)
        return answer

    # data

    def read_rows(self, request: Any, context: Any) -> Iterator[Any]:
        """Bigtable.ReadRows."""
        table = self.table(request.table_name)
        keep = compile_filter(request.filter)
        if request.rows_limit < 0:
            message = "rows_limit must not be negative"
            raise _invalid(message)
        with table.lock:
            keys = _select(table.keys(), request.rows)
        if request.reversed:
            keys = keys[::-1]
        left = request.rows_limit or len(keys)
        unfiltered = request.filter.WhichOneof("filter") is None
        place = 0
        while place < len(keys) and left > 0 and context.is_active():
            answer = data_types.ReadRowsResponse.pb()()
            size = rows = 0
            with table.lock:
                while place < len(keys) and left > 0 and rows < _ROWS_A_MESSAGE and size < _BYTES_A_MESSAGE:
                    key = keys[place]
                    place += 1
                    cells = table.cells(key)
                    if not unfiltered:
                        cells = keep(key, cells)
                    if cells:
                        size += _add_row(answer.chunks, key, cells)
                        rows += 1
                        left -= 1
            if rows:
                yield answer

    def sample_row_keys(self, request: Any, _context: Any) -> Iterator[Any]:
        """Bigtable.SampleRowKeys: some keys in order, then the empty one that stands for the end."""
        table = self.table(request.table_name)
        with table.lock:
            keys = table.keys()
        step = max(1, len(keys) // 8)
        for place in range(step, len(keys), step):
            yield data_types.SampleRowKeysResponse.pb()(row_key=keys[place], offset_bytes=place * 100)
        yield data_types.SampleRowKeysResponse.pb()(offset_bytes=len(keys) * 100)

    def mutate_row(self, request: Any, _context: Any) -> Any:
        """Bigtable.MutateRow."""
        table = self.table(request.table_name)
        _check_key(request.row_key)
        table.check(request.mutations)
        with table.lock:
            table.apply(request.row_key, request.mutations)
        return data_types.MutateRowResponse.pb()()

    def mutate_rows(self, request: Any, _context: Any) -> Iterator[Any]:
        """Bigtable.MutateRows: each entry atomic, with a status of its own."""
        table = self.table(request.table_name)
        if not request.entries or sum(len(entry.mutations) for entry in request.entries) > _MUTATIONS_MAX:
            message = f"between 1 and {_MUTATIONS_MAX} mutations are allowed"
            raise _invalid(message)
        answer = data_types.MutateRowsResponse.pb()()
        with table.lock:
            for index, entry in enumerate(request.entries):
                result = answer.entries.add(index=index)
                try:
                    _check_key(entry.row_key)
                    table.check(entry.mutations)
                    table.apply(entry.row_key, entry.mutations)
                    result.status.code = 0
                except Refusal as refusal:
                    result.status.code = refusal.code.value[0]
                    result.status.message = str(refusal)
        yield answer

    def check_and_mutate_row(self, request: Any, _context: Any) -> Any:
        """Bigtable.CheckAndMutateRow: the compare-and-set."""
        table = self.table(request.table_name)
        _check_key(request.row_key)
        if not request.true_mutations and not request.false_mutations:
            message = "No mutations provided"
            raise _invalid(message)
        keep = compile_filter(request.predicate_filter)
        for mutations in (request.true_mutations, request.false_mutations):
            if mutations:
                table.check(mutations)
        with table.lock:
            matched = bool(keep(request.row_key, table.cells(request.row_key)))
            mutations = request.true_mutations if matched else request.false_mutations
            if mutations:
                table.apply(request.row_key, mutations)
        return data_types.CheckAndMutateRowResponse.pb()(predicate_matched=matched)

    def read_modify_write_row(self, request: Any, _context: Any) -> Any:
        """Bigtable.ReadModifyWriteRow: append and increment."""
        table = self.table(request.table_name)
        _check_key(request.row_key)
        if not request.rules:
            message = "No rules provided"
            raise _invalid(message)
        for rule in request.rules:
            table._check_family(rule.family_name)  # noqa: SLF001 - the same module
        answer = data_types.ReadModifyWriteRowResponse.pb()()
        with table.lock:
            columns = {name: list(cells) for name, cells in table.rows.get(request.row_key, {}).items()}
            written: dict[tuple[str, bytes], tuple[int, bytes]] = {}
            for rule in request.rules:
                name = (rule.family_name, rule.column_qualifier)
                stamp, value = columns.get(name, [(0, b"")])[0]
                if rule.WhichOneof("rule") == "append_value":
                    value += rule.append_value
                else:
                    if value and len(value) != _INT64_BYTES:
                        message = "increment on a value that is not an 8-byte integer"
                        raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, message)
                    number = int.from_bytes(value, "big", signed=True) + rule.increment_amount
                    value = ((number + (1 << 63)) % (1 << 64) - (1 << 63)).to_bytes(_INT64_BYTES, "big", signed=True)
                stamp = max(stamp, _now_micros())
                table.set_cell(columns, name, stamp, value)
                written[name] = (stamp, value)
            table.drop([request.row_key] if request.row_key in table.rows else [])
            table.keep(request.row_key, columns)
        answer.row.key = request.row_key
        for (family, qualifier), (stamp, value) in sorted(written.items()):
            if not answer.row.families or answer.row.families[-1].name != family:
                answer.row.families.add(name=family)
            column = answer.row.families[-1].columns.add(qualifier=qualifier)
            column.cells.add(timestamp_micros=stamp, value=value)
        return answer

    def ping_and_warm(self, _request: Any, _context: Any) -> Any:
        """Bigtable.PingAndWarm."""
        return data_types.PingAndWarmResponse.pb()()


def _copy(message: Any) -> Any:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def _check_key(key: bytes) -> None:
    if not key or len(key) > _ROW_KEY_BYTES_MAX:
        message = f"Row keys must have 1 to {_ROW_KEY_BYTES_MAX} bytes"
        raise _invalid(message)


def _select(keys: list[bytes], wanted: Any) -> list[bytes]:
    if not wanted.row_keys and not wanted.row_ranges:
        return keys
    spans: list[tuple[int, int]] = []
    for row_range in wanted.row_ranges:
        start_kind, end_kind = row_range.WhichOneof("start_key"), row_range.WhichOneof("end_key")
        low, high = 0, len(keys)
        if start_kind == "start_key_closed":
            low = bisect_left(keys, row_range.start_key_closed)
        elif start_kind:
            low = bisect_right(keys, row_range.start_key_open)
        if end_kind == "end_key_closed" and row_range.end_key_closed:
            high = bisect_right(keys, row_range.end_key_closed)
        elif end_kind == "end_key_open" and row_range.end_key_open:
            high = bisect_left(keys, row_range.end_key_open)
        spans.append((low, high))
    for key in wanted.row_keys:
        place = bisect_left(keys, key)
        if place < len(keys) and keys[place] == key:
            spans.append((place, place + 1))
    selected: list[bytes] = []
    reached = 0
    for low, high in sorted(spans):
        selected.extend(keys[max(low, reached) : high])
        reached = max(reached, high)
    return selected


def _add_row(chunks: Any, key: bytes, cells: Cells) -> int:
    last_family: str | None = None
    last_qualifier: bytes | None = None
    size = len(key)
    chunk = None
    for family, qualifier, stamp, value, labels in cells:
        chunk = chunks.add(timestamp_micros=stamp, value=value)
        if last_family is None:
            chunk.row_key = key
        if family != last_family:
            chunk.family_name.value = family
        if family != last_family or qualifier != last_qualifier:
            chunk.qualifier.value = qualifier
        if labels:
            chunk.labels.extend(labels)
        last_family, last_qualifier = family, qualifier
        size += len(value) + 24
    chunk.commit_row = True  # type: ignore[union-attr] # a row has at least one cell
    return size


# --- wire --------------------------------------------------------------------------------------------------------


def _answer(call: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def answer(request: Any, context: Any) -> Any:
        try:
            return call(request, context)
        except Refusal as refusal:
            context.abort(refusal.code, str(refusal))

    return answer


def _stream(call: Callable[[Any, Any], Iterator[Any]]) -> Callable[[Any, Any], Iterator[Any]]:
    def stream(request: Any, context: Any) -> Iterator[Any]:
        try:
            yield from call(request, context)
        except Refusal as refusal:
            context.abort(refusal.code, str(refusal))

    return stream


def _handlers(server: Server) -> list[grpc.GenericRpcHandler]:
    def unary(call: Callable[[Any, Any], Any], request: Any) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(
            _answer(call), request.pb().FromString, lambda message: message.SerializeToString()
        )

    def streaming(call: Callable[[Any, Any], Iterator[Any]], request: Any) -> grpc.RpcMethodHandler:
        return grpc.unary_stream_rpc_method_handler(
            _stream(call), request.pb().FromString, lambda message: message.SerializeToString()
        )

    admin = {
        "CreateTable": unary(server.create_table, admin_types.CreateTableRequest),
        "GetTable": unary(server.get_table, admin_types.GetTableRequest),
        "ListTables": unary(server.list_tables, admin_types.ListTablesRequest),
        "DeleteTable": unary(server.delete_table, admin_types.DeleteTableRequest),
        "ModifyColumnFamilies": unary(server.modify_column_families, admin_types.ModifyColumnFamiliesRequest),
        "DropRowRange": unary(server.drop_row_range, admin_types.DropRowRangeRequest),
    }
    data = {
        "ReadRows": streaming(server.read_rows, data_types.ReadRowsRequest),
        "SampleRowKeys": streaming(server.sample_row_keys, data_types.SampleRowKeysRequest),
        "MutateRow": unary(server.mutate_row, data_types.MutateRowRequest),
        "MutateRows": streaming(server.mutate_rows, data_types.MutateRowsRequest),
        "CheckAndMutateRow": unary(server.check_and_mutate_row, data_types.CheckAndMutateRowRequest),
        "ReadModifyWriteRow": unary(server.read_modify_write_row, data_types.ReadModifyWriteRowRequest),
        "PingAndWarm": unary(server.ping_and_warm, data_types.PingAndWarmRequest),
    }
    return [
        grpc.method_handlers_generic_handler("google.bigtable.admin.v2.BigtableTableAdmin", admin),
        grpc.method_handlers_generic_handler("google.bigtable.v2.Bigtable", data),
    ]


def serve(host: str, port: int, *, threads: int = 16, tables: Server | None = None) -> tuple[grpc.Server, int]:
    """Start serving tables (none yet unless given) and return the server and its port (``port`` 0: a free one)."""
    options = [
        ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", _MESSAGE_BYTES_MAX),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.server(futures.ThreadPoolExecutor(threads), options=options)
    server.add_generic_rpc_handlers(_handlers(tables or Server()))
    bound = server.add_insecure_port(f"{host}:{port}")
    server.start()
    return server, bound


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", help="taken for symmetry with the other servers; this one keeps all in memory")
    arguments = parser.parse_args()
    server, _ = serve(arguments.host, arguments.port)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    server.stop(grace=None)


if __name__ == "__main__":
    main()
