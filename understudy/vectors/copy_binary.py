"""PostgreSQL's COPY BINARY stream to Arrow record batches and back, bit for bit. Pure: bytes in, bytes out.

The format: https://www.postgresql.org/docs/current/sql-copy.html (File Formats, Binary Format). The bytes of a value
are those of the type's send function; pgvector's ``vector`` is int16 dimension, int16 unused, then big-endian float4
each (``halfvec`` the same with float2).
"""

from __future__ import annotations

import struct
import uuid
from itertools import chain, repeat
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from understudy.errors import Corrupt, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from understudy.vectors.interface import Column, Schema

_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_HEADER = _SIGNATURE + b"\0\0\0\0\0\0\0\0"
_TRAILER = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_WANTED_BYTES = 4 << 20
#: Microseconds from 1970 to 2000, where PostgreSQL's time begins.
_EPOCH_US = 946_684_800_000_000
Values = list[bytes | None]
_INT64 = np.iinfo(np.int64)
_NUMBERS = {"int2": "i2", "int4": "i4", "int8": "i8", "float4": "u4", "float8": "u8", "bool": "u1", "time": "i8"}
_NUMERIC_NAN, _NUMERIC_PLUS, _NUMERIC_MINUS, _NUMERIC_NEGATIVE = 0xC000, 0xD000, 0xF000, 0x4000
_SPECIAL = {_NUMERIC_NAN: "NaN", _NUMERIC_PLUS: "Infinity", _NUMERIC_MINUS: "-Infinity"}


def read(schema: Schema, blocks: Iterable[bytes | bytearray | memoryview]) -> Iterator[pa.RecordBatch]:
    """Parse a stream, cut anywhere, into record batches of some 4 MiB.

    Raises:
        Corrupt: the stream is not what the format says, or ends early.
        Unsupported: a value that Arrow cannot hold exactly, with its column.
    """
    pending = bytearray()
    started = ended = False
    for block in blocks:
        pending += block
        if len(pending) < _WANTED_BYTES:
            continue
        started = started or _skip_header(pending)
        taken, ended, batch = _parse(schema, bytes(pending))
        del pending[:taken]
        if batch is not None:
            yield batch
    started = started or _skip_header(pending)
    if not ended:
        taken, ended, batch = _parse(schema, bytes(pending))
        del pending[:taken]
        if batch is not None:
            yield batch
    if not ended or pending:
        message = "the table's binary copy ended in the middle of a row"
        raise Corrupt(message, hint="run it again; the connection may have been cut")


def write(schema: Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """Render record batches as one stream, in blocks of at most some MiB. The schema's order is the stream's."""
    yield _HEADER
    count = struct.pack(">h", len(schema.columns))
    for whole in batches:
        rows_max = max(1, _WANTED_BYTES // max(1, whole.nbytes // max(1, whole.num_rows)))
        for start in range(0, whole.num_rows, rows_max):
            batch = whole.slice(start, rows_max)
            fields = [_encode(schema, column, batch.column(i)) for i, column in enumerate(schema.columns)]
            yield b"".join(chain.from_iterable(zip(repeat(count), *fields, strict=False)))
    yield _TRAILER


def _skip_header(pending: bytearray) -> bool:
    if len(pending) < len(_HEADER) or not pending.startswith(_SIGNATURE):
        message = "the table's binary copy does not begin as one"
        raise Corrupt(message, hint="run it again; the connection may have been cut")
    flags, extension = struct.unpack_from(">II", pending, len(_SIGNATURE))
    if flags:
        message = f"the table's binary copy has the unknown flags {flags:#x}"
        raise Unsupported(message)
    del pending[: len(_HEADER) + extension]
    return True


def _parse(schema: Schema, data: bytes) -> tuple[int, bool, pa.RecordBatch | None]:
    """Return the bytes taken, whether the trailer was among them, and the whole rows."""
    width = len(schema.columns)
    columns: list[Values] = [[] for _ in range(width)]
    unpack_count, unpack_length = struct.Struct(">h").unpack_from, struct.Struct(">i").unpack_from
    appends = [column.append for column in columns]
    end = len(data)
    position = taken = rows = 0
    ended = False
    row: Values = [None] * width
    places = range(width)
    while position + 2 <= end:
        (fields,) = unpack_count(data, position)
        position += 2
        if fields != width:
            if fields == -1:
                ended, taken = True, position
                break
            message = f"a row of the table's binary copy has {fields} fields instead of {width}"
            raise Corrupt(message, hint="run it again")
        for place in places:
            if position + 4 > end:
                position = end + 1
                break
            (length,) = unpack_length(data, position)
            position += 4
            if length < 0:
                row[place] = None
                continue
            row[place] = data[position : position + length]
            position += length
        if position > end:
            break
        for append, value in zip(appends, row, strict=True):
            append(value)
        taken = position
        rows += 1
    if not rows:
        return taken, ended, None
    arrays = [_decode(schema, column, values) for column, values in zip(schema.columns, columns, strict=True)]
    return taken, ended, pa.RecordBatch.from_arrays(arrays, schema=schema.arrow())


def _present(values: Values) -> np.ndarray | None:
    if None not in values:
        return None
    return np.fromiter((value is not None for value in values), np.bool_, len(values))


def _bitmap(present: np.ndarray | None) -> pa.Buffer | None:
    return None if present is None else pa.py_buffer(np.packbits(present, bitorder="little").tobytes())


def _decode(schema: Schema, column: Column, values: Values) -> pa.Array:
    present = _present(values)
    kind = column.kind
    if kind == "vector":
        return _decode_vectors(schema, column, values, present)
    if kind in _NUMBERS:
        return _decode_numbers(schema, column, values, present)
    if kind == "uuid":
        values = [None if value is None else str(uuid.UUID(bytes=value)).encode() for value in values]
    elif kind == "numeric":
        values = [None if value is None else _numeric_to_text(value).encode() for value in values]
    elif kind == "json":
        if any(value is not None and value[:1] != b"\x01" for value in values):
            message = f"column {column.name} holds jsonb of an unknown version"
            raise Unsupported(message)
        values = [None if value is None else value[1:] for value in values]
    filled = [value or b"" for value in values]
    offsets = np.zeros(len(filled) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, filled), np.int32, len(filled)), out=offsets[1:])
    array = pa.Array.from_buffers(
        pa.string(), len(filled), [_bitmap(present), pa.py_buffer(offsets), pa.py_buffer(b"".join(filled))]
    )
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        message = f"column {column.name} ({column.declared}) holds text that is not UTF-8"
        raise Unsupported(message, hint="the database's encoding must be UTF8") from error
    return array


