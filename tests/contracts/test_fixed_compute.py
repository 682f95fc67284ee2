"""Compute whose number is fixed: it cannot pass the contract of groups that grow, so it has this one."""

from __future__ import annotations

import pytest

from tests.unit.example import example
from understudy import opening
from understudy.compute.fixed import FixedCompute
from understudy.errors import InvalidConfig, NotReady, Refused
from understudy.settings import Settings


def test_all_that_there_is_always_runs():
    fixed = FixedCompute(3)
    seen = []
    assert (3, 3, True) == (fixed.read().size, fixed.read().running, fixed.read().stable)
    assert fixed.read() == fixed.resize(2) == fixed.await_running(3, seconds_max=0, tell=seen.append)
    assert [fixed.read()] == seen


def test_more_than_there_is_is_refused_and_not_waited_for():
    fixed = FixedCompute(3)
    with pytest.raises(Refused, match="cannot become 4"):
        fixed.resize(4)
    with pytest.raises(Refused):
        fixed.resize(-1)
    with pytest.raises(NotReady, match="3 of 4 instances run"):
        fixed.await_running(4, seconds_max=0)


def test_it_is_opened_by_its_count():
    settings = Settings.model_validate(example(**{"capacity.away": "fixed://12"}))
    assert 12 == opening.open_compute(settings, "away").read().size
    with pytest.raises(InvalidConfig, match="fixed://COUNT"):
        opening.open_compute(Settings.model_validate(example(**{"capacity.away": "fixed://many"})), "away")
