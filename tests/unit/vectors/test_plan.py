from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.vectors.plan import Part, bucket_count, changed_buckets, is_newer, recall


@pytest.mark.parametrize(
    ("rows", "expected"), [(0, 16), (1842, 16), (16_384, 16), (16_385, 32), (200_000, 256), (10**9, 16_384)]
)
def test_buckets_hold_about_a_thousand_rows(rows, expected):
    assert expected == bucket_count(rows)


@given(st.integers(0, 10**8), st.integers(4, 14))
def test_the_count_is_a_power_of_two_and_settles(rows, exponent):
    count = bucket_count(rows, 2**exponent)
    assert 0 == count & (count - 1)
    assert count == bucket_count(rows, count)


def test_the_count_stays_while_its_buckets_are_of_a_tolerable_size():
    assert 16 == bucket_count(8192 * 16, 16)
    assert 256 == bucket_count(8192 * 16 + 1, 16)
    assert 256 == bucket_count(128 * 256, 256)
    assert 32 == bucket_count(128 * 256 - 1, 256)
    assert 16 == bucket_count(0, 16)


def test_buckets_that_differ_appear_or_vanish_have_changed():
    before = [Part(0, 1, "a"), Part(1, 1, "b"), Part(2, 1, "c")]
    after = [Part(0, 1, "a", size=9), Part(1, 1, "x"), Part(3, 1, "d")]
    assert {1, 2, 3} == changed_buckets(before, after)


def test_recall_counts_ties_as_found():
    assert 1.0 == recall([([3.0, 2.0, 2.0], [3.0, 2.0, 2.0])])
    assert 2 / 3 == recall([([3.0, 2.0, 2.0], [3.0, 2.0, 1.0])])
    assert 0.5 == recall([([1.0], [1.0]), ([1.0], [])])
    assert 1.0 == recall([])


def test_a_pointer_moves_by_sequence_then_by_watermark_and_never_back():
    current = {"sequence": 2, "watermark": "2026-11-21T10:00:00.000000+00:00"}
    assert is_newer((1, ""), None)
    assert is_newer((3, "2026-11-21T09:00:00.000000+00:00"), current)
    assert is_newer((2, "2026-11-21T10:00:00.000001+00:00"), current)
    assert not is_newer((2, "2026-11-21T10:00:00.000000+00:00"), current)
    assert not is_newer((1, "2026-11-21T11:00:00.000000+00:00"), current)
