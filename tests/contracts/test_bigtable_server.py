"""The sandbox's Bigtable, held to what Bigtable does: ``--real-servers`` runs the same tests on Google's emulator."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any

import pytest
from google.api_core import exceptions as google_errors
from google.cloud.bigtable.data import (
    DeleteAllFromFamily,
    DeleteAllFromRow,
    DeleteRangeFromColumn,
    ReadRowsQuery,
    RowMutationEntry,
    RowRange,
    SetCell,
    row_filters,
)
from google.cloud.bigtable.data.exceptions import MutationsExceptionGroup
from google.cloud.bigtable.data.read_modify_write_rules import AppendValueRule, IncrementRule
from google.cloud.bigtable_admin_v2 import types as admin_types

from tests.real_servers import real
from understudy.clouds import gcp
from understudy.settings import Access

if TYPE_CHECKING:
    from collections.abc import Callable

_numbers = itertools.count(1)
INSTANCE = "projects/acme/instances/server"
CELLS = [
    (b"a", "f", b"x", 2000, b"a-new"),
    (b"a", "f", b"x", 1000, b"a-old"),
    (b"a", "f", b"y", 1000, b"a-y"),
    (b"a", "g", b"x", 1000, b"a-g"),
    (b"b", "f", b"x", 3000, b"b-x"),
    (b"c", "g", b"z", 1000, b"c-z"),
]


@pytest.fixture(scope="session", params=["sandbox", real("bigtable")])
def clients(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A data and an admin client of one of the servers."""
    if request.param == "sandbox":
        access: Access = request.getfixturevalue("bigtable_access")
    else:
        endpoint = request.getfixturevalue("real_server")(request.param)["UNDERSTUDY_BIGTABLE_EMULATOR"]
        access = Access(cloud="gcp", project="acme", endpoints={"bigtable": endpoint})
    return gcp.bigtable_data_client(access), gcp.bigtable_admin_client(access)


@pytest.fixture
def make_table(clients: tuple[Any, Any]) -> Callable[[], Any]:
    def make() -> Any:
        name = f"t_{os.getpid()}_{next(_numbers)}"
        families = {"f": admin_types.ColumnFamily(), "g": admin_types.ColumnFamily()}
        clients[1].create_table(parent=INSTANCE, table_id=name, table=admin_types.Table(column_families=families))
        return clients[0].get_table("server", name)

    return make


@pytest.fixture
def table(make_table: Callable[[], Any]) -> Any:
    made = make_table()
    made.bulk_mutate_rows(
        [RowMutationEntry(row, SetCell(family, name, value, stamp)) for row, family, name, stamp, value in CELLS]
    )
    return made


def by_family(cells: list[Any]) -> list[Any]:
    """Cells of a row: Bigtable promises no order of families, only of what is in each."""
    return sorted(cells, key=lambda cell: cell.family)


def cells_of(rows: list[Any]) -> list[tuple[bytes, str, bytes, int, bytes]]:
    return [
        (cell.row_key, cell.family, cell.qualifier, cell.timestamp_micros, cell.value)
        for row in rows
        for cell in by_family(row.cells)
    ]


def values_of(row: Any) -> list[bytes]:
    return [cell.value for cell in by_family(row.cells)]


def values(table: Any, chosen: row_filters.RowFilter) -> list[bytes]:
    return [cell.value for row in table.read_rows(ReadRowsQuery(row_filter=chosen)) for cell in by_family(row.cells)]


def test_cells_come_by_row_family_column_and_newest_first(table: Any) -> None:
    assert CELLS == cells_of(table.read_rows(ReadRowsQuery()))


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        (ReadRowsQuery(limit=2), [b"a", b"b"]),
        (ReadRowsQuery(row_keys=[b"c", b"a", b"nothing"]), [b"a", b"c"]),
        (ReadRowsQuery(row_ranges=RowRange(b"a", b"c")), [b"a", b"b"]),
        (ReadRowsQuery(row_ranges=RowRange(b"a", b"c", start_is_inclusive=False, end_is_inclusive=True)), [b"b", b"c"]),
        (ReadRowsQuery(row_ranges=RowRange(b"b", None)), [b"b", b"c"]),
        (ReadRowsQuery(row_keys=[b"b"], row_ranges=[RowRange(b"a", b"c"), RowRange(b"b", b"d")]), [b"a", b"b", b"c"]),
    ],
)
def test_rows_are_chosen_by_key_range_and_limit(table: Any, query: ReadRowsQuery, rows: list[bytes]) -> None:
    assert rows == [row.row_key for row in table.read_rows(query)]