def _decode_numbers(schema: Schema, column: Column, values: Values, present: np.ndarray | None) -> pa.Array:
    code = _NUMBERS[column.kind]
    size = np.dtype(code).itemsize
    joined = b"".join([bytes(size) if value is None else value for value in values])
    if len(joined) != size * len(values):
        message = f"column {column.name} ({column.declared}) has values of an unexpected length"
        raise Corrupt(message, hint="run it again")
    numbers = np.frombuffer(joined, ">" + code).astype("<" + code)
    if column.kind == "bool":
        data = np.packbits(numbers.astype(np.bool_), bitorder="little")
    elif column.kind == "time":
        finite = (numbers != _INT64.max) & (numbers != _INT64.min)
        if np.any(finite & (numbers > _INT64.max - _EPOCH_US - 1)):
            message = f"column {column.name} ({column.declared}) holds a time after the year 294246"
            raise Unsupported(message, hint="use infinity for a time that never comes")
        data = numbers + np.where(finite, _EPOCH_US, 0)
    else:
        data = numbers
    return pa.Array.from_buffers(
        schema.arrow_type(column), len(values), [_bitmap(present), pa.py_buffer(np.ascontiguousarray(data))]
    )


def _decode_vectors(schema: Schema, column: Column, values: Values, present: np.ndarray | None) -> pa.Array:
    element = 4 if schema.element == "float4" else 2
    head = struct.pack(">hh", schema.dimension, 0)
    width = len(head) + element * schema.dimension
    empty = head + bytes(width - len(head))
    joined = b"".join([empty if value is None else value for value in values])
    grid = np.frombuffer(joined, np.uint8)
    if grid.size == width * len(values):
        grid = grid.reshape(len(values), width)
    if grid.ndim == 1 or not np.array_equal(
        grid[:, :4], np.broadcast_to(np.frombuffer(head, np.uint8), (len(values), 4))
    ):
        message = f"column {column.name} holds vectors that do not have {schema.dimension} numbers"
        raise Corrupt(message, hint="run it again")
    # As unsigned integers: nothing may look at the floats, and quieten a NaN.
    plain = np.ascontiguousarray(grid[:, 4:]).view(f">u{element}").astype(f"<u{element}")
    kind = schema.arrow_type(column)
    inner = pa.Array.from_buffers(kind.value_type, len(values) * schema.dimension, [None, pa.py_buffer(plain)])
    return pa.Array.from_buffers(kind, len(values), [_bitmap(present)], children=[inner])


