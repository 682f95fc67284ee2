from __future__ import annotations

import struct
import uuid
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.vectors.rows import batch_of, floats_of, schema_of, vectors_of
from understudy.errors import Corrupt, Unsupported
from understudy.vectors import copy_binary
from understudy.vectors.interface import Column

# Signalling and quiet NaNs with payloads, both zeros, denormals, infinities among them.
SPECIAL = [0, 1 << 31, 1, 0x7F800001, 0xFFBFFFFF, 0x7FC00000, 0x7F800000, 0xFF800000, 0x007FFFFF]
bits32 = st.sampled_from(SPECIAL) | st.integers(0, 2**32 - 1)
EVERY_KIND = schema_of(
    Column("t", "text", "text"),
    Column("s", "int2", "smallint"),
    Column("i", "int4", "integer"),
    Column("f", "float4", "real"),
    Column("d", "float8", "double precision"),
    Column("b", "bool", "boolean"),
    Column("j", "json", "jsonb"),
    Column("at", "time", "timestamp with time zone"),
    Column("u", "uuid", "uuid"),
    Column("n", "numeric", "numeric"),
)


def stream(schema, *batches):
    return b"".join(copy_binary.write(schema, batches))


def read(schema, data, size=1 << 20):
    batches = list(copy_binary.read(schema, [data[i : i + size] for i in range(0, len(data), size)]))
    return [row for batch in batches for row in batch.to_pylist()]


def one_of_each(rows=1):
    return batch_of(
        EVERY_KIND,
        list(range(rows)),
        vectors_of([[1, 2, 3]] * rows),
        ["héllo"] * rows,
        [-2] * rows,
        [3] * rows,
        [1.5] * rows,
        [None] * rows,
        [True] * rows,
        ['{"a": 1}'] * rows,
        [0] * rows,
        [str(uuid.UUID(int=5))] * rows,
        ["-12345.6700"] * rows,
    )


def test_the_stream_is_what_the_format_says():
    schema = schema_of(Column("t", "text", "text"))
    expected = (
        b"PGCOPY\n\xff\r\n\0" + bytes(8)
        + struct.pack(">h", 3) + struct.pack(">iq", 8, 7)
        + struct.pack(">ihhIII", 16, 3, 0, 0x3F800000, 0x80000000, 0x7FA00001)
        + struct.pack(">i", -1)
        + b"\xff\xff"
    )  # fmt: skip
    batch = batch_of(schema, [7], vectors_of([[0x3F800000, 0x80000000, 0x7FA00001]]), [None])
    assert expected == stream(schema, batch)


@given(st.lists(st.tuples(bits32, bits32, bits32), min_size=1, max_size=20), st.integers(1, 40))
def test_every_float_crosses_bit_for_bit_however_the_stream_is_cut(rows, size):
    schema = schema_of()
    data = stream(schema, batch_of(schema, list(range(len(rows))), vectors_of(rows)))
    batches = list(copy_binary.read(schema, [data[i : i + size] for i in range(0, len(data), size)]))
    found = [row for batch in batches for row in copy_binary.vector_bits(batch.column(1), 3).tolist()]
    assert [list(row) for row in rows] == found


@given(st.lists(st.integers(0, 2**16 - 1), min_size=3, max_size=3))
def test_half_precision_crosses_bit_for_bit(bits):
    schema = schema_of(element="float2")
    data = stream(schema, batch_of(schema, [1], vectors_of([bits], element="float2")))
    (batch,) = copy_binary.read(schema, [data])
    assert [bits] == copy_binary.vector_bits(batch.column(1), 3).tolist()


@given(bits32, st.integers(0, 2**64 - 1))
def test_float_columns_keep_their_bits(single, double):
    schema = schema_of(Column("f", "float4", "real"), Column("d", "float8", "double precision"))
    batch = batch_of(schema, [1], vectors_of([[0, 0, 0]]), floats_of([single], "float4"), floats_of([double], "float8"))
    data = stream(schema, batch)
    assert data == stream(schema, *copy_binary.read(schema, [data]))


def test_every_kind_of_column_comes_back():
    batch = one_of_each(3)
    assert batch.to_pylist() == read(EVERY_KIND, stream(EVERY_KIND, batch), 7)


def test_every_kind_of_column_may_be_null():
    batch = batch_of(EVERY_KIND, [1, 2], vectors_of([[1, 2, 3]] * 2, valid=[True, False]), *[[None, None]] * 10)
    assert batch.to_pylist() == read(EVERY_KIND, stream(EVERY_KIND, batch))


