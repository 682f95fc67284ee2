from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.unit.features.offline_store import at, at_us, logged, put_history, put_log
from understudy.errors import Conflict, Corrupt, NotReady, Refused, Unreachable
from understudy.features.interface import Cell, micros
from understudy.features.live import LiveFeatures, begin
from understudy.features.memory import MemoryFeatures
from understudy.features.rebuild import preview, rebuild
from understudy.features.replicate import replicate_offline
from understudy.features.truth import read_offline
from understudy.features.verify import verify
from understudy.objects.memory import MemoryStore
from understudy.vault.store import Vault, open_vault

if TYPE_CHECKING:
    from collections.abc import Iterator

VIEW = "user_features"


@pytest.fixture
def source() -> MemoryStore:
    """A history of 30 entities; the store's clock stands at 100 seconds after noon."""
    store = MemoryStore("lake", clock=lambda: at(100))
    put_history(store, 30)
    return store


@pytest.fixture
def vault(source: MemoryStore) -> Vault:
    opened = open_vault(MemoryStore("vault"))
    replicate_offline(source, opened, view=VIEW)
    return opened


def live_cells(store: MemoryFeatures) -> list[Cell]:
    pointer = store.pointer()
    assert pointer is not None
    return sorted(store.scan(pointer.generation))


def live_of(store: MemoryFeatures, entity: str) -> dict[str, str]:
    return LiveFeatures(store).read(entity)


def test_everything_goes_online_and_is_proven(vault: Vault) -> None:
    store = MemoryFeatures()
    report = rebuild(vault, store, view=VIEW)
    assert ("changed", "digest", 120) == (report.verdict, report.proven, report.items_new)
    assert report.sentence.startswith("user_features: 120 cells of 30 entities rebuilt into memory as of 12:01:40Z in ")
    assert report.sentence.endswith("; digest equal")
    assert at(100) == report.watermark
    assert read_offline(vault, view=VIEW) == live_cells(store)
    assert {"clicks": "3", "rate": "0.42857142857142855", "city": '"Zürich 3"', "member": "false"} == live_of(
        store, "user:00003"
    )


def test_a_second_run_writes_nothing(vault: Vault) -> None:
    store = MemoryFeatures()
    rebuild(vault, store, view=VIEW)
    pointer = store.pointer()
    report = rebuild(vault, store, view=VIEW)
    assert "unchanged" == report.verdict
    assert report.sentence == "user_features: unchanged, memory has all as of 12:01:40Z"
    assert pointer == store.pointer()


def test_nothing_replicated_is_told(vault: Vault) -> None:
    with pytest.raises(NotReady, match="holds nothing of other yet"):
        rebuild(vault, MemoryFeatures(), view="other")
    with pytest.raises(NotReady, match="holds nothing yet"):
        verify(vault, MemoryFeatures(), view=VIEW)


def test_added_rows_are_caught_up_in_place(source: MemoryStore, vault: Vault) -> None:
    store = MemoryFeatures()
    rebuild(vault, store, view=VIEW)
    put_log(source, 1, [logged("user:00003", "clicks", "99", 50), logged("new", "clicks", "1", 50)])
    put_log(source, 2, [logged("user:00004", "clicks", "too old", 0), logged("user:00003", "clicks", "98", 49)])
    replicate_offline(source, vault, view=VIEW)
    report = rebuild(vault, store, view=VIEW)
    assert "user_features: 3 changed cells of 3 entities brought into memory as of 12:01:40Z" in report.sentence
    assert ("catch_up", 2, "3 cells read back") == (report.details["mode"], report.items_new, report.proven)
    assert report.sentence.endswith("; 3 cells read back")
    assert "digest" not in report.sentence
    assert [1] == store.generations()
    assert "99" == live_of(store, "user:00003")["clicks"]
    assert "4" == live_of(store, "user:00004")["clicks"]
    assert read_offline(vault, view=VIEW) == live_cells(store)
    assert "unchanged" == rebuild(vault, store, view=VIEW).verdict
    verify(vault, store, view=VIEW)


