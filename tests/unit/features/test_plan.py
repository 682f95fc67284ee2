from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.features.offline_store import at, logged
from understudy.errors import Corrupt, Refused
from understudy.features.interface import Pointer, micros
from understudy.features.manifest import FileEntry, OfflineManifest
from understudy.features.plan import (
    EVENT_AHEAD_MAX,
    WriterState,
    catch_up_is_cheaper,
    changed_partitions,
    check_deletions,
    compare_cells,
    counted,
    held_back,
    in_utc,
    name_first,
    plan_copy,
    plan_rebuild,
    retire_command,
    silences,
    watermark_of,
)
from understudy.objects.interface import ObjectInfo


def info(key: str, *, size: int = 10, token: str = "1") -> ObjectInfo:  # noqa: S107 - an object's, no secret
    return ObjectInfo(key, size, token, None, datetime(2026, 11, 21, tzinfo=UTC))


def entry(key: str, *, size: int = 10, token: str = "1", digest: str = "d") -> FileEntry:  # noqa: S107
    return FileEntry(key, key, size, digest, token, 1)


def manifest(sequence: int, *files: FileEntry) -> OfflineManifest:
    return OfflineManifest("v", sequence, at(0), {}, files)


A, B, C = entry("history/a.parquet"), entry("log/w/1.parquet"), entry("log/w/2.parquet")


def test_the_slowest_open_writer_holds_the_watermark() -> None:
    writers = [WriterState("a", at(5), closed=False), WriterState("b", at(3), closed=False)]
    assert at(3) == watermark_of(writers, now=at(9))


def test_a_closed_writer_holds_nothing() -> None:
    assert at(9) == watermark_of([WriterState("a", at(5), closed=True)], now=at(9))
    assert at(9) == watermark_of([], now=at(9))


def test_the_watermark_never_goes_back() -> None:
    assert at(7) == watermark_of([WriterState("a", at(5), closed=False)], now=at(9), before=at(7))


def test_an_open_writer_without_a_sign_of_life_is_named_with_its_silence() -> None:
    dead = WriterState("pod-a", at(5), closed=False, seen=at(5))
    writers = [
        WriterState("alive", at(64), closed=False, seen=at(64)),
        WriterState("closed", at(1), closed=True, seen=at(1)),
        WriterState("later", at(6), closed=False, seen=at(4)),
        dead,
    ]
    assert {"pod-a": timedelta(seconds=61), "later": timedelta(seconds=62)} == silences(writers, at(66))
    assert ["pod-a", "later"] == list(silences(writers, at(66)))
    assert {} == silences([dead], at(65))


def test_what_is_said_of_silent_writers() -> None:
    one = {"pod-a": timedelta(hours=26)}
    many = {f"pod-{name}": timedelta(hours=26 - number) for number, name in enumerate("abcde")}
    assert ("", "") == (held_back({}), retire_command("v", {}))
    assert ", held back by writer pod-a, silent for 1d02h" == held_back(one)
    assert "; once it is gone for good: understudy features retire v pod-a" == retire_command("v", one)
    words = ", held back by 5 writers: pod-a, pod-b, pod-c and 2 more, silent for 22h00m and longer"
    assert words == held_back(many)
    assert "; once each of them is gone for good: understudy features retire v pod-a" == retire_command("v", many)


@pytest.mark.parametrize(
    "document", [{}, [], {"writer": "a", "flushed_through": "2026-11-21T12:00:00", "closed": False}, {"writer": "a"}]
)
def test_a_writer_that_cannot_be_understood_is_no_promise(document: object) -> None:
    with pytest.raises(Corrupt, match=r"writers/a\.json"):
        WriterState.from_json("writers/a.json", document)


def test_what_is_the_same_is_kept_and_the_rest_is_copied() -> None:
    listing = [
        info(A.key),
        info(B.key, token="2"),
        info("log/w/3.parquet"),
        info("log/w/_SUCCESS"),
        info("writers/w.json"),
    ]
    plan = plan_copy(listing, [A, B], {A.stored: 10, B.stored: 10}, deletes_max=0)
    assert (A,) == plan.keep
    assert [B.key, "log/w/3.parquet"] == [each.key for each in plan.copy]


@pytest.mark.parametrize("stored", [{}, {A.stored: 9}])
def test_what_the_vault_lost_or_has_cut_short_is_copied_again(stored: dict[str, int]) -> None:
    plan = plan_copy([info(A.key)], [A], stored, deletes_max=0)
    assert [A.key] == [each.key for each in plan.copy]


def test_more_vanished_files_than_the_limit_all_still_count() -> None:
    plan = plan_copy([], [A, B], {A.stored: 10, B.stored: 10}, deletes_max=1)
    assert ((A, B), ()) == (plan.vanished, plan.dropped)
    plan = plan_copy([], [A, B], {A.stored: 10, B.stored: 10}, deletes_max=2)
    assert ((), (A, B)) == (plan.vanished, plan.dropped)


def pointer(filled: OfflineManifest, **changes: object) -> Pointer:
    return Pointer(revision=1, generation=1, sequence=filled.sequence, manifest=filled.digest, cells=10).moved(
        **changes
    )


def test_an_empty_store_is_rebuilt_whole() -> None:
    assert "full" == plan_rebuild(None, manifest(1, A), None, live_exists=False, as_of=None).action
    assert (
        "full"
        == plan_rebuild(pointer(manifest(1, A)), manifest(1, A), manifest(1, A), live_exists=False, as_of=None).action
    )


def test_what_is_live_already_is_left_alone() -> None:
    one = manifest(1, A)
    assert "nothing" == plan_rebuild(pointer(one), one, one, live_exists=True, as_of=None).action