def test_slices_of_a_batch_are_written_as_their_own_rows():
    schema = schema_of(Column("d", "float8", "double precision"))
    batch = batch_of(schema, list(range(20)), vectors_of([[i, 1, 2] for i in range(20)]), [i / 2 for i in range(20)])
    parts = [batch.slice(5, 3), batch.slice(17)]
    assert [row for part in parts for row in part.to_pylist()] == read(schema, stream(schema, *parts))
    flags = batch_of(
        schema_of(Column("b", "bool", "boolean")), [1, 2, 3], vectors_of([[0] * 3] * 3), [True, False, True]
    )
    schema = schema_of(Column("b", "bool", "boolean"))
    assert [False, True] == [row["b"] for row in read(schema, stream(schema, flags.slice(1)))]


@given(
    st.one_of(
        st.decimals(allow_nan=False, allow_infinity=False, places=6),
        st.decimals(allow_nan=False, allow_infinity=False, min_value=-1, max_value=1),
        st.integers(-(10**30), 10**30).map(Decimal),
    ).filter(lambda value: value.as_tuple().exponent >= -300)
)
def test_numerics_keep_value_and_scale(value):
    text = f"{abs(value):f}" if value == 0 else f"{value:f}"
    schema = schema_of(Column("n", "numeric", "numeric"))
    data = stream(schema, batch_of(schema, [1], vectors_of([[0, 0, 0]]), [text]))
    assert [text] == [row["n"] for row in read(schema, data)]


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_numerics_without_a_value_keep_their_word(word):
    schema = schema_of(Column("n", "numeric", "numeric"))
    data = stream(schema, batch_of(schema, [1], vectors_of([[0, 0, 0]]), [word]))
    assert word == read(schema, data)[0]["n"]


@pytest.mark.parametrize("ticks", [0, 1, -1, 946_684_800_000_000, 2**63 - 1, -(2**63), -210_866_803_200_000_000])
def test_times_keep_their_microseconds_and_infinity_stays_one(ticks):
    schema = schema_of(Column("at", "time", "timestamp with time zone"))
    data = stream(schema, batch_of(schema, [1], vectors_of([[0, 0, 0]]), [ticks]))
    (batch,) = copy_binary.read(schema, [data])
    assert ticks == batch.column(2).cast("int64")[0].as_py()
    on_the_wire = struct.unpack(">q", data[-10:-2])[0]
    assert (ticks if abs(ticks) > 2**62 else ticks - 946_684_800_000_000) == on_the_wire


def test_a_time_that_arrow_cannot_hold_is_refused_by_name():
    schema = schema_of(Column("at", "time", "timestamp with time zone"))
    data = stream(schema, batch_of(schema, [1], vectors_of([[0, 0, 0]]), [0]))
    data = data[:-10] + struct.pack(">q", 2**63 - 2) + data[-2:]
    with pytest.raises(Unsupported, match=r"column at \(timestamp with time zone\)"):
        read(schema, data)


@pytest.mark.parametrize("cut", [0, 5, 18, 19, 20, 40, -3, -2, -1])
def test_a_stream_that_ends_early_is_corrupt(cut):
    data = stream(schema_of(), batch_of(schema_of(), [1, 2], vectors_of([[1, 2, 3]] * 2)))
    with pytest.raises(Corrupt):
        read(schema_of(), data[:cut])


def test_a_stream_that_goes_on_after_its_end_is_corrupt():
    data = stream(schema_of(), batch_of(schema_of(), [1], vectors_of([[1, 2, 3]])))
    with pytest.raises(Corrupt):
        read(schema_of(), data + b"more")


def test_vectors_of_another_dimension_are_corrupt():
    data = stream(schema_of(), batch_of(schema_of(), [1], vectors_of([[1, 2, 3]])))
    with pytest.raises(Corrupt, match="3 numbers"):
        read(schema_of(), data.replace(struct.pack(">hh", 3, 0), struct.pack(">hh", 2, 0), 1))


def test_text_that_is_not_utf8_is_refused():
    schema = schema_of(Column("t", "text", "text"))
    data = stream(schema, batch_of(schema, [1], vectors_of([[1, 2, 3]]), ["ab"]))
    with pytest.raises(Unsupported, match="UTF-8"):
        read(schema, data.replace(b"ab", b"a\xff"))
