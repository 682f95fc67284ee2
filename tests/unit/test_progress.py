"""Progress: the rate and the end are said when they can be, on a terminal in one line, elsewhere now and then."""

from __future__ import annotations

import io
import sys

import pytest

from understudy.command import screen as screens
from understudy.command.screen import Screen
from understudy.progress import Meter
from understudy.report import Counts

MB = 10**6


def readings(*steps, total=1000 * MB, unit="bytes", what="m 2"):
    meter = Meter()
    return [meter.read(what, done, total, unit, now=now) for now, done in steps]


def test_a_push_says_what_became_of_its_bytes():
    meter = Meter()
    meter.read("m 2", 0, 1000 * MB, "bytes", now=100.0)
    counts = Counts(known=480 * MB, coded=20 * MB, sent=7 * MB)
    found = meter.read("m 2", 500 * MB, 1000 * MB, "bytes", counts, now=102.0)
    expected = "m 2: 500 MB of 1.00 GB (50 %), 480 MB known, 20 MB coded, 7 MB sent, 250 MB/s, about 2s left"
    assert expected == found.line
    assert 50.0 == found.percent


def test_at_first_neither_rate_nor_end_is_known():
    (first,) = readings((0.0, 10 * MB))
    assert (None, None, "m 2: 10 MB of 1.00 GB (1 %)") == (first.rate, first.left_seconds, first.line)


def test_the_rate_follows_a_link_that_slows_down():
    fast = [(float(second), second * 10 * MB) for second in range(40)]
    slow = [(40.0 + second, 400 * MB + second * MB) for second in range(20)]
    found = readings(*fast, *slow)
    assert 10 * MB == pytest.approx(found[39].rate)
    assert MB == pytest.approx(found[-1].rate, rel=0.2)


def test_work_that_begins_anew_is_not_taken_for_a_rate_below_nothing():
    *_, last = readings((0.0, 900 * MB), (1.0, 950 * MB), (2.0, 10 * MB), (3.0, 20 * MB))
    assert 10 * MB == pytest.approx(last.rate)


def test_an_unknown_total_has_no_share_and_rows_are_counted():
    *_, last = readings((0.0, 0), (2.0, 5000), total=None, unit="rows")
    assert ("m 2: 5,000 rows, 2,500 rows/s", 0.0) == (last.line, last.percent)
    assert 100.0 == Meter().read("m", 0, 0, "bytes", now=0.0).percent


def test_many_works_at_once_take_bounded_memory():
    meter = Meter()
    for number in range(10_000):
        meter.read(f"work {number}", 1, 2, "bytes", now=float(number))
    assert len(meter._works) <= 16


class Terminal(io.StringIO):
    def __init__(self, *, is_terminal):
        super().__init__()
        self._is = is_terminal

    def isatty(self):
        return self._is


@pytest.fixture
def shown(monkeypatch):
    """Return what is written to stderr while ten seconds of progress pass."""

    def show(*, is_terminal, **options):
        written = Terminal(is_terminal=is_terminal)
        monkeypatch.setattr(sys, "stderr", written)
        clock = [1000.0]
        monkeypatch.setattr(screens.time, "monotonic", lambda: clock[0])
        screen = Screen(**({"as_json": False, "quiet": False} | options))
        for step in range(101):
            screen.progress("m 2", step * MB, 100 * MB, "bytes")
            clock[0] += 0.1
        return written.getvalue()

    return show


def test_on_a_terminal_one_line_is_drawn_anew_twice_a_second_and_fits(shown, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    found = shown(is_terminal=True)
    assert "\n" not in found
    drawn = found.split("\r\x1b[K")[1:]
    assert 17 <= len(drawn) <= 21
    assert "m 2: 100 MB of 100 MB (100 %)"[:29] == drawn[-1]
    assert max(len(each) for each in drawn) <= 29


def test_in_a_log_a_line_is_added_every_few_seconds_and_none_for_a_moments_work(shown):
    lines = shown(is_terminal=False).splitlines()
    assert [True, True] == ["MB of 100 MB" in line for line in lines]
    assert not any("\x1b" in line for line in lines)


@pytest.mark.parametrize("options", [{"quiet": True}, {"as_json": True}])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_quiet_and_json_show_no_progress(shown, options, is_terminal):
    assert "" == shown(is_terminal=is_terminal, **options)
