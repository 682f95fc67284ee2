from __future__ import annotations

import random
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

import duckdb
from hypothesis import given
from hypothesis import strategies as st

from understudy.features.digest import PARTITIONS, chain_digest, partition_digest, partition_of, root_digest
from understudy.features.interface import Cell, times_of, version_of
from understudy.features.spill import Spill

if TYPE_CHECKING:
    from pathlib import Path

names = st.text(min_size=1, max_size=3)
cells = st.lists(
    st.builds(Cell, names, names, st.none() | st.text(max_size=3), st.integers(0, 9), st.integers(0, 9)), max_size=30
)


@given(cells, st.randoms())
def test_every_change_changes_the_digest(rows: list[Cell], chance: random.Random) -> None:
    rows = sorted({row.key: row for row in rows}.values())
    before = partition_digest(rows)
    if not rows:
        return
    place = chance.randrange(len(rows))
    row = rows[place]
    for changed in (
        row._replace(value="null" if row.value is None else None),
        row._replace(event_us=row.event_us + 1),
        row._replace(created_us=row.created_us + 1),
        row._replace(feature=row.feature + "x"),
        row._replace(entity=row.entity + "x"),
    ):
        assert before != partition_digest([*rows[:place], changed, *rows[place + 1 :]])
    assert before != partition_digest([*rows[:place], *rows[place + 1 :]])


def test_a_border_that_moves_changes_the_digest() -> None:
    assert partition_digest([Cell("ab", "c", "1", 0, 0)]) != partition_digest([Cell("a", "bc", "1", 0, 0)])


def test_the_root_knows_which_partition_is_which() -> None:
    assert root_digest({1: "a", 2: "b"}) != root_digest({1: "b", 2: "a"})
    assert root_digest({1: "a", 2: "b"}) == root_digest({2: "b", 1: "a"})


def test_a_chain_depends_on_what_came_before() -> None:
    brought = [Cell("u", "n", "1", 0, 0)]
    assert chain_digest("a", brought) != chain_digest("b", brought)
    assert chain_digest("a", brought) != chain_digest("a", [])


def test_duckdb_agrees_about_partitions() -> None:
    for entity in ("a", "user:17", "ü#%", "日本"):
        found = duckdb.execute("SELECT ('0x' || left(md5(?), 2))::INT", [entity]).fetchone()
        assert (partition_of(entity),) == found


@given(cells)
def test_the_version_orders_by_event_then_created_then_tombstone(rows: list[Cell]) -> None:
    def order(row: Cell) -> tuple[int, int, bool]:
        return row.event_us, row.created_us, row.value is None

    for one, two in pairwise(rows):
        if order(one) != order(two):
            assert (order(one) < order(two)) == (version_of(one) < version_of(two))
        assert (one.event_us, one.created_us, one.value is None) == times_of(version_of(one))


def test_cells_beyond_memory_come_back_from_disk(tmp_path: Path) -> None:
    chance = random.Random(3)
    every = [
        Cell(f"user:{chance.randrange(300)}", f"f{chance.randrange(3)}", str(number), number, 0)
        for number in range(5_000)
    ]
    spill = Spill(tmp_path, "s", cells_in_memory_max=700)
    spill.add(every)
    assert any(tmp_path.iterdir())
    newest: dict[int, dict[tuple[str, str], Cell]] = defaultdict(dict)
    for each in every:
        newest[partition_of(each.entity)][each.key] = each
    assert {number: sorted(found.values()) for number, found in newest.items()} == dict(spill.partitions())
    assert len(every) == spill.added
    assert all(0 <= number < PARTITIONS for number, _ in spill.partitions())
