"""The report: what was meant beside what was done, and text that people wrote stays text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from tests.drill.failover_world import LEASE, effects, make, open_world, settings
from tests.unit.failover.test_abort import stop_at, undo
from tests.unit.failover.test_engine import change_register, press
from understudy.errors import NotFound, StoppedPartWay, Unreachable
from understudy.failover import orders
from understudy.failover.decide import Acceptances
from understudy.failover.engine import prepare
from understudy.failover.report import FailoverReport, read_report
from understudy.failover.report_pages import to_html, to_markdown
from understudy.objects.file import FileStore
from understudy.vault.store import Vault

if TYPE_CHECKING:
    from pathlib import Path

    from understudy.failover.world import World

HOSTILE = "<script>alert('x')</script> | **bold** [link](http://evil) `code`"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path / "world")
    return tmp_path / "world"


@pytest.fixture
def world(folder: Path) -> World:
    return open_world(folder)


def report(world: World, epoch: int | None = None) -> FailoverReport:
    return read_report(world.register, world.vault, settings(), epoch=epoch, directory=world.journal_directory)


def test_a_finished_failover_is_reported_beside_its_targets(world: World) -> None:
    outcome = press(prepare(world, target="away"), world, acceptances=Acceptances(reason="INC-4711"))
    found = report(world)

    assert ("done", 7, "aws-use1", "gcp-usc1") == (found.verdict, found.epoch, found.source, found.target)
    assert "failed over from aws-use1 to gcp-usc1 at epoch 7; all targets met" == found.sentence
    assert {"inference", "feature_store", "vector_index", "training"} == {line.component for line in found.targets}
    lines = {line.component: line for line in found.targets}
    assert ("met", "none") == (lines["inference"].rto_verdict, lines["inference"].rpo_verdict)
    features = lines["feature_store"]
    assert ("met", "met", 900.0, 300.0) == (
        features.rto_verdict, features.rpo_verdict, features.rto_seconds, features.rpo_seconds,
    )  # fmt: skip
    # The world's watermark and its leases' last renewal are the same moment: what was written in the lease is lost.
    assert features.lost_seconds == pytest.approx(LEASE)
    assert features.recovered_seconds is not None
    assert LEASE < features.recovered_seconds < 60
    assert "its last sign of life" in found.counted_why
    assert {"claimed", "serving", "full", "writing", "confirmed", "ended"} == set(found.moments)
    achieved = {step.id: step.achieved_seconds for step in found.steps}
    assert outcome.actions == achieved
    assert 90.0 == next(step.predicted_seconds for step in found.steps if step.id == "scale")
    assert any("every lease of aws-use1 had lapsed" in line for line in found.fence)
    assert ("ana@bastion gave the reason: INC-4711",) == found.acceptances
    assert () == found.incidents
    assert all(line.sure for line in found.timeline if line.what != "begins: claim epoch 7")
    assert [line.at for line in found.timeline] == sorted(line.at for line in found.timeline)
    assert any("UNPROTECTED" in line for line in found.remains)


def test_targets_are_those_of_the_day_and_what_was_missed_is_said(world: World, folder: Path) -> None:
    old = {"watermark": "2026-11-20T00:00:00+00:00"}
    (folder / "vault" / "pointers" / "vectors" / "products.json").write_text(json.dumps(old))
    taken = Acceptances(loss_seconds={"vector_index": 1e9}, reason="INC-1")
    press(prepare(world, target="away"), world, acceptances=taken)
    later = settings()
    later = later.model_copy(update={"components": {"inference": later.components["inference"]}})
    found = read_report(world.register, world.vault, later)

    (line,) = [line for line in found.targets if line.component == "vector_index"]
    assert ("MISSED", 3600.0) == (line.rpo_verdict, line.rpo_seconds)
    assert "missed: vector_index" in found.sentence
    assert any(line.startswith("ana@bastion accepted to lose up to") for line in found.acceptances)
    assert '<td class="bad">MISSED</td>' in to_html(found)


def test_holds_takeovers_and_aborts_are_incidents(tmp_path: Path) -> None:
    folder = tmp_path / "w"
    make(folder, home_answers=3)
    world = open_world(folder)
    orders.hold(world.register, world.vault, who="eve", host="x", reason="wait for bob")
    orders.release(world.register, world.vault, who="eve", host="x")
    plan = stop_at(folder, "shift-25")
    undo(plan, world)
    found = report(world)

    assert "aborted" == found.verdict
    assert "was aborted: false alarm" in found.sentence
    said = [line.what for line in found.incidents]
    assert "puts failovers on hold: wait for bob" == said[0]
    assert "lifts the hold of eve@x: wait for bob" == said[1]
    # A slow machine shows the hold before the next step began.
    assert re.match("stops at (dns|scale): failovers are on hold by bob@desk", said[2])
    assert "takes over from ana@bastion to undo it: false alarm" == said[3]
    assert "aborted: false alarm" == said[4]
    assert "done: undo-traffic" in " ".join(line.what for line in found.timeline)
    assert {"not judged"} == {line.rto_verdict for line in found.targets}
    assert "the claim: aws-use1 still answered when the plan was made" == found.counted_why


def test_a_failover_left_part_way_says_how_to_go_on(tmp_path: Path) -> None:
    make(tmp_path / "w", home_answers=3)
    plan = stop_at(tmp_path / "w", "resize-4")
    found = report(open_world(tmp_path / "w"), 7)

    assert ("left part way", f"understudy failover run {plan.id}") == (found.verdict, found.next_command)
    assert ("writes are off at both sites: go on, or back with understudy failover abort",) == found.remains
    assert {"not achieved"} == {line.rto_verdict for line in found.targets}
    assert None is next(step.achieved_seconds for step in found.steps if step.id == "shift-100")


def test_an_unfenced_failover_names_who_answered_for_it(world: World, folder: Path) -> None:
    change_register(folder, leases={})
    taken = Acceptances(unfenced="its disks are on my desk", reason="INC-2")
    press(prepare(world, target="away"), world, acceptances=taken)
    found = report(world)

    assert ("no lease was known; a person answered for it: its disks are on my desk",) == found.fence
    assert "so the outage was longer than this" in found.counted_why
    assert ("ana@bastion answered for the old writers being stopped: its disks are on my desk (INC-2)",) == (
        found.acceptances
    )


def test_what_people_wrote_is_shown_as_text(tmp_path: Path) -> None:
    make(tmp_path / "w", home_answers=3)
    world = open_world(tmp_path / "w")
    orders.hold(world.register, world.vault, who="<b>eve</b>", host="x", reason=HOSTILE)
    world.register.lift()
    plan = prepare(world, target="away")
    press(plan, world, acceptances=Acceptances(reason=HOSTILE))
    found = report(world)

    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.seen: set[str] = set()
            self.text = ""

        def handle_starttag(self, tag: str, attrs: Any) -> None:
            assert not {name for name, _ in attrs} - {"class", "lang", "charset", "http-equiv", "content"}
            self.seen.add(tag)

        def handle_data(self, data: str) -> None:
            self.text += data

    page, tags = to_html(found), Tags()
    tags.feed(page)
    assert not {"script", "b", "a", "img", "link"} & tags.seen
    assert HOSTILE in tags.text
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=|url\(|@import", page)
    markdown = to_markdown(found)
    assert "<script>" not in markdown
    assert "&lt;script>" in markdown
    assert r"\*\*bold\*\* \[link\](http://evil) \`code\`" in markdown
    tables = [line for line in markdown.splitlines() if line.startswith("|") and "alert(" in line]
    assert tables
    assert all(4 == len(re.findall(r"(?<!\\)\|", line)) for line in tables)
    assert HOSTILE in json.dumps(found.as_json())


def test_the_newest_is_reported_and_what_never_ran_is_said(world: World) -> None:
    with pytest.raises(NotFound, match="no failover has been run yet"):
        report(world)
    orders.hold(world.register, world.vault, who="eve", host="x", reason="think")
    with pytest.raises(NotFound, match="no failover has been run yet"):
        report(world)
    world.register.lift()
    press(prepare(world, target="away"), world)

    assert 7 == report(world).epoch
    with pytest.raises(NotFound, match="no failover claimed epoch 9"):
        report(world, 9)


def gone(folder: Path) -> Any:
    class Gone(FileStore):
        def __getattribute__(self, name: str) -> Any:
            if name in ("get", "head", "list", "now", "get_range"):
                raise Unreachable("no answer")
            return super().__getattribute__(name)

    return Gone(folder)


def test_a_report_needs_one_of_the_vault_and_the_register(world: World, folder: Path) -> None:
    press(prepare(world, target="away"), world)
    whole = report(world)
    no_vault = replace(world, vault=Vault(gone(folder / "vault")), journal_directory=None)
    without = report(no_vault)
    assert (whole.verdict, whole.targets, whole.steps) == (without.verdict, without.targets, without.steps)

    class NoRegister(type(world.register)):  # type: ignore[misc]
        def read(self) -> Any:
            raise Unreachable("no answer")

    blind = replace(world, register=NoRegister(world.register.store))
    found = report(blind)
    assert ("done", ("the register cannot be read: no answer",)) == (found.verdict, found.problems)
    assert whole.steps == found.steps
    with pytest.raises((StoppedPartWay, NotFound, Unreachable)):
        report(replace(no_vault, register=NoRegister(gone(folder / "register"))), 7)
    assert 7 == len(effects(folder))
