"""Schemas and rows of every kind, for the tests of this folder."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from understudy.vectors.interface import Column, Schema

DIMENSION = 3


def schema_of(*columns: Column, element="float4") -> Schema:
    return Schema(
        columns=(Column("id", "int8", "bigint", nullable=False), Column("v", "vector", "vector(3)"), *columns),
        id="id",
        vector="v",
        dimension=DIMENSION,
        element=element,
    )


def vectors_of(bits, *, valid=None, element="float4") -> pa.Array:
    """An array of vectors from their bits, shape (rows, dimension)."""
    bits = np.ascontiguousarray(np.array(bits, np.uint32 if element == "float4" else np.uint16))
    kind = schema_of(element=element).arrow().field("v").type
    inner = pa.Array.from_buffers(kind.value_type, bits.size, [None, pa.py_buffer(bits)])
    mask = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(kind, len(bits), [mask], children=[inner])


def batch_of(schema, ids, vectors, *others) -> pa.RecordBatch:
    arrays = [pa.array(ids, pa.int64()), vectors]
    arrays += [
        other if isinstance(other, pa.Array) else pa.array(other, schema.arrow_type(column))
        for other, column in zip(others, schema.attributes, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema.arrow())


def floats_of(bits, kind) -> pa.Array:
    """A float column from its bits."""
    data = np.array(bits, np.uint32 if kind == "float4" else np.uint64)
    return pa.Array.from_buffers(
        pa.float32() if kind == "float4" else pa.float64(), len(data), [None, pa.py_buffer(data)]
    )
