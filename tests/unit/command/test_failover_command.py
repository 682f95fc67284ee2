"""``understudy failover`` and ``understudy report`` from the command line, over a world in folders."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.drill.failover_world import effects, make, open_world, settings
from tests.unit.failover.test_abort import stop_at
from understudy import service as service_module
from understudy.command.root import run
from understudy.service import Service

if TYPE_CHECKING:
    from pathlib import Path

    from understudy.failover.register import Register
    from understudy.failover.world import World
    from understudy.vault.store import Vault


class InFolders(Service):
    """A service whose sites, vault and register are the drill's world."""

    def __init__(self, folder: Path) -> None:
        super().__init__(settings())
        self.folder = folder

    @property
    def register(self) -> Register:  # type: ignore[override]
        return open_world(self.folder).register

    @property
    def vault(self) -> Vault:  # type: ignore[override]
        return open_world(self.folder).vault

    def world(self, target: Any, **_: Any) -> World:
        assert "away" == target
        return open_world(self.folder)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make(tmp_path / "world", home_answers=3)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(service_module, "open_service", lambda _config=None: InFolders(tmp_path / "world"))
    return tmp_path / "world"


def test_hold_plan_run_and_release(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == run(["failover", "hold", "--reason", "is it really down?"])
    assert "next: understudy failover release" in capsys.readouterr().out
    assert 4 == run(["failover", "plan"])
    assert "REFUSED hold: failovers are on hold by" in capsys.readouterr().out
    assert 4 == run(["failover", "run", "--yes"])
    assert "refused: failovers are on hold by" in capsys.readouterr().err
    assert 4 == run(["failover", "hold", "--reason", "again"])
    assert "That hold stands" in capsys.readouterr().err
    assert [] == effects(folder)

    assert 0 == run(["--json", "failover", "release"])
    lifted = json.loads(capsys.readouterr().out)
    assert ("released", "is it really down?", "understudy failover plan") == (
        lifted["verdict"], lifted["hold"]["reason"], lifted["next"],
    )  # fmt: skip
    assert "nonce" not in lifted["hold"]
    assert 0 == run(["failover", "release"])
    assert "nothing to do, there is no hold" in capsys.readouterr().out


def test_a_hold_and_an_abort_want_a_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 2 == run(["failover", "hold"])
    assert 2 == run(["failover", "hold", "--reason", " "])
    stop_at(folder, "shift-25")
    capsys.readouterr()
    assert 2 == run(["failover", "abort", "--yes"])
    assert "a reason is missing" in capsys.readouterr().err
    assert 1 == effects(folder).count("shift-25")


def test_abort_shows_what_it_undoes_and_says_what_comes_next(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == run(["failover", "abort", "--reason", "x", "--yes"])
    assert "nothing to do: no failover is under way" in capsys.readouterr().out
    plan = stop_at(folder, "resize-4")
    assert 4 == run(["failover", "abort", "--reason", "false alarm"])  # nobody is there to type the name
    assert ["model", "index", "features", "shift-25", "resize-4"] == effects(folder)
    capsys.readouterr()

    assert 0 == run(["failover", "abort", "--reason", "false alarm", "--yes"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"ABORT {plan.id}  epoch 7: aws-use1 stays active\n")
    assert "undo      all traffic back to aws-use1\n" in shown
    assert shown.endswith("next: understudy failover plan\n")
    assert ["shift-0", "resize-1"] == effects(folder)[-2:]
    assert 0 == run(["--json", "failover", "abort", "--reason", "false alarm", "--yes"])
    assert "nothing" == json.loads(capsys.readouterr().out)["verdict"]


@pytest.mark.usefixtures("folder")
def test_report_in_each_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert 5 == run(["report"])
    assert "no failover has been run yet" in capsys.readouterr().err
    assert 0 == run(["failover", "plan"])
    assert 0 == run(["failover", "run", "--yes", "--reason", "INC-4711"])
    assert capsys.readouterr().out.endswith("next: understudy report 7\n")

    assert 0 == run(["report"])
    assert "# Failover of recommender at epoch 7: done" in capsys.readouterr().out
    assert 0 == run(["report", "7", "--format", "json"])
    first = json.loads(capsys.readouterr().out)
    assert 0 == run(["--json", "report", "7"])
    assert first == json.loads(capsys.readouterr().out)
    assert {"format", "verdict", "targets", "timeline", "next"} <= set(first)
    page = tmp_path / "report.html"
    assert 0 == run(["report", "7", "--format", "html", "--out", str(page)])
    assert f"written to {page}" in capsys.readouterr().out
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert 3 == run(["report", "--out", str(tmp_path / "absent" / "x")])
    assert 5 == run(["report", "99"])


@pytest.mark.usefixtures("folder")
def test_the_way_home_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert 4 == run(["failover", "plan", "--to", "aws-use1"])
    assert "aws-use1 is active already" in capsys.readouterr().err
    assert 0 == run(["failover", "plan", "--to", "gcp-usc1"])
    assert 0 == run(["failover", "run", "--yes"])
    capsys.readouterr()
    for arguments in (["--to", "aws-use1"], []):
        assert 4 == run(["failover", "plan", *arguments])
        said = capsys.readouterr().err
        assert 1 == len(said.splitlines())
        assert "a plan toward aws-use1 cannot be made: going back is a failback, which is not built yet" in said
        assert "UNPROTECTED" in said


def test_status_shows_the_hold(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = stop_at(folder, "shift-25")
    assert 0 == run(["failover", "hold", "--reason", "think"])
    assert f"left plan {plan.id} at scale; writes are off at both sites" in capsys.readouterr().out
    assert 0 == run(["failover", "status"])
    shown = capsys.readouterr().out
    assert "ON HOLD: failovers are on hold by" in shown
    assert shown.endswith("next: understudy failover release\n")
    assert 0 == run(["failover", "release"])
    assert f"next: understudy failover run {plan.id}" in capsys.readouterr().out
