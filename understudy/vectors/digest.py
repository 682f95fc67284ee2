"""The digest that proves two indexes equal: per bucket BLAKE3 over rows sorted by id, each in deterministic CBOR.

A row is the CBOR array ``[id, vector, {column: value}]`` (RFC 8949, section 4.2.1): the vector a byte string of its
little-endian floats, or null; text, json, uuid and numeric values as text; integers as integers; a time as microseconds
since 1970; float columns as byte strings of their little-endian bytes, so that every NaN and -0.0 counts. A duplicate
id is an error.

The index's digest is BLAKE3 over the CBOR array ``["understudy vectors 1", layout, bucket count, [[bucket, rows,
digest], ...]]``, buckets in order, empty ones left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cbor2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3

from understudy.errors import Corrupt
from understudy.vectors.copy_binary import fixed_bits, vector_bits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from understudy.vectors.interface import Column, Schema

_NAME = "understudy vectors 1"


def bucket_numbers(ids: pa.Array, buckets: int) -> np.ndarray:
    """Return each row's bucket: the first bits of BLAKE3 over its id as text. ``buckets`` is a power of two to 2**32.

    Raises:
        Corrupt: an id is null.
    """
    if ids.null_count:
        message = "a row has no id"
        raise Corrupt(message, hint="name a column that is never null with ?id=")
    shift = 32 - (buckets.bit_length() - 1)
    texts = ids.cast(pa.string()).to_pylist()
    joined = b"".join([blake3(text.encode()).digest(length=4) for text in texts])
    return (np.frombuffer(joined, ">u4").astype(np.uint64) >> shift).astype(np.int64)


def sort_rows(schema: Schema, table: pa.Table) -> pa.Table:
    """Return the rows sorted by id: integers by value, text by its UTF-8 bytes. Raises Corrupt on a duplicate id."""
    table = table.combine_chunks()
    ids = table.column(schema.id)
    table = table.take(pc.sort_indices(ids))
    ids = table.column(schema.id)
    if len(ids) > 1:
        same = pc.equal(ids.slice(1), ids.slice(0, len(ids) - 1))
        if pc.any(same).as_py():
            twice = ids[pc.index(same, value=True).as_py()].as_py()
            message = f"the id {twice!r} is there twice"
            raise Corrupt(message, hint=f"make {schema.id} the primary key, or name another column with ?id=")
    return table


def bucket_digest(schema: Schema, table: pa.Table) -> str:
    """Return the digest (64 hex digits) of rows that ``sort_rows`` sorted."""
    hasher = blake3()
    for batch in table.to_batches():
        hasher.update(b"".join(_rows(schema, batch)))
    return hasher.hexdigest()


def row_digests(schema: Schema, table: pa.Table) -> list[bytes]:
    """Return a 32-byte digest of each row: two rows have the same one when they are equal bit for bit."""
    return [blake3(row).digest() for batch in table.to_batches() for row in _rows(schema, batch)]


def index_digest(schema: Schema, buckets: int, parts: Iterable[tuple[int, int, str]]) -> str:
    """Return the digest of a whole index from its (bucket, rows, digest) of the buckets that hold rows."""
    ordered = [[number, rows, bytes.fromhex(digest)] for number, rows, digest in sorted(parts)]
    return blake3(cbor2.dumps([_NAME, schema.layout(), buckets, ordered], canonical=True)).hexdigest()


def _rows(schema: Schema, batch: pa.RecordBatch) -> list[bytes]:
    """Return every row's CBOR, put together by column: the parts that are the same in every row are encoded once."""
    names = [column.name for column in schema.columns]
    fields: list[list[bytes]] = [_values(schema.column(schema.id), batch.column(names.index(schema.id)))]
    vectors = batch.column(names.index(schema.vector))
    bits = vector_bits(vectors, schema.dimension)
    raw, width = np.ascontiguousarray(bits).tobytes(), bits.itemsize * schema.dimension
    head = _head(2, width)
    if vectors.null_count:
        there = vectors.is_valid().to_pylist()
        fields.append([head + raw[i * width : (i + 1) * width] if there[i] else b"\xf6" for i in range(len(there))])
    else:
        fields.append([head + raw[start : start + width] for start in range(0, len(raw), width)])
    # Deterministic CBOR orders a map by its encoded keys.
    attributes = sorted((cbor2.dumps(column.name), column) for column in schema.attributes)
    opening = b"".join((_head(5, len(attributes)), *(key for key, _ in attributes[:1])))
    for place, (_, column) in enumerate(attributes):
        values = _values(column, batch.column(names.index(column.name)))
        # The next key follows this value in every row.
        after = attributes[place + 1][0] if place + 1 < len(attributes) else b""
        fields.append([value + after for value in values])
    return [b"\x83" + row[0] + row[1] + opening + b"".join(row[2:]) for row in zip(*fields, strict=True)]


def _values(column: Column, array: pa.Array) -> list[bytes]:
    if column.kind in {"float4", "float8"}:
        bits = fixed_bits(array)
        there = array.is_valid().to_pylist()
        head = _head(2, bits.itemsize)
        raw = np.ascontiguousarray(bits).tobytes()
        size = bits.itemsize
        return [head + raw[i * size : (i + 1) * size] if there[i] else b"\xf6" for i in range(len(there))]
    values: list[Any] = (array.cast(pa.int64()) if column.kind == "time" else array).to_pylist()
    dumps = cbor2.dumps
    return [dumps(value) for value in values]


def _head(major: int, length: int) -> bytes:
    """Return CBOR's initial bytes for a length, as short as they can be."""
    if length < 24:
        return bytes([major << 5 | length])
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if length < 1 << 8 * size:
            return bytes([major << 5 | code]) + length.to_bytes(size, "big")
    message = "no CBOR length is that long"
    raise ValueError(message)