def test_added_files_are_caught_up() -> None:
    one, two = manifest(1, A), manifest(2, A, B, C)
    plan = plan_rebuild(pointer(one), two, one, live_exists=True, as_of=None)
    assert ("catch_up", (B, C)) == (plan.action, plan.added)


@pytest.mark.parametrize(
    "after", [manifest(2, B), manifest(2, entry(A.key, digest="e"), B), manifest(2, entry(A.key, digest="e"))]
)
def test_files_that_changed_or_no_longer_count_need_a_fresh_table(after: OfflineManifest) -> None:
    one = manifest(1, A)
    assert "full" == plan_rebuild(pointer(one), after, one, live_exists=True, as_of=None).action


def test_another_vault_with_the_same_numbers_is_not_mistaken() -> None:
    mine, other = manifest(1, A), manifest(1, B)
    assert "full" == plan_rebuild(pointer(other), mine, mine, live_exists=True, as_of=None).action


def test_another_time_needs_a_fresh_table() -> None:
    one, two = manifest(1, A), manifest(2, A, B)
    then = at(0).isoformat()
    assert "full" == plan_rebuild(pointer(one), one, one, live_exists=True, as_of=then).action
    assert "nothing" == plan_rebuild(pointer(one, as_of=then), one, one, live_exists=True, as_of=then).action
    assert "full" == plan_rebuild(pointer(one, as_of=then), two, one, live_exists=True, as_of=None).action


def test_rows_that_were_set_aside_need_a_fresh_table_only_when_their_time_has_come() -> None:
    one, two = manifest(1, A), manifest(2, A, B)
    limit = micros(two.watermark + EVENT_AHEAD_MAX)
    for least, action in ((0, "full"), (limit, "full"), (limit + 1, "catch_up")):
        live = pointer(one, set_aside=1, set_aside_from_us=least)
        assert action == plan_rebuild(live, two, one, live_exists=True, as_of=None).action
        assert "nothing" == plan_rebuild(live, one, one, live_exists=True, as_of=None).action


def test_a_catch_up_is_chosen_for_few_cells() -> None:
    assert catch_up_is_cheaper(2_000, 0)
    assert catch_up_is_cheaper(30_000, 100_000)
    assert not catch_up_is_cheaper(30_001, 100_000)


digests = st.dictionaries(st.integers(0, 5), st.sampled_from("ab"))


@given(digests, digests)
def test_the_changed_partitions_are_those_that_differ(before: dict[int, str], after: dict[int, str]) -> None:
    changed = changed_partitions(before, after)
    assert changed == sorted(changed)
    for number in range(6):
        assert (number in changed) == (before.get(number) != after.get(number))


def test_equal_cells_do_not_differ() -> None:
    cells = [logged("u", "n", "1", 0), logged("u", "m", None, 0)]
    assert ((), (), ()) == _parts(compare_cells(cells, cells[::-1], newer_since_us=0))


def _parts(difference: object) -> tuple[object, object, object]:
    return difference.newer, difference.dropped, difference.wrong  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("online", "words"),
    [
        ([], "u/n is missing"),
        ([logged("u", "n", "2", 5)], "u/n is 2, not 1"),
        ([logged("u", "n", "1", 4)], "u/n is of 2026-11-21T12:00:04.000Z, older than the truth's"),
        ([logged("u", "n", "1", 5), logged("v", "n", "1", 5)], "v/n is there, though it should not be"),
        ([logged("u", "n", "1", 5), logged("v", "n", None, 5)], "v/n has a tombstone"),
        ([logged("u", "n", None, 5)], "u/n is deleted, not 1"),
    ],
)
def test_a_difference_is_named(online: list, words: str) -> None:
    difference = compare_cells([logged("u", "n", "1", 5)], online, newer_since_us=1 << 62)
    assert 1 == len(difference.wrong)
    assert words in difference.wrong[0]


def test_a_newer_cell_is_a_live_write_only_when_it_was_made_late_enough() -> None:
    truth, late = [logged("u", "n", "1", 5)], logged("u", "n", "2", 6)
    assert (late,) == compare_cells(truth, [late], newer_since_us=late.created_us).newer
    assert () == compare_cells(truth, [late], newer_since_us=late.created_us + 1).newer
    assert 1 == len(compare_cells(truth, [late], newer_since_us=late.created_us + 1).wrong)


@pytest.mark.parametrize(
    ("truth", "count"), [([], 1), ([logged("u", "n", None, 5)], 0), ([logged("u", "n", None, 3)], 1)]
)
def test_a_value_that_would_vanish_is_counted_unless_a_newer_tombstone_took_it(truth: list, count: int) -> None:
    difference = compare_cells(truth, [logged("u", "n", "1", 4)], newer_since_us=1 << 62)
    assert (count, 1) == (len(difference.dropped), len(difference.wrong))


def test_more_deletions_than_the_limit_are_refused() -> None:
    check_deletions("bigtable features", 3, 3)
    with pytest.raises(Refused, match="would lose 4 values without a tombstone, the limit is 3"):
        check_deletions("bigtable features", 4, 3)


def test_a_count_has_its_noun() -> None:
    assert ["0 cells", "1 cell", "1,200 cells"] == [counted(count, "cell") for count in (0, 1, 1_200)]
    assert ["1 entity", "2 entities"] == [counted(count, "entity", "entities") for count in (1, 2)]


def test_a_moment_without_a_zone_is_in_utc() -> None:
    assert at(0) == in_utc(at(0).replace(tzinfo=None))
    assert at(0) == in_utc(at(0).astimezone(timezone(timedelta(hours=2))))
    assert in_utc(None) is None


def test_only_the_first_differences_are_named() -> None:
    assert "a; b; c; and 1 more" == name_first(["a", "b", "c", "d"])
    assert "a" == name_first(["a"])