FILTERS = [
    (row_filters.PassAllFilter(flag=True), [b"a-new", b"a-old", b"a-y", b"a-g", b"b-x", b"c-z"]),
    (row_filters.BlockAllFilter(flag=True), []),
    (row_filters.CellsColumnLimitFilter(1), [b"a-new", b"a-y", b"a-g", b"b-x", b"c-z"]),
    (
        row_filters.RowFilterChain([row_filters.FamilyNameRegexFilter("f"), row_filters.CellsRowLimitFilter(1)]),
        [b"a-new", b"b-x"],
    ),
    (
        row_filters.RowFilterChain([row_filters.FamilyNameRegexFilter("f"), row_filters.CellsRowOffsetFilter(2)]),
        [b"a-y"],
    ),
    (row_filters.FamilyNameRegexFilter("g"), [b"a-g", b"c-z"]),
    (row_filters.ColumnQualifierRegexFilter(b"[yz]"), [b"a-y", b"c-z"]),
    (row_filters.RowKeyRegexFilter(b"[bc]"), [b"b-x", b"c-z"]),
    (row_filters.ValueRegexFilter(b"a-.*"), [b"a-new", b"a-old", b"a-y", b"a-g"]),
    (row_filters.ValueRegexFilter(b"a"), []),
    (row_filters.ValueRangeFilter(b"a-y", b"b-x"), [b"a-y", b"b-x"]),
    (
        row_filters.ValueRangeFilter(b"a-y", b"b-x", inclusive_start=False, inclusive_end=False),
        [],
    ),
    (row_filters.ColumnRangeFilter("f", b"x", b"y", inclusive_end=False), [b"a-new", b"a-old", b"b-x"]),
    (row_filters.TimestampRangeFilter(None, None), [b"a-new", b"a-old", b"a-y", b"a-g", b"b-x", b"c-z"]),
    (row_filters.StripValueTransformerFilter(flag=True), [b""] * 6),
    (
        row_filters.RowFilterChain([row_filters.FamilyNameRegexFilter("f"), row_filters.CellsColumnLimitFilter(1)]),
        [b"a-new", b"a-y", b"b-x"],
    ),
    (
        row_filters.RowFilterUnion(
            [row_filters.ColumnQualifierRegexFilter(b"y"), row_filters.FamilyNameRegexFilter("g")]
        ),
        [b"a-y", b"a-g", b"c-z"],
    ),
]


@pytest.mark.parametrize(("chosen", "found"), FILTERS, ids=[type(chosen).__name__ for chosen, _ in FILTERS])
def test_filters_choose_cells(table: Any, chosen: row_filters.RowFilter, found: list[bytes]) -> None:
    assert found == values(table, chosen)


def test_many_rows_come_in_many_messages(make_table: Callable[[], Any]) -> None:
    made = make_table()
    keys = [f"{number:05d}".encode() for number in range(1_300)]
    made.bulk_mutate_rows([RowMutationEntry(key, SetCell("f", b"x", b"v" * 2_000, 0)) for key in reversed(keys)])
    assert keys == [row.row_key for row in made.read_rows(ReadRowsQuery())]
    assert b"" == made.sample_row_keys()[-1][0] or keys[-1] <= made.sample_row_keys()[-1][0]


def test_mutations_of_a_row_happen_in_order(table: Any) -> None:
    table.mutate_row(b"a", [DeleteAllFromRow(), SetCell("f", b"x", b"1", 1000), SetCell("g", b"x", b"2", 1000)])
    assert [(b"a", "f", b"x", 1000, b"1"), (b"a", "g", b"x", 1000, b"2")] == cells_of([table.read_row(b"a")])
    table.mutate_row(b"a", [SetCell("f", b"x", b"3", 1000), DeleteAllFromFamily("g")])
    assert [(b"a", "f", b"x", 1000, b"3")] == cells_of([table.read_row(b"a")])
    table.mutate_row(b"a", DeleteAllFromRow())
    assert table.read_row(b"a") is None


def test_a_range_of_timestamps_is_deleted(table: Any) -> None:
    table.mutate_row(b"a", DeleteRangeFromColumn("f", b"x", 1000, 2000))
    assert [b"a-new", b"a-y", b"a-g"] == values_of(table.read_row(b"a"))
    table.mutate_row(b"a", DeleteRangeFromColumn("f", b"x"))
    assert [b"a-y", b"a-g"] == values_of(table.read_row(b"a"))


def test_the_server_stamps_what_asks_for_it(make_table: Callable[[], Any]) -> None:
    made = make_table()
    made.mutate_row(b"a", SetCell("f", b"x", b"1", -1))
    stamp = made.read_row(b"a").cells[0].timestamp_micros
    assert stamp > 1_700_000_000_000_000
    assert 0 == stamp % 1000


def test_check_and_mutate_decides_by_what_the_filter_leaves(table: Any) -> None:
    newer = row_filters.RowFilterChain(
        [row_filters.ColumnQualifierRegexFilter(b"x"), row_filters.ValueRangeFilter(b"a-new", b"a-new")]
    )
    yes, no = SetCell("g", b"said", b"yes", 0), SetCell("g", b"said", b"no", 0)
    assert table.check_and_mutate_row(b"a", newer, true_case_mutations=yes, false_case_mutations=no)
    assert not table.check_and_mutate_row(b"b", newer, true_case_mutations=yes, false_case_mutations=no)
    assert table.check_and_mutate_row(b"c", None, true_case_mutations=yes)
    assert not table.check_and_mutate_row(b"nothing", None, false_case_mutations=no)
    said = row_filters.ColumnQualifierRegexFilter(b"said")
    assert [b"yes", b"no", b"yes", b"no"] == values(table, said)


