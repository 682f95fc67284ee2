"""An abort of a failover that was killed anywhere; killed itself anywhere, begun twice, raced by its own failover."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.drill.failover_world import HOME
from tests.drill.test_killed_failover import drill

if TYPE_CHECKING:
    from pathlib import Path

FORWARD = ["model", "index", "features", "shift-25", "resize-4", "shift-50", "shift-100", "alerts"]
BACK = {
    "traffic": {"home": 100, "away": 0},
    "compute": 1,
    "epoch": 7,
    "active": "home",
    "writes": True,
    "holder": None,
    "fence": None,
}


@pytest.mark.slow
def test_an_abort_undoes_a_failover_killed_at_any_moment_before_its_point_of_no_return(tmp_path: Path) -> None:
    (tmp_path / "drill").mkdir()
    found = drill(tmp_path / "drill", "abort")
    swept, deep = found["swept"], found["deep"]

    assert {"claimed", "shift-25", "resize-4", "shift-100"} == set(deep)
    assert 60 < len(swept)
    said = [each["abort"].get("verdict", each["abort"].get("error")) for each in swept]
    assert 0 < said.count("none under way")
    assert 40 < said.count("aborted") < len(swept) - 10
    for each, answer in zip(swept, said, strict=True):
        expected = "aborted" if each["claimed"] else "none under way"
        assert ("refused" if each["writes"] else expected) == answer, each
    for moment, result in enumerate(swept, start=1):
        added = result["effects"][len(result["before"]) :]
        if result["abort"].get("verdict") == "aborted":
            assert BACK.items() <= result["state"].items(), (moment, result)
            assert HOME == result["state"]["alerts"]["address"]
            moved, scaled = "shift-25" in result["before"], "resize-4" in result["before"]
            assert ["shift-0"] * moved + ["resize-1"] * scaled == added, (moment, result)
            assert "nothing" == result["again"]["verdict"]
            assert "refused" == result["forward"]["error"], (moment, result)
        else:
            assert FORWARD == result["effects"], (moment, result)
            assert "away" == result["state"]["active"]
        if result["abort"].get("error"):
            assert "point of no return" in result["abort"]["message"] or "was finished" in result["abort"]["message"]

    for name, (whole, *killed) in deep.items():
        assert 7 < len(killed)
        for moment, result in enumerate(killed, start=1):
            assert whole["effects"] == result["effects"], (name, moment, result)
            assert BACK.items() <= result["state"].items(), (name, moment, result)
            assert result["verdict"] in ("aborted", "nothing"), (name, moment, result)
            assert result["between"]["error"] in ("held", "refused"), (name, moment, result)


def test_of_two_aborts_at_once_one_undoes_and_the_other_changes_nothing(tmp_path: Path) -> None:
    for attempt in range(4):
        bob, eve, world = drill(tmp_path / str(attempt), "abort_rivals")

        assert "aborted" in (bob.get("verdict"), eve.get("verdict")), (bob, eve)
        other = eve if bob.get("verdict") == "aborted" else bob
        assert other.get("error") == "held" or other.get("verdict") == "nothing", other
        assert [*FORWARD[:4], "shift-0"] == world["effects"]
        assert BACK.items() <= world["state"].items()


def test_a_failover_that_wakes_up_after_it_was_aborted_does_nothing_more(tmp_path: Path) -> None:
    for result in drill(tmp_path, "abort_frozen"):
        assert "held" == result["early"].get("error"), result
        assert "aborted" == result["second"]["verdict"]
        assert "held" == result["first"].get("error"), result
        assert result["before"] == result["effects"]
        assert BACK.items() <= result["state"].items()