def test_a_catch_up_ends_where_a_full_rebuild_does(source: MemoryStore, vault: Vault) -> None:
    caught_up, full = MemoryFeatures(), MemoryFeatures()
    rebuild(vault, caught_up, view=VIEW)
    put_log(source, 1, [logged("user:00003", "clicks", "99", 50), logged("user:00004", "city", None, 51)])
    put_history(source, 5, name="day2", offset=60)
    replicate_offline(source, vault, view=VIEW)
    rebuild(vault, caught_up, view=VIEW)
    rebuild(vault, full, view=VIEW)
    assert live_cells(full) == live_cells(caught_up)
    again = rebuild(vault, caught_up, view=VIEW, full=True)
    assert "full" == again.details["mode"]
    pointer, other = caught_up.pointer(), full.pointer()
    assert pointer is not None
    assert other is not None
    assert other.digest == pointer.digest


def test_a_deleted_feature_vanishes_online(source: MemoryStore, vault: Vault) -> None:
    store = MemoryFeatures()
    rebuild(vault, store, view=VIEW)
    put_log(source, 1, [logged("user:00003", "clicks", None, 50)])
    replicate_offline(source, vault, view=VIEW)
    rebuild(vault, store, view=VIEW)
    assert "clicks" not in live_of(store, "user:00003")
    report = rebuild(vault, store, view=VIEW, full=True)
    assert "clicks" not in live_of(store, "user:00003")
    assert (119, 1) == (report.items_total, report.details["tombstones"])


def test_a_catch_up_of_one_cell_says_so(source: MemoryStore, vault: Vault) -> None:
    store = MemoryFeatures()
    rebuild(vault, store, view=VIEW)
    put_log(source, 1, [logged("user:00003", "clicks", "99", 50)])
    replicate_offline(source, vault, view=VIEW)
    report = rebuild(vault, store, view=VIEW)
    assert "1 changed cell of 1 entity brought into memory as of 12:01:40Z" in report.sentence
    assert report.sentence.endswith("; 1 cell read back")


def test_a_catch_up_that_brought_nothing_claims_no_proof(source: MemoryStore, vault: Vault) -> None:
    store = MemoryFeatures()
    rebuild(vault, store, view=VIEW)
    put_log(source, 1, [])
    replicate_offline(source, vault, view=VIEW)
    report = rebuild(vault, store, view=VIEW)
    assert ("catch_up", "") == (report.details["mode"], report.proven)


@pytest.mark.parametrize("full", [False, True])
def test_deletions_with_a_tombstone_are_meant_however_many(source: MemoryStore, vault: Vault, *, full: bool) -> None:
    put_log(source, 1, [logged("erased", str(number), "1", 40) for number in range(150)])
    replicate_offline(source, vault, view=VIEW)
    store = MemoryFeatures()
    rebuild(vault, store, view=VIEW)
    assert 150 == len(live_of(store, "erased"))
    put_log(source, 2, [logged("erased", str(number), None, 50) for number in range(150)])
    replicate_offline(source, vault, view=VIEW)
    rebuild(vault, store, view=VIEW, deletes_max=0, full=full)
    assert {} == live_of(store, "erased")
    assert 120 == sum(cell.value is not None for cell in live_cells(store))


def test_more_values_than_the_limit_do_not_vanish_without_a_tombstone(source: MemoryStore, vault: Vault) -> None:
    source._clock = lambda: at(200)  # more than a minute after the last of these: nothing of it is a live write
    put_history(source, 38, name="day2", offset=50)
    replicate_offline(source, vault, view=VIEW)
    store = MemoryFeatures()
    rebuild(vault, store, view=VIEW)
    before = store.pointer()
    source.delete("history/day2.parquet")
    source.delete("history/day1.parquet")
    put_log(source, 1, [logged("user:00001", "clicks", None, 90), logged("user:00002", "clicks", None, 1)])
    replicate_offline(source, vault, view=VIEW, deletes_max=2)
    # 152 values, of which one tombstone took one; the other tombstone is older than the value that was lost.
    with pytest.raises(Refused, match="would lose 151 values without a tombstone, the limit is 150; nothing was"):
        rebuild(vault, store, view=VIEW, deletes_max=150)
    assert before == store.pointer()
    assert [1] == store.generations()
    rebuild(vault, store, view=VIEW, deletes_max=151)
    assert 0 == sum(cell.value is not None for cell in live_cells(store))