def test_read_modify_write_appends_and_counts(make_table: Callable[[], Any]) -> None:
    made = make_table()
    made.read_modify_write_row(b"a", [AppendValueRule("f", b"text", b"1"), IncrementRule("f", b"count", 5)])
    row = made.read_modify_write_row(b"a", [AppendValueRule("f", b"text", b"2"), IncrementRule("f", b"count", -7)])
    assert {b"text": b"12", b"count": (-2).to_bytes(8, "big", signed=True)} == {
        cell.qualifier: cell.value for cell in row
    }
    with pytest.raises(google_errors.GoogleAPICallError):
        made.read_modify_write_row(b"a", IncrementRule("f", b"text", 1))


def test_what_is_wrong_is_refused_with_the_same_codes(table: Any, clients: tuple[Any, Any]) -> None:
    data, _ = clients
    missing = data.get_table("server", "missing")
    with pytest.raises(google_errors.NotFound):
        missing.read_rows(ReadRowsQuery())
    with pytest.raises(google_errors.NotFound):
        missing.mutate_row(b"a", SetCell("f", b"x", b"1", 0))
    with pytest.raises(google_errors.GoogleAPICallError):
        table.mutate_row(b"a", SetCell("unknown", b"x", b"1", 0))
    with pytest.raises(google_errors.GoogleAPICallError):
        table.mutate_row(b"a", SetCell("f", b"x", b"1", 1001))
    assert [b"a-new", b"a-old", b"a-y", b"a-g"] == values_of(table.read_row(b"a"))


def test_a_bad_entry_does_not_hold_the_others_back(table: Any) -> None:
    entries = [
        RowMutationEntry(b"m", SetCell("f", b"x", b"1", 0)),
        RowMutationEntry(b"n", SetCell("no", b"x", b"1", 0)),
    ]
    with pytest.raises(MutationsExceptionGroup) as refused:
        table.bulk_mutate_rows(entries, operation_timeout=2)
    assert 1 == len(refused.value.exceptions)
    assert table.read_row(b"m") is not None
    assert table.read_row(b"n") is None


def test_a_row_changes_wholly_or_not_at_all(table: Any) -> None:
    with pytest.raises(google_errors.GoogleAPICallError):
        table.mutate_row(b"new", [SetCell("f", b"x", b"1", 0), SetCell("no", b"x", b"1", 0)])
    assert table.read_row(b"new") is None


def test_tables_are_made_described_listed_and_dropped(make_table: Callable[[], Any], clients: tuple[Any, Any]) -> None:
    _, admin = clients
    made = make_table()
    name = f"{INSTANCE}/tables/{made.table_id}"
    assert {"f", "g"} == set(admin.get_table(name=name).column_families)
    assert name in [each.name for each in admin.list_tables(parent=INSTANCE)]
    with pytest.raises(google_errors.AlreadyExists):
        admin.create_table(parent=INSTANCE, table_id=made.table_id, table=admin_types.Table())
    admin.delete_table(name=name)
    with pytest.raises(google_errors.NotFound):
        admin.get_table(name=name)
    with pytest.raises(google_errors.NotFound):
        admin.delete_table(name=name)


def test_families_come_and_go(table: Any, clients: tuple[Any, Any]) -> None:
    _, admin = clients
    name = f"{INSTANCE}/tables/{table.table_id}"
    change = admin_types.ModifyColumnFamiliesRequest.Modification
    after = admin.modify_column_families(
        name=name, modifications=[change(id="h", create=admin_types.ColumnFamily()), change(id="g", drop=True)]
    )
    assert {"f", "h"} == set(after.column_families)
    assert [b"a", b"b"] == [row.row_key for row in table.read_rows(ReadRowsQuery())]
    with pytest.raises(google_errors.AlreadyExists):
        admin.modify_column_families(name=name, modifications=[change(id="h", create=admin_types.ColumnFamily())])


def test_rows_are_dropped_by_prefix_or_all(make_table: Callable[[], Any], clients: tuple[Any, Any]) -> None:
    _, admin = clients
    made = make_table()
    keys = [b"user:1", b"user:2", b"item:1"]
    made.bulk_mutate_rows([RowMutationEntry(key, SetCell("f", b"x", b"1", 0)) for key in keys])
    name = f"{INSTANCE}/tables/{made.table_id}"
    admin.drop_row_range(request={"name": name, "row_key_prefix": b"user:"})
    assert [b"item:1"] == [row.row_key for row in made.read_rows(ReadRowsQuery())]
    admin.drop_row_range(request={"name": name, "delete_all_data_from_table": True})
    assert [] == made.read_rows(ReadRowsQuery())


def test_a_filter_that_is_not_served_says_so(table: Any) -> None:
    with pytest.raises(google_errors.MethodNotImplemented):
        values(table, row_filters.RowSampleFilter(0.5))
