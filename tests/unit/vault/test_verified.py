"""What verifications found is kept in the vault, and the status judges it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.models import model_files
from understudy.artifacts.replicate import push
from understudy.errors import Corrupt
from understudy.objects.memory import MemoryStore
from understudy.settings import VerifySettings
from understudy.vault.rounds import Sample
from understudy.vault.store import open_vault
from understudy.vault.verified import (
    VERIFIED_KEY,
    Verification,
    Verified,
    due,
    judge,
    keep,
    read_verified,
    with_result,
)
from understudy.vault.verify import verify

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
DAY = timedelta(days=1)
ASKED = VerifySettings()


@pytest.fixture
def vault():
    source, vault = MemoryStore("source"), open_vault(MemoryStore("vault"))
    for version, changed in enumerate((None, 0, 1, 2, 3)):
        for path, data in model_files(changed=changed).items():
            source.put(f"m/{version}/{path}", data)
        push(source, vault)
    return vault


def night(vault, share=0.3):
    before = read_verified(vault)
    result = verify(vault, sample=Sample(share, 10**12, before.cursor, frozenset(before.again)))
    return keep(vault, result)


def packs(vault):
    return [info.key for info in vault.store.list("packs/")]


def flip(vault, key):
    data = bytearray(vault.store.get(key))
    data[5] ^= 4
    vault.store.put(key, bytes(data))


def done(days_ago, problems=(), read=0):
    return Verification(
        at=NOW - days_ago * DAY, problems=len(problems), words=tuple(problems), bytes_read=read, bytes_stored=100,
        seconds=1.0,
    )  # fmt: skip


def verdict(verified, *, settings=ASKED, age=365 * DAY):
    return judge(verified, settings, now=NOW, founded=NOW - age)


# ---------------------------------------------------------------------- nights


def test_a_round_of_samples_finds_every_flipped_byte_wherever_it_is(vault):
    assert 5 == len(packs(vault))
    for key in packs(vault):
        sound = vault.store.get(key)
        while night(vault).cursor:
            pass
        flip(vault, key)
        found = [night(vault)]
        while found[-1].cursor:
            found.append(night(vault))
        assert any(key in each.again for each in found)
        assert len(found) <= 5
        vault.store.put(key, sound)
        assert None is night(vault).damage, "sound again, and read again because it was not"


def test_what_a_sample_found_stands_while_other_nights_find_nothing_new(vault):
    flip(vault, packs(vault)[0])
    seen = False
    for _ in range(12):
        kept = night(vault)
        seen = seen or kept.damage is not None
        assert seen == (kept.damage is not None)
    assert seen


def test_a_round_says_since_when_and_its_end_is_kept(vault):
    first = night(vault)
    assert first.round_began is not None
    assert None is first.round_ended
    second = night(vault)
    assert (first.round_began, True) == (second.round_began, second.cursor > first.cursor)
    while (last := night(vault)).cursor:
        pass
    assert last.round_ended == last.sampled.at
    assert night(vault).round_began >= last.round_ended


def test_a_quick_or_deep_verification_leaves_the_round_where_it_is(vault):
    first = night(vault)
    for deep in (False, True):
        kept = keep(vault, verify(vault, deep=deep))
        assert (first.cursor, first.sampled) == (kept.cursor, kept.sampled)
    assert kept == read_verified(vault)
    assert kept.deep.bytes_read > kept.quick.bytes_read == 0


def test_what_is_kept_and_damaged_is_said_and_written_anew(vault):
    night(vault)
    vault.store.put(VERIFIED_KEY, b"{}")
    with pytest.raises(Corrupt, match="is not what a verification writes"):
        read_verified(vault)
    night_after = keep(vault, verify(vault))
    assert night_after == read_verified(vault)


def test_an_invented_cursor_begins_a_round(vault):
    night(vault)
    vault.move_pointer(VERIFIED_KEY, lambda found: {**found, "cursor": "../../x"})
    assert "" == read_verified(vault).cursor


# ---------------------------------------------------------------------- what is due


def test_everything_is_read_each_week_and_a_share_on_the_other_nights():
    assert "deep" == due(Verified(), ASKED, NOW)
    assert "sampled" == due(Verified(deep=done(6)), ASKED, NOW)
    assert "deep" == due(Verified(deep=done(7)), ASKED, NOW)
    never = VerifySettings.model_validate({"deep": "none"})
    assert "sampled" == due(Verified(), never, NOW)


# ---------------------------------------------------------------------- the judgement


def test_what_was_read_in_time_and_found_sound_is_ok():
    found = verdict(Verified(sampled=done(0.1), deep=done(2), cursor="8" + 15 * "0", round_began=NOW - 50 * DAY))
    assert ("ok", True, "") == (found.verdict, found.ok, found.next)
    assert "vault: all well; sampled 2h24m ago, deep 2d00h ago; 50% of all sampled since 2026-10-03" == found.sentence


@pytest.mark.parametrize(
    ("verified", "standing"),
    [
        (Verified(quick=done(1, ["a"])), True),
        (Verified(quick=done(1, ["a"]), sampled=done(0)), False),
        (Verified(sampled=done(1, ["a"]), quick=done(0)), True),
        (Verified(sampled=done(1, ["a"]), deep=done(0)), False),
        (Verified(deep=done(1, ["a"]), sampled=done(0)), True),
    ],
)
def test_a_problem_stands_until_something_has_read_the_same_and_found_it_sound(verified, standing):
    found = verdict(verified, settings=None)
    assert standing == (found.verdict == "DAMAGED")
    assert standing == ("DAMAGED: a" in found.sentence)
    assert standing == (found.next == "understudy vault verify --deep")
    assert standing != found.ok


def test_two_missed_nights_are_late_and_one_is_not():
    assert "ok" == verdict(Verified(sampled=done(2), deep=done(3))).verdict
    late = verdict(Verified(sampled=done(2.5), deep=done(3)))
    assert ("NOT VERIFIED", "understudy vault verify --sample 1%") == (late.verdict, late.next)
    assert "NOT VERIFIED: no sample for 2d12h, asked for each 1d00h" in late.sentence


def test_a_week_without_a_whole_reading_is_late_after_two_more_nights():
    assert "ok" == verdict(Verified(sampled=done(0), deep=done(9))).verdict
    late = verdict(Verified(sampled=done(0), deep=done(10)))
    assert ("NOT VERIFIED", "understudy vault verify --deep") == (late.verdict, late.next)
    never = VerifySettings.model_validate({"deep": "none"})
    assert "ok" == verdict(Verified(sampled=done(0)), settings=never).verdict


def test_a_new_vault_is_not_late_and_an_old_one_that_was_never_read_is():
    assert "vault: new; never verified yet" == verdict(Verified(), age=DAY).sentence
    assert verdict(Verified(), age=DAY).ok
    assert "NOT VERIFIED" == verdict(Verified(), age=3 * DAY).verdict


def test_who_asks_for_no_verification_is_told_what_was_found_all_the_same():
    assert "not asked" == verdict(Verified(sampled=done(300)), settings=None).verdict
    assert verdict(Verified(sampled=done(300)), settings=None).ok


def test_a_hundred_problems_are_counted_and_a_few_are_kept(vault):
    result = replace(verify(vault), problems=tuple(f"problem {number}" for number in range(100)))
    kept = with_result(Verified(), result, NOW)
    assert (100, 10) == (kept.quick.problems, len(kept.quick.words))
    assert "DAMAGED: problem 0 (and 99 more)" in verdict(kept).sentence
