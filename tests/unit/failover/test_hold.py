"""``hold`` and ``release``: nothing starts, nothing goes on, and whoever was stopped goes on afterwards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.drill.failover_world import MARGIN, effects, end_state, make, open_world
from tests.unit.failover.situation import NOW, settings, situation, state
from tests.unit.failover.test_engine import press
from tests.unit.failover.test_journal import Cut
from understudy.errors import Refused, StoppedPartWay, Unreachable, Unsupported
from understudy.failover import orders
from understudy.failover.decide import Acceptances, refused
from understudy.failover.engine import prepare
from understudy.failover.journal import read_journal
from understudy.failover.lease import StrictLease
from understudy.failover.plan import make_plan, render
from understudy.failover.register import Halt, Register
from understudy.failover.status import failover_status, render_status
from understudy.objects.memory import MemoryStore
from understudy.vault.store import Vault

if TYPE_CHECKING:
    from pathlib import Path

    from understudy.failover.world import World

WHOLE = ["model", "index", "features", "shift-25", "resize-4", "shift-100", "alerts"]
SAID = r"failovers are on hold by bob@desk since \d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ: is it really down\?"


@pytest.fixture
def world(tmp_path: Path) -> World:
    make(tmp_path / "world")
    return open_world(tmp_path / "world")


def hold(world: World, reason: str = "is it really down?") -> orders.Order:
    return orders.hold(world.register, world.vault, who="bob", host="desk", reason=reason)


def release(world: World) -> orders.Order:
    return orders.release(world.register, world.vault, who="ana", host="bastion")


def test_a_hold_without_a_failover_forbids_one_until_it_is_lifted(world: World, tmp_path: Path) -> None:
    plan = prepare(world, target="away")
    given = hold(world)

    assert "held" == given.verdict
    assert "None is under way, and none may start" in given.sentence
    with pytest.raises(Refused, match=SAID) as refusal:
        press(plan, world)
    assert "understudy failover release" == refusal.value.next_command
    assert [] == effects(tmp_path / "world")
    assert (6, True) == (world.register.read().epoch, world.register.read().writes)

    lifted = release(world)
    assert ("released", "understudy failover plan") == (lifted.verdict, lifted.next_command)
    assert "done" == press(plan, world).verdict
    assert ["hold", "release"] == [entry.kind for entry in read_journal(world.vault, 7)][:2]


def test_a_plan_shows_the_hold_as_a_gate_that_nobody_can_accept() -> None:
    halt = Halt(who="bob", host="desk", reason="think", since=NOW, nonce="n")
    plan = make_plan(situation(state=state(halt=halt)), settings())

    assert ["hold"] == [gate.name for gate in refused(plan.gates, Acceptances(unfenced="yes", dead_home="yes"))]
    assert " REFUSED hold: failovers are on hold by bob@desk since 2026-11-21 03:10:00Z: think" in render(plan)
    assert make_plan(situation(), settings()).id != plan.id


@pytest.mark.parametrize("during", ["model", "index", "features", "shift-25", "resize-4", "shift-100"])
def test_a_running_failover_stops_before_its_next_effect_and_goes_on_after_the_release(
    tmp_path: Path, during: str
) -> None:
    folder = tmp_path / "world"
    make(folder)
    clean = open_world(folder)
    plan = prepare(clean, target="away")

    def when_it_happens() -> None:
        if effects(folder)[-1:] == [during] and clean.register.read().halt is None:
            hold(clean)

    # A moment is just after an effect or a write, so the order falls between an effect and the next one.
    with pytest.raises(StoppedPartWay, match=rf"stopped at \w+: {SAID}") as stop:
        press(plan, open_world(folder, when_it_happens))
    assert (7, "understudy failover release") == (stop.value.exit_code, stop.value.next_command)
    assert WHOLE[: WHOLE.index(during) + 1] == effects(folder)
    entries = read_journal(clean.vault, 7)
    done = {entry.action for entry in entries if entry.kind == "read_back"}
    assert {entry.action for entry in entries if entry.kind == "intent"} == done
    shown = render_status(failover_status(clean.register, clean.vault, names={"home": "aws-use1", "away": "gcp-usc1"}))
    assert "LEFT PART WAY: ana@bastion" in shown
    assert "ON HOLD: failovers are on hold by bob@desk" in shown
    assert "next: understudy failover release" in shown
    with pytest.raises(Refused, match=SAID):
        press(plan, clean)

    lifted = release(clean)
    assert f"plan {plan.id} still holds epoch 7" in lifted.sentence
    assert f"understudy failover run {plan.id}" == lifted.next_command
    assert "done" == press(plan, clean).verdict
    assert WHOLE == effects(folder)
    assert "away" == end_state(folder)["active"]


def test_a_claim_that_did_not_hear_of_the_hold_is_refused_by_the_register() -> None:
    register = Register(MemoryStore(), margin=0.0)
    register.initialise("recommender")
    register.halt(who="bob", host="desk", reason="think")

    with pytest.raises(Refused, match="on hold by bob@desk"):
        register.claim(1, who="ana", host="b", plan="aaaaaa", target="away")
    assert (1, True) == (register.read().epoch, register.read().writes)


def test_writes_are_not_enabled_by_a_failover_that_did_not_hear_of_the_hold() -> None:
    register = Register(MemoryStore(), margin=0.0)
    register.initialise("recommender")
    claim = register.claim(1, who="ana", host="b", plan="aaaaaa", target="away")
    register.record_fence(claim, "leases", {})
    register.halt(who="bob", host="desk", reason="think")

    with pytest.raises(Refused, match="on hold by bob@desk"):
        register.enable_writes(claim)
    assert (False, "home") == (register.read().writes, register.read().active)


def test_what_is_left_after_the_point_of_no_return_waits_too(tmp_path: Path) -> None:
    folder = tmp_path / "world"
    make(folder)
    clean = open_world(folder)
    plan = prepare(clean, target="away")

    def once_writes_are_on() -> None:
        if clean.register.read().active == "away" and clean.register.read().halt is None:
            assert "has enabled writes already" in hold(clean).sentence

    with pytest.raises(StoppedPartWay, match="on hold by bob@desk"):
        press(plan, open_world(folder, once_writes_are_on))
    assert ("away", True) == (end_state(folder)["active"], end_state(folder)["writes"])
    release(clean)
    assert "done" == press(plan, clean).verdict


def test_the_first_hold_stands_and_anybody_lifts_it(world: World) -> None:
    hold(world)
    with pytest.raises(Refused, match=rf"{SAID}. That hold stands"):
        orders.hold(world.register, world.vault, who="eve", host="x", reason="me too")

    assert "the hold of bob@desk (is it really down?) is lifted" in release(world).sentence
    assert "nothing" == release(world).verdict


def test_writers_go_on_and_old_writers_read_a_register_without_a_hold(world: World, tmp_path: Path) -> None:
    file = tmp_path / "world" / "register" / "register.json"
    lease = StrictLease(world.register, name="home-9", site="home", seconds=5)
    assert lease.renew_once()
    assert not {"halt", "aborting"} & set(json.loads(file.read_text()))
    hold(world)
    assert lease.renew_once()
    release(world)
    assert "halt" not in json.loads(file.read_text())


def test_a_hold_needs_no_vault_and_does_need_the_register() -> None:
    store, vault = Cut(), Cut()
    register = Register(store, margin=MARGIN)  # type: ignore[arg-type]
    register.initialise("recommender")
    vault.cut = True

    assert "held" == orders.hold(register, Vault(vault), who="a", host="b", reason="x").verdict  # type: ignore[arg-type]
    assert ["hold"] == [entry.kind for entry in read_journal(Vault(store), 2)]  # type: ignore[arg-type]
    store.cut = True
    with pytest.raises(Unreachable):
        orders.release(register, Vault(vault), who="a", host="b")  # type: ignore[arg-type]


@pytest.mark.parametrize("reason", ["", "  \n", "\x1b\x07", "x" * 501])
def test_a_reason_is_a_sentence(world: World, reason: str) -> None:
    with pytest.raises(Unsupported, match="reason"):
        hold(world, reason)
    assert world.register.read().halt is None


def test_a_reason_is_kept_as_one_printable_line(world: World) -> None:
    halt = hold(world, "disk\n\x1b[31m array \udcff lost").halt
    assert halt is not None
    assert "disk [31m array lost" == halt.reason


def test_an_entry_of_a_later_version_is_read(world: World) -> None:
    hold(world)
    (entry,) = read_journal(world.vault, 7)
    key = "journal/00000007/00000002.json"
    world.vault.put_once(key, json.dumps({**json.loads(json.dumps(_plain(entry))), "n": 2, "new": 1}).encode())

    assert [1, 2] == [each.n for each in read_journal(world.vault, 7)]
    assert entry.clock


def _plain(entry: Any) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__slots__}


def test_a_finished_failover_stays_finished_under_a_hold(world: World) -> None:
    plan = prepare(world, target="away")
    press(plan, world)
    hold(world)

    assert "nothing" == press(plan, world).verdict
    assert ("away", True) == (world.register.read().active, world.register.read().writes)
