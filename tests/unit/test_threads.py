"""Threads that know what they work for, and work that is left behind."""

from __future__ import annotations

import contextvars
import time

import pytest

from understudy.secrets import Secret
from understudy.threads import ThreadPool, TookTooLong, best_effort, within

RUN = contextvars.ContextVar("RUN", default="none")


def test_a_job_of_a_pool_runs_in_the_context_of_whoever_submits_it():
    with ThreadPool(2) as pool:
        RUN.set("a")
        first = pool.submit(RUN.get)
        RUN.set("b")
        second = list(pool.map(lambda _: RUN.get(), range(4)))
    assert ("a", ["b"] * 4) == (first.result(), second)


def test_what_a_job_sets_stays_in_it():
    RUN.set("before")
    with ThreadPool(1) as pool:
        pool.submit(RUN.set, "inside").result()
    assert "before" == RUN.get()


def test_work_is_left_behind_after_its_time_and_its_errors_come_through():
    began = time.monotonic()
    with pytest.raises(TookTooLong, match="reading took longer than 0 s"):
        within(0.1, lambda: time.sleep(5), name="reading")
    assert time.monotonic() - began < 2
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0, name="dividing")
    assert 4 == within(5, lambda: 4, name="counting")


def test_what_was_not_possible_is_logged_without_a_secret_that_a_vendors_error_repeats(caplog):
    Secret("planted-threads-4711")

    def fail():
        raise LookupError("POST https://hooks/planted-threads-4711: 404")

    assert not best_effort(fail, "telling")
    assert ["telling was not possible: POST https://hooks/***: 404"] == caplog.messages
