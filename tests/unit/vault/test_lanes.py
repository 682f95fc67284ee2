"""Lanes: order is kept, memory is bounded, and shared places cannot lock each other out."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from understudy.vault.chunks import Location
from understudy.vault.lanes import each, in_order
from understudy.vault.reading import _groups


def test_results_come_in_the_order_of_the_jobs():
    def late(number):
        time.sleep(0.002 * (5 - number % 5))
        return number

    with ThreadPoolExecutor(4) as pool:
        got = list(in_order(pool, (partial(late, number) for number in range(20)), threading.Semaphore(6)))
    assert list(range(20)) == got


def test_no_more_jobs_are_started_than_there_are_places():
    started = []
    with ThreadPoolExecutor(8) as pool:
        results = in_order(pool, (partial(started.append, number) for number in range(50)), threading.Semaphore(3))
        next(results)
        assert len(started) <= 3
        next(results)
        assert len(started) <= 4
        results.close()


def test_a_failure_gives_all_places_back():
    room = threading.Semaphore(3)

    def fail():
        raise ValueError("bad job")

    with ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match="bad job"):
        list(in_order(pool, [int, fail, int, int], room))
    assert [True] * 3 == [room.acquire(blocking=False) for _ in range(3)]
    assert not room.acquire(blocking=False)


def test_two_that_share_places_both_finish():
    room = threading.Semaphore(2)
    with ThreadPoolExecutor(4) as pool, ThreadPoolExecutor(6) as callers:
        asked = [callers.submit(lambda: list(in_order(pool, [lambda: 1] * 40, room))) for _ in range(6)]
        assert [[1] * 40] * 6 == [future.result(timeout=20) for future in asked]


def test_each_yields_every_result_once():
    with ThreadPoolExecutor(3) as pool:
        assert set(range(30)) == set(each(pool, (partial(int, number) for number in range(30)), ahead=4))


def test_ranges_are_few_and_grow_shorter_toward_the_end_of_a_file():
    block, count = 4 << 20, 240
    located = [Location(bytes([n]) * 32, "ab" * 32, n * block, block, block, "raw") for n in range(count)]
    groups = list(_groups(((place,) for place in located), left=block * count))
    assert located == [place for group in groups for [place] in group]
    lengths = [len(group) for group in groups]
    assert (6, 1) == (lengths[0], lengths[-1])
    assert lengths == sorted(lengths, reverse=True)
    assert count / 3 > len(groups) > count / 6


def test_what_a_chunk_is_decoded_from_counts_as_its_own():
    block = 2 << 20
    located = [Location(bytes([n]) * 32, "ab" * 32, n * block, block, block, "delta") for n in range(24)]
    bases = [Location(bytes([100 + n]) * 32, "cd" * 32, n * block, block, block, "raw") for n in range(24)]
    alone = list(_groups(((place,) for place in located), left=200 << 20))
    chained = list(_groups(zip(located, bases, strict=True), left=200 << 20))
    assert 8 == max(len(group) for group in alone)
    assert 4 == max(len(group) for group in chained)
