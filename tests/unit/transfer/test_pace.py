"""The effort of a run follows its own uploads and coders, and stays where it was fixed."""

from __future__ import annotations

import time

from understudy.transfer.link import LinkMeter
from understudy.transfer.pace import Pace


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def uploaded(link, clock, count, seconds):
    with link.passing(count):
        clock.now += seconds


def test_a_run_starts_fast_and_says_nothing_before_its_link_is_measured():
    pace = Pace(LinkMeter(clock=Clock()), clock=Clock())
    assert ("fast", "") == (pace.effort(), pace.reason)


def test_a_slow_link_makes_it_dense_and_the_reason_names_both_figures():
    clock = Clock()
    link = LinkMeter(clock=clock)
    pace = Pace(link, clock=clock)
    uploaded(link, clock, 32 << 20, 32)
    assert "dense" == pace.effort()
    assert pace.reason.startswith("dense: link 1 MB/s, coders ")


def test_a_choice_stands_for_a_second():
    clock = Clock()
    link = LinkMeter(clock=clock)
    pace = Pace(link, clock=clock)
    with link.passing(32 << 20):
        clock.now += 0.9
    assert ("fast", "") == (pace.effort(), pace.reason)
    clock.now += 0.1
    assert pace.reason.startswith("dense: link 37 MB/s, coders ")


def test_an_effort_that_was_fixed_stays_on_any_link():
    clock = Clock()
    link = LinkMeter(clock=clock)
    pace = Pace(link, effort="fast", clock=clock)
    uploaded(link, clock, 32 << 20, 3200)
    assert "fast" == pace.effort()


def test_coders_are_measured_by_the_cpu_of_their_own_thread():
    clock = Clock()
    link = LinkMeter(clock=clock)
    pace = Pace(link, clock=clock)
    with pace.coding("fast", 64 << 20) as done:
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        done(32 << 20)
    [rate] = pace._coders.rates.values()
    assert (64 << 20) / 0.5 < rate <= (64 << 20) / 0.05
    assert {"fast": 0.5} == pace._coders.ratios