def vector_bits(array: pa.Array, dimension: int) -> np.ndarray:
    """Return vectors (a ``fixed_size_list``) as unsigned integers, shape (rows, dimension); nulls as they lie."""
    inner = array.values
    code = np.dtype("<u4" if inner.type.bit_width == 32 else "<u2")
    if not len(array):
        return np.empty((0, dimension), code)
    start = inner.offset + array.offset * dimension
    bits = np.frombuffer(inner.buffers()[1], code, len(array) * dimension, start * code.itemsize)
    return bits.reshape(len(array), dimension)


def fixed_bits(array: pa.Array) -> np.ndarray:
    """Return the values of a number column as they lie in memory, nulls as they lie; booleans as bytes 0 and 1."""
    if not len(array):
        return np.empty(0, np.uint8)
    if pa.types.is_boolean(array.type):
        bits = np.unpackbits(np.frombuffer(array.buffers()[1], np.uint8), bitorder="little")
        return bits[array.offset : array.offset + len(array)]
    code = f"u{array.type.bit_width // 8}"
    return np.frombuffer(array.buffers()[1], code)[array.offset : array.offset + len(array)]


def _encode(schema: Schema, column: Column, array: pa.Array) -> list[bytes]:
    kind = column.kind
    if kind == "vector":
        bits = vector_bits(array, schema.dimension)
        head = struct.pack(">ihh", 4 + bits.itemsize * schema.dimension, schema.dimension, 0)
        fields = _prefixed(head, bits.astype(bits.dtype.newbyteorder(">")))
    elif kind in _NUMBERS:
        bits = fixed_bits(array)
        if kind == "time":
            ticks = bits.view(np.int64)
            finite = (ticks != _INT64.max) & (ticks != _INT64.min)
            bits = ticks - np.where(finite, _EPOCH_US, 0)
        fields = _prefixed(struct.pack(">i", bits.itemsize), bits.astype(bits.dtype.newbyteorder(">")))
    else:
        return [_NULL if value is None else _encode_text(kind, value) for value in array.to_pylist()]
    if array.null_count:
        present = np.asarray(array.is_valid())
        fields = [field if there else _NULL for field, there in zip(fields, present, strict=True)]
    return fields


def _encode_text(kind: str, value: str) -> bytes:
    if kind == "uuid":
        data = uuid.UUID(value).bytes
    elif kind == "numeric":
        data = _text_to_numeric(value)
    elif kind == "json":
        data = b"\x01" + value.encode()
    else:
        data = value.encode()
    return struct.pack(">i", len(data)) + data


def _prefixed(head: bytes, values: np.ndarray) -> list[bytes]:
    """Return each row's bytes with ``head`` before them."""
    rows = len(values)
    body = np.ascontiguousarray(values).view(np.uint8).reshape(rows, -1)
    grid = np.empty((rows, len(head) + body.shape[1]), np.uint8)
    grid[:, : len(head)] = np.frombuffer(head, np.uint8)
    grid[:, len(head) :] = body
    data, width = grid.tobytes(), grid.shape[1]
    return [data[start : start + width] for start in range(0, len(data), width)]


def _numeric_to_text(value: bytes) -> str:
    """Render numeric_send's bytes (base 10000, display scale) exactly as PostgreSQL prints them."""
    count, weight, sign, scale = struct.unpack_from(">hhHH", value)
    if sign in _SPECIAL:
        return _SPECIAL[sign]
    groups = struct.unpack_from(f">{count}H", value, 8)
    before = "".join(f"{groups[i] if 0 <= i < count else 0:04d}" for i in range(weight + 1)).lstrip("0") or "0"
    places = -(-scale // 4)
    after = "".join(f"{groups[i] if 0 <= i < count else 0:04d}" for i in range(weight + 1, weight + 1 + places))[:scale]
    return ("-" if sign == _NUMERIC_NEGATIVE else "") + before + ("." + after if scale else "")


def _text_to_numeric(text: str) -> bytes:
    """The way back, for numeric_recv."""
    for sign, word in _SPECIAL.items():
        if text == word:
            return struct.pack(">hhHH", 0, 0, sign, 0)
    before, _, after = text.removeprefix("-").partition(".")
    scale = len(after)
    padded = before.zfill(-(-len(before) // 4) * 4) + after.ljust(-(-len(after) // 4) * 4, "0")
    weight = -(-len(before) // 4) - 1
    groups = [int(padded[i : i + 4]) for i in range(0, len(padded), 4)]
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    sign = _NUMERIC_NEGATIVE if text.startswith("-") else 0
    return struct.pack(f">hhHH{len(groups)}H", len(groups), weight if groups else 0, sign, scale, *groups)
