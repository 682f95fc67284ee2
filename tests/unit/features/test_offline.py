from __future__ import annotations

import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.features.offline_store import NOON, at_us, encode_history, logged
from understudy.errors import Corrupt, Unsupported
from understudy.features.interface import Cell, canonical_json, version_of
from understudy.features.log import encode_log
from understudy.features.offline import LocalFile, check_parquet, read_truth

TYPES = {"clicks": pa.int64(), "rate": pa.float64(), "name": pa.string(), "member": pa.bool_()}
moments = st.integers(0, 6)
values = {
    "clicks": st.integers(-(2**63), 2**63 - 1),
    "rate": st.floats(),
    "name": st.text(max_size=4),
    "member": st.booleans(),
}
entities = st.sampled_from(["a", "b", "ü#", "a%"])
history_rows = st.lists(st.tuples(entities, moments, moments, st.fixed_dictionaries({}, optional=values)), max_size=8)
log_rows = st.lists(
    st.builds(
        logged,
        entities,
        st.sampled_from(["clicks", "rate", "only live"]),
        st.one_of(st.none(), st.integers(0, 3).map(str)),
        moments,
        moments,
    ),
    max_size=8,
)


def model(
    histories: list[list[tuple[str, float, float, dict[str, Any]]]], logs: list[list[Cell]], as_of: int | None
) -> list[Cell]:
    """The newest cell of each key, in plain Python."""
    newest: dict[tuple[str, str], Cell] = {}
    every = [cell for rows in logs for cell in rows]
    for rows in histories:
        for entity, event, created, features in rows:
            for name, value in features.items():
                every.append(Cell(entity, name, canonical_json(value), at_us(event), at_us(created)))
    for cell in every:
        if as_of is not None and max(cell.event_us, cell.created_us) > as_of:
            continue
        if cell.key not in newest or version_of(newest[cell.key]) < version_of(cell):
            newest[cell.key] = cell
    return sorted(newest.values())


def truth_of(directory: Path, files: dict[str, bytes], **options: Any) -> list[Cell]:
    local = []
    for number, (key, data) in enumerate(files.items()):
        path = directory / f"{number}.parquet"
        path.write_bytes(data)
        local.append(LocalFile(key, path))
    truth = read_truth(local, directory, **options)
    return sorted(cell for _, cells in truth.cells.partitions() for cell in cells)


@settings(max_examples=25, deadline=None)
@given(st.lists(history_rows, max_size=2), st.lists(log_rows, max_size=2), st.none() | st.integers(-1, 7))
def test_the_truth_is_what_a_plain_program_finds(
    histories: list[list[tuple[str, float, float, dict[str, Any]]]], logs: list[list[Cell]], as_of: int | None
) -> None:
    files = {f"history/{number}.parquet": encode_history(rows, TYPES) for number, rows in enumerate(histories)}
    files |= {f"log/w/{number}.parquet": encode_log(rows) for number, rows in enumerate(logs)}
    as_of_us = None if as_of is None else at_us(as_of)
    with tempfile.TemporaryDirectory() as directory:
        assert model(histories, logs, as_of_us) == truth_of(Path(directory), files, as_of_us=as_of_us)


def test_values_become_their_exact_text(tmp_path: Path) -> None:
    types = {
        "big": pa.int64(),
        "unsigned": pa.uint64(),
        "float": pa.float64(),
        "single": pa.float32(),
        "zero": pa.float64(),
        "none": pa.float64(),
        "infinite": pa.float64(),
        "yes": pa.bool_(),
        "text": pa.string(),
        "moment": pa.timestamp("us", tz="UTC"),
        "local": pa.timestamp("ms"),
        "day": pa.date32(),
        "price": pa.decimal128(10, 2),
        "vector": pa.list_(pa.float32()),
        "record": pa.struct([("b", pa.int32()), ("a", pa.string())]),
        "empty": pa.null(),
    }
    row = {
        "big": 2**63 - 1,
        "unsigned": 2**64 - 1,
        "float": 0.1 + 0.2,
        "single": 0.1,
        "zero": -0.0,
        "none": float("nan"),
        "infinite": float("-inf"),
        "yes": True,
        "text": 'a "ü"\n',
        "moment": NOON,
        "local": NOON.replace(tzinfo=None),
        "day": NOON.date(),
        "price": Decimal("1.50"),
        "vector": [0.5, None],
        "record": {"b": 1, "a": "x"},
    }
    cells = truth_of(tmp_path, {"history/a.parquet": encode_history([("u", 0, 0, row)], types)})
    assert {
        "big": "9223372036854775807",
        "unsigned": "18446744073709551615",
        "float": "0.30000000000000004",
        "single": "0.10000000149011612",
        "zero": "-0.0",
        "none": "NaN",
        "infinite": "-Infinity",
        "yes": "true",
        "text": '"a \\"ü\\"\\n"',
        "moment": '"2026-11-21T12:00:00.000000Z"',
        "local": '"2026-11-21T12:00:00.000000"',
        "day": '"2026-11-21"',
        "price": '"1.50"',
        "vector": "[0.5,null]",
        "record": '{"a":"x","b":1}',
    } == {cell.feature: cell.value for cell in cells}


