from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.vectors.rows import batch_of, schema_of, vectors_of
from understudy.errors import Corrupt
from understudy.objects.memory import MemoryStore
from understudy.vectors import parquet
from understudy.vectors.copy_binary import vector_bits
from understudy.vectors.interface import Column, Hnsw, PlainIndex, Schema
from understudy.vectors.spill import Buckets

bits32 = st.integers(0, 2**32 - 1)


@given(st.lists(st.tuples(bits32, bits32, bits32), min_size=1, max_size=30), st.booleans())
def test_vectors_come_back_bit_for_bit_nulls_among_them(rows, with_null):
    schema = schema_of()
    valid = [i > 0 or not with_null for i in range(len(rows))]
    table = pa.Table.from_batches([batch_of(schema, list(range(len(rows))), vectors_of(rows, valid=valid))])
    back = parquet.decode(schema, parquet.encode(schema, table)).combine_chunks()
    assert valid == back.column("v").is_valid().to_pylist()
    found = vector_bits(back.column("v").chunk(0), 3).tolist()
    assert [list(row) for row, there in zip(rows, valid, strict=True) if there] == [
        row for row, there in zip(found, valid, strict=True) if there
    ]


def test_half_precision_comes_back_bit_for_bit():
    schema = schema_of(element="float2")
    bits = np.arange(0, 65_535, dtype=np.uint16).reshape(-1, 3)
    table = pa.Table.from_batches([batch_of(schema, list(range(len(bits))), vectors_of(bits, element="float2"))])
    back = parquet.decode(schema, parquet.encode(schema, table)).combine_chunks()
    assert (bits == vector_bits(back.column("v").chunk(0), 3)).all()


def test_anything_that_reads_parquet_can_read_it():
    schema = schema_of(Column("t", "text", "text"))
    table = pa.Table.from_batches([batch_of(schema, [1, 2], vectors_of([[0x3F800000, 0, 0]] * 2), ["a", None])])
    data = parquet.encode(schema, table)
    found = pq.read_table(pa.BufferReader(data)).to_pylist()
    assert [{"id": 1, "v": [1.0, 0.0, 0.0], "t": "a"}, {"id": 2, "v": [1.0, 0.0, 0.0], "t": None}] == found
    column = pq.ParquetFile(pa.BufferReader(data)).metadata.row_group(0).column(1)
    assert "ZSTD" == column.compression
    assert "BYTE_STREAM_SPLIT" in column.encodings


def test_the_ids_alone_are_read_by_ranges():
    schema = schema_of()
    random = np.random.default_rng(1).integers(0, 2**32, (40_000, 3), dtype=np.uint32)
    table = pa.Table.from_batches([batch_of(schema, list(range(40_000)), vectors_of(random))])
    data = parquet.encode(schema, table)
    store = MemoryStore()
    store.put("x", data)
    read = []

    class Counting:
        url = store.url

        def get_range(self, key, start, length):
            read.append(length)
            return store.get_range(key, start, length)

    assert list(range(40_000)) == parquet.read_ids(schema, Counting(), "x", len(data)).to_pylist()
    assert sum(read) < len(data) / 2


def test_bytes_that_are_no_parquet_are_corrupt():
    with pytest.raises(Corrupt):
        parquet.decode(schema_of(), b"PAR1 nothing PAR1")


def test_the_schema_survives_json():
    schema = Schema(
        columns=(
            Column("id", "int8", "bigint", nullable=False, default="identity"),
            Column("v", "vector", "vector(3)"),
            Column("t", "text", "character varying(40)", default="'x'::character varying"),
        ),
        id="id",
        vector="v",
        dimension=3,
        metric="l2",
        hnsw=(Hnsw("h", "l2", 8, 32),),
        indexes=(PlainIndex("p", "USING btree (id)", unique=True, primary=True),),
        left_behind=("trigger audit",),
    )
    assert schema == Schema.from_json(json.loads(json.dumps(schema.as_json())))
    with pytest.raises(Corrupt):
        Schema.from_json({**schema.as_json(), "id": "absent"})


def test_rows_beyond_the_memory_limit_come_back_from_the_temporary_file():
    schema = schema_of(Column("t", "text", "text"))
    with Buckets(schema, 16, memory_bytes=10_000) as buckets:
        for start in range(0, 2000, 100):
            ids = list(range(start + 99, start - 1, -1))
            buckets.add(batch_of(schema, ids, vectors_of([[i, 1, 2] for i in ids]), [f"t{i}" for i in ids]))
        assert 2000 == buckets.rows
        found = [buckets.take(number) for number in buckets.numbers()]
        assert [] == buckets.numbers()
    assert list(range(2000)) == sorted(i for table in found for i in table.column("id").to_pylist())
    for table in found:
        ids = table.column("id").to_pylist()
        assert sorted(ids) == ids
        assert [f"t{i}" for i in ids] == table.column("t").to_pylist()