def test_a_preview_says_full_and_what_only_the_run_can_know(source: MemoryStore, vault: Vault) -> None:
    store = MemoryFeatures()
    assert "vanish" not in preview(vault, store, view=VIEW, deletes_max=0).sentence  # nothing stands there
    rebuild(vault, store, view=VIEW)
    found = preview(vault, store, view=VIEW, deletes_max=0)
    assert ("unchanged", False) == (found.verdict, "vanish" in found.sentence)
    found = preview(vault, store, view=VIEW, full=True, deletes_max=119)
    assert ("changed", "full") == (found.verdict, found.details["action"])
    assert "a fresh table is filled, for a full rebuild was asked for; sequence 1, " in found.sentence
    assert found.sentence.endswith("; refused if more than 119 values would vanish without a tombstone")
    assert "vanish" not in preview(vault, store, view=VIEW, full=True, deletes_max=120).sentence
    put_log(source, 1, [logged("user:00001", "clicks", "9", 90)])
    replicate_offline(source, vault, view=VIEW)
    found = preview(vault, store, view=VIEW, deletes_max=1)
    assert ("catch_up", 1) == (found.details["action"], found.items_new)
    assert "if that costs more than a fresh table, one is filled, and refused if more than 1 values" in found.sentence
    assert [1] == store.generations()


def test_an_earlier_time_is_restored(source: MemoryStore, vault: Vault) -> None:
    store = MemoryFeatures()
    put_log(source, 1, [logged("user:00003", "clicks", "poison", 50), logged("bad", "clicks", "1", 20, 60)])
    replicate_offline(source, vault, view=VIEW)
    rebuild(vault, store, view=VIEW)
    assert "poison" == live_of(store, "user:00003")["clicks"]
    report = rebuild(vault, store, view=VIEW, as_of=at(40))
    assert "as of 12:00:40Z" in report.sentence
    assert "3" == live_of(store, "user:00003")["clicks"]
    assert {} == live_of(store, "bad")
    assert "unchanged" == rebuild(vault, store, view=VIEW, as_of=at(40)).verdict
    assert 120 == verify(vault, store, view=VIEW).items_total
    assert 121 == rebuild(vault, store, view=VIEW).items_total
    with pytest.raises(NotReady, match="known through"):
        rebuild(vault, store, view=VIEW, as_of=at(101))


def test_a_file_that_changed_at_the_source_makes_a_fresh_table(source: MemoryStore, vault: Vault) -> None:
    store = MemoryFeatures()
    rebuild(vault, store, view=VIEW)
    put_history(source, 29)
    replicate_offline(source, vault, view=VIEW)
    report = rebuild(vault, store, view=VIEW)
    assert ("full", 116) == (report.details["mode"], report.items_total)
    assert {} == live_of(store, "user:00029")


def test_only_the_live_table_and_the_one_before_are_kept(vault: Vault) -> None:
    store = MemoryFeatures()
    for _ in range(4):
        rebuild(vault, store, view=VIEW, full=True)
    assert [3, 4] == store.generations()


def test_the_remains_of_a_killed_run_are_removed(vault: Vault) -> None:
    store = MemoryFeatures()
    rebuild(vault, store, view=VIEW)
    store.create_generation(2)
    store.fill(2, [logged("half", "n", "1", 0)])
    rebuild(vault, store, view=VIEW, full=True)
    assert read_offline(vault, view=VIEW) == live_cells(store)
    assert [1, 3] == store.generations()


class Meddling(MemoryFeatures):
    """Something happens at a given moment of a rebuild."""

    def __init__(self) -> None:
        super().__init__()
        self.before_move: list[Cell] = []
        self.fail_after_move = False
        self.spoil: Cell | None = None

    def _write_live(self, cells: list[Cell]) -> None:
        pointer = self.pointer()
        if pointer is not None:
            self.write_newer(pointer.generation, cells)

    def move_pointer(self, pointer, *, expected) -> None:  # type: ignore[no-untyped-def]
        before, self.before_move = self.before_move, []
        self._write_live(before)
        super().move_pointer(pointer, expected=expected)
        if self.fail_after_move:
            self.fail_after_move = False
            raise Unreachable("the answer was lost (a fault of this test)")

    def scan(self, generation: int) -> Iterator[Cell]:
        for cell in super().scan(generation):
            if self.spoil is not None and cell.key == self.spoil.key:
                yield self.spoil
            else:
                yield cell


def now_cell(entity: str, value: str | None) -> Cell:
    now = micros(datetime.now(UTC))
    return Cell(entity, "clicks", value, now, now)