def test_an_integer_stays_one_where_another_file_has_floats(tmp_path: Path) -> None:
    files = {
        "history/a.parquet": encode_history([("u", 0, 0, {"n": 2**53 + 1})], {"n": pa.int64()}),
        "history/b.parquet": encode_history([("v", 0, 0, {"n": 0.5})], {"n": pa.float64()}),
    }
    assert ["9007199254740993", "0.5"] == [cell.value for cell in truth_of(tmp_path, files)]


def test_a_history_without_created_times_takes_the_event_times(tmp_path: Path) -> None:
    table = pq.read_table(pa.BufferReader(encode_history([("u", 3, 9, {"n": 1})], {"n": pa.int64()})))
    sink = pa.BufferOutputStream()
    pq.write_table(table.drop_columns("created_timestamp"), sink)
    cells = truth_of(tmp_path, {"history/a.parquet": sink.getvalue().to_pybytes()})
    assert [logged("u", "n", "1", 3)] == cells


def test_a_stamp_in_the_far_future_is_set_aside_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    path.write_bytes(
        encode_log([logged("u", "n", "1", 0), logged("u", "n", "2", 90_000, 1), logged("v", "n", "2", 99_000)])
    )
    truth = read_truth([LocalFile("log/w/1.parquet", path)], tmp_path, event_us_max=at_us(86_400))
    assert (2, at_us(90_000)) == (truth.set_aside, truth.set_aside_from_us)
    assert ["1"] == [cell.value for _, cells in truth.cells.partitions() for cell in cells]


def test_a_column_with_a_strange_name_is_read(tmp_path: Path) -> None:
    names = sorted(['it\'s "50%"', "event_us", "value", "place", "feature", "deleted"])
    types = dict.fromkeys(names, pa.int64())
    cells = truth_of(tmp_path, {"history/a.parquet": encode_history([("u", 0, 0, dict.fromkeys(names, 1))], types)})
    assert names == [cell.feature for cell in cells]


def test_a_truncated_file_is_refused_by_name() -> None:
    data = encode_history([("u", 0, 0, {"n": 1})], {"n": pa.int64()})
    for cut in (0, 3, len(data) // 2, len(data) - 1):
        with pytest.raises(Corrupt, match=r"history/bad\.parquet"):
            check_parquet("history/bad.parquet", data[:cut])


def test_a_flipped_bit_in_a_log_is_refused() -> None:
    data = bytearray(encode_log([logged(f"user:{number}", "n", str(number), number) for number in range(50)]))
    data[200] ^= 4
    with pytest.raises(Corrupt, match=r"log/w/1\.parquet"):
        check_parquet("log/w/1.parquet", bytes(data))


@pytest.mark.parametrize(("entity", "value", "message"), [("", "1", "empty entity"), ("u", None, "no tombstone")])
def test_a_row_that_cannot_be_served_is_refused(entity: str, value: str | None, message: str) -> None:
    table = pq.read_table(pa.BufferReader(encode_log([logged(entity, "n", value, 0)])))
    table = table.set_column(5, "deleted", pa.array([False]))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    with pytest.raises(Corrupt, match=message):
        check_parquet("log/w/1.parquet", sink.getvalue().to_pybytes())


def test_a_column_without_a_json_form_is_refused() -> None:
    with pytest.raises(Unsupported, match="photo has the type binary"):
        check_parquet("history/a.parquet", encode_history([("u", 0, 0, {"photo": b"x"})], {"photo": pa.binary()}))


def test_what_a_file_holds_is_told() -> None:
    facts = check_parquet("history/a.parquet", encode_history([("u", 0, 0, {"n": 1})], {"n": pa.int64()}))
    assert (1, {"n": "int64"}) == (facts.rows, facts.features)
    facts = check_parquet("log/w/1.parquet", encode_log([logged("u", "x", "1", 0), logged("v", "y", None, 0)]))
    assert (2, {"x": "json", "y": "json"}) == (facts.rows, facts.features)
