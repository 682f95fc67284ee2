"""What a policy keeps, decided from data alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from understudy.settings import CONDEMNED_FOR_MIN as CONFIGURABLE
from understudy.vault.condemned import CONDEMNED_FOR_MIN, WRITER_LIFE_MAX
from understudy.vault.retention import Item, Keep, counted, reasons

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def item(version, *, days=100.0, revision=1, tags=()):
    return Item(f"artifacts/m/{version}/{revision:08d}.json", str(version), revision, NOW - days * DAY, tags)


def kept(items, keep, **needed):
    why = reasons(items, keep, now=NOW, grace=7 * DAY, needed=needed.get("needed", {}))
    assert {item.key for item in items} == set(why)
    return {(item.version, item.revision) for item in items if why[item.key]}


def versions(items, keep):
    return [int(version) for version in sorted((version for version, _ in kept(items, keep)), key=int)]


def test_without_a_policy_everything_is_kept():
    assert [1, 2, 3] == versions([item(1), item(2), item(3)], None)


def test_last_counts_versions_in_their_natural_order_whenever_they_were_pushed():
    items = [item(9, days=20), item(10, days=30), item(11, days=40), item(2, days=10)]
    assert [10, 11] == versions(items, Keep(last=2))


def test_of_each_of_the_last_versions_the_newest_revision_is_kept():
    items = [item(1), item(2, revision=1), item(2, revision=2), item(3)]
    assert {("3", 1), ("2", 2)} == kept(items, Keep(last=2))


def test_daily_keeps_the_newest_of_each_day_that_had_any():
    # Twelve hours after midnight is now: the versions of one day are those within half a day before noon.
    items = [item(1, days=30.1), item(2, days=30), item(3, days=20.1), item(4, days=20), item(5, days=10)]
    assert [4, 5] == versions(items, Keep(daily=2))
    assert [2, 4, 5] == versions(items, Keep(daily=30))


def test_weekly_keeps_the_newest_of_each_iso_week_that_had_any():
    monday = datetime(2026, 11, 16, tzinfo=UTC)
    days = [(NOW - monday) / DAY + offset for offset in (21, 14 + 3, 14.5, 14, 0.1)]
    items = [item(number, days=each) for number, each in enumerate(days, start=1)]
    # The fourth stands on a Monday, the second and third in the week before it; the last was on a Sunday.
    assert [3, 4, 5] == versions(items, Keep(weekly=3))


def test_a_year_without_a_push_takes_nothing_from_what_is_kept():
    items = [item(number, days=400 + number) for number in range(1, 6)]
    assert 3 == len(versions(items, Keep(daily=3)) and kept(items, Keep(daily=2, last=1)))


def test_tags_keep_and_those_that_a_push_writes_itself_do_not():
    items = [item(1, tags=("prod",)), item(2, tags=("accepted", "accepted_changes")), item(3, tags=("a", "b")), item(4)]
    assert [1, 3, 4] == versions(items, Keep(last=1, tagged=True))
    assert [3, 4] == versions(items, Keep(last=1, tagged=("b", "other")))
    assert [4] == versions(items, Keep(last=1))


def test_the_newest_the_young_and_the_needed_stay_whatever_the_policy_says():
    items = [item(1), item(2), item(3, days=6.9), item(4, days=7.1), item(5)]
    needed = {items[0].key: ["served by gcp-usc1"], "artifacts/other/1/00000001.json": ["set of s"]}
    assert {("1", 1), ("3", 1), ("5", 1)} == kept(items, Keep(), needed=needed)


def test_what_several_rules_keep_says_each_of_them():
    items = [item(1), item(2)]
    why = reasons(items, Keep(last=1, weekly=1), now=NOW, grace=DAY, needed={items[1].key: ["set of s", "set of s"]})
    assert ("newest", "last 1", "weekly 1", "set of s") == why[items[1].key] or "weekly 1" in why[items[0].key]
    assert "last 1: 1" in counted(why)


@pytest.mark.parametrize("policy", [None, Keep(last=3)])
def test_nothing_at_all_is_no_error(policy):
    assert set() == kept([], policy)


def test_the_shortest_wait_that_can_be_configured_outlasts_every_writer():
    assert CONDEMNED_FOR_MIN == CONFIGURABLE
    assert WRITER_LIFE_MAX < CONFIGURABLE
