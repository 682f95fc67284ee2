from __future__ import annotations

import threading

import pytest

from understudy.transfer.limit import CREDIT_SECONDS, Bandwidth


class Time:
    """A clock that moves only when somebody sleeps, or is told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_bytes_take_their_time_but_for_one_seconds_worth() -> None:
    time = Time()
    bandwidth = Bandwidth(1000, clock=time.clock, sleep=time.sleep)
    for _ in range(10):
        bandwidth.take(500)
    assert pytest.approx(10 * 500 / 1000 - CREDIT_SECONDS) == time.now - 100.0


def test_one_request_that_is_longer_than_the_credit_waits_for_the_rest() -> None:
    time = Time()
    assert pytest.approx(31.0) == Bandwidth(1_000_000, clock=time.clock, sleep=time.sleep).take(32_000_000)


def test_what_was_not_used_is_kept_for_one_second_and_no_longer() -> None:
    time = Time()
    bandwidth = Bandwidth(1000, clock=time.clock, sleep=time.sleep)
    bandwidth.take(1000)
    time.now += 3600
    assert 0.0 == bandwidth.take(1000)
    assert pytest.approx(1.0) == bandwidth.take(1000)


def test_threads_share_one_limit() -> None:
    time = Time()
    waits: list[float] = []
    bandwidth = Bandwidth(1000, clock=lambda: 100.0, sleep=waits.append)
    threads = [threading.Thread(target=bandwidth.take, args=(1000,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [pytest.approx(second) for second in (1.0, 2.0, 3.0, 4.0)] == sorted(waits)
    assert [] == time.slept
