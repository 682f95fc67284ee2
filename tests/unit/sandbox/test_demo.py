from __future__ import annotations

from sandbox.demo import judge_sabotage
from sandbox.sabotage import SABOTAGES

FLIP = SABOTAGES["flip-byte"]


def test_a_sabotage_that_turns_what_it_should_keeps_the_exit_code(capsys):
    assert 8 == judge_sabotage(FLIP, set(FLIP.breaks), 8)
    assert "CAUGHT: flip-byte turned vault" in capsys.readouterr().out


def test_a_sabotage_that_nobody_noticed_or_that_broke_more_is_never_success(capsys):
    assert 1 == judge_sabotage(FLIP, set(), 0)
    assert 1 == judge_sabotage(FLIP, {*FLIP.breaks, "answers"}, 8)
    assert 2 == capsys.readouterr().out.count("NOT CAUGHT AS IT SHOULD BE")