def test_live_writes_that_arrive_before_the_swap_are_carried_over(vault: Vault) -> None:
    store = Meddling()
    rebuild(vault, store, view=VIEW)
    LiveFeatures(store).write([now_cell("user:00001", "early")])
    store.before_move = [now_cell("user:00002", "late"), now_cell("user:00003", None)]
    rebuild(vault, store, view=VIEW, full=True)
    assert "early" == live_of(store, "user:00001")["clicks"]
    assert "late" == live_of(store, "user:00002")["clicks"]
    assert "clicks" not in live_of(store, "user:00003")
    assert 3 == verify(vault, store, view=VIEW).details["newer"]


def test_what_was_written_before_is_there_at_the_very_swap(vault: Vault) -> None:
    store = Meddling()
    rebuild(vault, store, view=VIEW)
    LiveFeatures(store).write([now_cell("user:00001", "early")])
    store.fail_after_move = True
    with pytest.raises(Unreachable):
        rebuild(vault, store, view=VIEW, full=True)
    assert "early" == live_of(store, "user:00001")["clicks"]


def test_a_run_that_ended_right_after_the_swap_is_finished_by_the_next(vault: Vault) -> None:
    store = Meddling()
    rebuild(vault, store, view=VIEW)
    store.before_move = [now_cell("user:00002", "late")]
    store.fail_after_move = True
    with pytest.raises(Unreachable):
        rebuild(vault, store, view=VIEW, full=True)
    assert "late" != live_of(store, "user:00002")["clicks"]
    assert "unchanged" == rebuild(vault, store, view=VIEW).verdict
    assert "late" == live_of(store, "user:00002")["clicks"]
    pointer = store.pointer()
    assert pointer is not None
    assert pointer.carry_from is None


def test_what_a_stopped_run_left_to_carry_is_not_lost_by_a_fresh_table(source: MemoryStore, vault: Vault) -> None:
    store = Meddling()
    rebuild(vault, store, view=VIEW)
    store.before_move = [now_cell("user:00002", "late")]
    store.fail_after_move = True
    with pytest.raises(Unreachable):
        rebuild(vault, store, view=VIEW, full=True)
    put_history(source, 31)
    replicate_offline(source, vault, view=VIEW)
    assert "full" == rebuild(vault, store, view=VIEW).details["mode"]
    assert "late" == live_of(store, "user:00002")["clicks"]


def test_going_back_in_time_does_not_carry_what_it_undoes(vault: Vault) -> None:
    store = Meddling()
    rebuild(vault, store, view=VIEW)
    poison = now_cell("user:00001", "poison")
    LiveFeatures(store).write([poison])
    late = now_cell("user:00002", "late")
    store.before_move = [late._replace(created_us=late.created_us + 60_000_000)]
    rebuild(vault, store, view=VIEW, as_of=at(50))
    assert "1" == live_of(store, "user:00001")["clicks"]
    assert "late" == live_of(store, "user:00002")["clicks"]


def test_a_live_write_during_a_catch_up_stays(source: MemoryStore, vault: Vault) -> None:
    store = MemoryFeatures()
    rebuild(vault, store, view=VIEW)
    LiveFeatures(store).write([now_cell("user:00003", "live")])
    put_log(source, 1, [logged("user:00003", "clicks", "99", 50)])
    replicate_offline(source, vault, view=VIEW)
    rebuild(vault, store, view=VIEW)
    assert "live" == live_of(store, "user:00003")["clicks"]
    assert 1 == verify(vault, store, view=VIEW).details["newer"]


def test_a_store_that_gives_back_something_else_never_goes_live(vault: Vault) -> None:
    store = Meddling()
    store.spoil = Cell("user:00003", "clicks", "4", at_us(3), at_us(3))
    with pytest.raises(Corrupt, match="user:00003/clicks is 4, not 3"):
        rebuild(vault, store, view=VIEW)
    assert store.pointer() is None
    assert [] == store.generations()


def test_another_rebuild_that_was_quicker_is_respected(vault: Vault) -> None:
    class Raced(MemoryFeatures):
        def move_pointer(self, pointer, *, expected) -> None:  # type: ignore[no-untyped-def]
            if expected is None:
                super().move_pointer(pointer.moved(generation=77), expected=None)
            super().move_pointer(pointer, expected=expected)

    with pytest.raises(Conflict):
        rebuild(vault, Raced(), view=VIEW)


