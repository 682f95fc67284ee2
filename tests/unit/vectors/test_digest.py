from __future__ import annotations

import cbor2
import numpy as np
import pyarrow as pa
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.vectors.rows import batch_of, floats_of, schema_of, vectors_of
from understudy.errors import Corrupt
from understudy.vectors.digest import bucket_digest, bucket_numbers, index_digest, sort_rows
from understudy.vectors.interface import Column

bits32 = st.integers(0, 2**32 - 1)
vectors = st.tuples(bits32, bits32, bits32)


def digest(schema, batch):
    return bucket_digest(schema, sort_rows(schema, pa.Table.from_batches([batch])))


@given(st.dictionaries(st.integers(-(2**63), 2**63 - 1), vectors, min_size=1, max_size=20), st.randoms())
def test_the_digest_is_that_of_canonical_cbor_whatever_the_order_of_the_rows(rows, random):
    schema = schema_of(Column("title", "text", "text"), Column("n", "int4", "integer"), Column("ok", "bool", "boolean"))
    ids = list(rows)
    random.shuffle(ids)
    batch = batch_of(
        schema,
        ids,
        vectors_of([rows[i] for i in ids]),
        [f"é{i}" for i in ids],
        [i % 100 for i in ids],
        [None] * len(ids),
    )
    hasher = blake3()
    for i in sorted(rows):
        raw = np.array(rows[i], "<u4").tobytes()
        hasher.update(cbor2.dumps([i, raw, {"title": f"é{i}", "n": i % 100, "ok": None}], canonical=True))
    assert hasher.hexdigest() == digest(schema, batch)


@given(vectors, st.integers(0, 2), st.integers(0, 31))
def test_one_flipped_bit_of_one_float_changes_the_digest(bits, place, bit):
    other = list(bits)
    other[place] ^= 1 << bit
    schema = schema_of()
    assert digest(schema, batch_of(schema, [1], vectors_of([bits]))) != digest(
        schema, batch_of(schema, [1], vectors_of([other]))
    )


def test_minus_zero_and_each_nan_of_a_float_column_count():
    schema = schema_of(Column("d", "float8", "double precision"))
    found = {
        digest(schema, batch_of(schema, [1], vectors_of([[0, 0, 0]]), floats_of([bits], "float8")))
        for bits in (0, 1 << 63, 0x7FF8000000000000, 0x7FF8000000000001, 0x7FF0000000000001)
    }
    assert 5 == len(found)


def test_a_null_and_an_empty_text_differ():
    schema = schema_of(Column("t", "text", "text"))
    zero = vectors_of([[0, 0, 0]])
    assert digest(schema, batch_of(schema, [1], zero, [None])) != digest(schema, batch_of(schema, [1], zero, [""]))


def test_a_null_and_a_zero_of_a_float_column_differ():
    schema = schema_of(Column("d", "float8", "double precision"))
    zero = vectors_of([[0, 0, 0]])
    assert digest(schema, batch_of(schema, [1], zero, [None])) != digest(schema, batch_of(schema, [1], zero, [0.0]))


def test_a_null_vector_and_a_zero_one_differ():
    schema = schema_of()
    zero, null = vectors_of([[0, 0, 0]]), vectors_of([[0, 0, 0]], valid=[False])
    assert digest(schema, batch_of(schema, [1], zero)) != digest(schema, batch_of(schema, [1], null))


def test_a_duplicate_id_is_an_error():
    schema = schema_of()
    with pytest.raises(Corrupt, match="the id 7 is there twice"):
        digest(schema, batch_of(schema, [7, 3, 7], vectors_of([[0, 0, 0]] * 3)))


def test_a_row_without_an_id_is_an_error():
    with pytest.raises(Corrupt, match="no id"):
        bucket_numbers(pa.array([1, None]), 16)


def test_ids_spread_evenly_and_fall_into_the_halves_of_their_bucket_when_it_is_cut():
    ids = pa.array([f"item-{i}" for i in range(16_000)])
    few, many = bucket_numbers(ids, 16), bucket_numbers(ids, 32)
    assert 800 < np.bincount(few).min() <= np.bincount(few).max() < 1200
    assert (few == many // 2).all()


def test_the_index_digest_covers_layout_count_and_buckets():
    schema, parts = schema_of(), [(3, 2, "ab" * 32), (1, 5, "cd" * 32)]
    base = index_digest(schema, 16, parts)
    assert base == index_digest(schema, 16, parts[::-1])
    others = [
        index_digest(schema_of(Column("t", "text", "text")), 16, parts),
        index_digest(schema, 32, parts),
        index_digest(schema, 16, parts[:1]),
        index_digest(schema, 16, [(3, 1, "ab" * 32), (1, 6, "cd" * 32)]),
        index_digest(schema, 16, [(1, 2, "ab" * 32), (3, 5, "cd" * 32)]),
    ]
    assert 6 == len({base, *others})
