"""A failover that is killed at every step, that two commanders start at once, and whose commander falls asleep."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

EFFECTS = ["model", "index", "features", "shift-25", "resize-4", "shift-100", "alerts"]


def drill(folder: Path, what: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "tests.drill.failover_driver", folder, what],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert 0 == done.returncode, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_a_failover_killed_at_any_moment_ends_the_same_with_each_effect_once(tmp_path: Path) -> None:
    whole, *killed = drill(tmp_path, "kill")

    assert "done" == whole["verdict"]
    assert EFFECTS == whole["effects"]
    assert {"epoch": 7, "active": "away", "writes": True, "holder": None, "fence": "leases"}.items() <= whole[
        "state"
    ].items()
    assert 60 < len(killed)
    for moment, result in enumerate(killed, start=1):
        assert EFFECTS == result["effects"], (moment, result)
        assert whole["state"] == result["state"], (moment, result)
        assert result["verdict"] in ("done", "nothing"), (moment, result)


def test_of_two_commanders_at_once_one_wins_and_the_other_is_told_who(tmp_path: Path) -> None:
    for attempt in range(4):
        ana, bob, world = drill(tmp_path / str(attempt), "rivals")

        winner, loser, name = (ana, bob, "ana") if "verdict" in ana else (bob, ana, "bob")
        assert "done" == winner["verdict"]
        assert "held" == loser.get("error"), loser
        assert loser["message"].startswith(f"{name}@bastion holds epoch 7 since ")
        assert EFFECTS == world["effects"]
        assert 7 == world["state"]["epoch"]


def test_a_commander_who_wakes_up_after_being_replaced_does_nothing_more(tmp_path: Path) -> None:
    for result in drill(tmp_path, "frozen"):
        assert "held" == result["first"].get("error"), result
        assert "done" == result["second"]["verdict"]
        assert EFFECTS == result["effects"]
        assert "away" == result["state"]["active"]