def damaged(store: MemoryFeatures, change: str) -> None:
    table = store._tables[1]
    key = ("user:00003", "clicks")
    if change == "lost":
        del table[key]
    elif change == "changed":
        table[key] = table[key]._replace(value="4")
    else:
        table["stray", "clicks"] = logged("stray", "clicks", "1", 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("lost", "1 of 120 cells differ from the offline truth: user:00003/clicks is missing"),
        ("changed", "user:00003/clicks is 4, not 3"),
        ("stray", "stray/clicks is there, though it should not be"),
    ],
)
def test_verify_names_what_differs(vault: Vault, change: str, words: str) -> None:
    store = MemoryFeatures()
    rebuild(vault, store, view=VIEW)
    assert "digest equal" in verify(vault, store, view=VIEW).sentence
    damaged(store, change)
    with pytest.raises(Corrupt, match=words):
        verify(vault, store, view=VIEW)


def test_a_store_filled_from_elsewhere_is_not_verified_but_replaced(vault: Vault) -> None:
    store = MemoryFeatures()
    begin(store, [logged("user:00003", "clicks", "3", 3)])
    with pytest.raises(NotReady, match="not filled from the vault"):
        verify(vault, store, view=VIEW)
    assert "full" == rebuild(vault, store, view=VIEW).details["mode"]
    verify(vault, store, view=VIEW)


@pytest.mark.parametrize("damage", ["lost", "flipped"])
def test_a_damaged_file_of_the_vault_is_named(vault: Vault, damage: str) -> None:
    key = f"offline/{VIEW}/history/day1.parquet"
    data = bytearray(vault.store.get(key))
    vault.store.delete(key)
    if damage == "flipped":
        data[300] ^= 1
        vault.store.put(key, bytes(data))
    with pytest.raises(Corrupt, match=key):
        rebuild(vault, MemoryFeatures(), view=VIEW)


def test_many_changes_are_brought_by_a_fresh_table(source: MemoryStore, vault: Vault) -> None:
    store = MemoryFeatures()
    rebuild(vault, store, view=VIEW)
    put_history(source, 600, name="day2", offset=50)
    replicate_offline(source, vault, view=VIEW)
    assert "full" == rebuild(vault, store, view=VIEW).details["mode"]


def test_a_stamp_of_the_far_future_stays_out_until_its_time(source: MemoryStore, vault: Vault) -> None:
    store = MemoryFeatures()
    rebuild(vault, store, view=VIEW)
    put_log(source, 1, [logged("user:00003", "clicks", "future", 100_000, 1)])
    replicate_offline(source, vault, view=VIEW)
    report = rebuild(vault, store, view=VIEW)
    assert ("catch_up", 1) == (report.details["mode"], report.details["set_aside"])
    assert report.sentence.endswith("0 cells read back; 1 row of the far future set aside")
    assert "3" == live_of(store, "user:00003")["clicks"]
    assert "unchanged" == rebuild(vault, store, view=VIEW).verdict
    put_log(source, 2, [logged("user:00005", "clicks", "y", 50), logged("user:00005", "rate", "1", 200_000, 1)])
    replicate_offline(source, vault, view=VIEW)
    report = rebuild(vault, store, view=VIEW)
    assert ("catch_up", 2) == (report.details["mode"], report.details["set_aside"])
    verify(vault, store, view=VIEW)
    source._clock = lambda: at(100_000 - 86_400)
    put_log(source, 3, [logged("user:00004", "clicks", "x", 50)])
    replicate_offline(source, vault, view=VIEW)
    report = rebuild(vault, store, view=VIEW)
    assert ("full", 1) == (report.details["mode"], report.details["set_aside"])
    put_log(source, 4, [logged("user:00006", "clicks", "z", 50)])
    replicate_offline(source, vault, view=VIEW)
    assert "catch_up" == rebuild(vault, store, view=VIEW).details["mode"]
    assert "future" == live_of(store, "user:00003")["clicks"]


def test_a_time_without_a_zone_is_meant_in_utc(vault: Vault) -> None:
    store = MemoryFeatures()
    naive = at(40).replace(tzinfo=None)
    assert "as of 12:00:40Z" in rebuild(vault, store, view=VIEW, as_of=naive).sentence
    assert "unchanged" == rebuild(vault, store, view=VIEW, as_of=at(40)).verdict
    assert 120 == verify(vault, store, view=VIEW, as_of=naive).items_total
    assert live_cells(store) == read_offline(vault, view=VIEW, as_of=naive)
