"""The abort: what it refuses, what it undoes, what it does under a hold, and that nothing of it needs the vault."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.drill.failover_world import HOME, PACE, Files, FileTraffic, effects, end_state, make, open_world
from tests.unit.failover.test_engine import VendorError, everything_kept, press
from understudy.errors import HeldByAnother, NotReady, Refused, StoppedPartWay, Unreachable, Unsupported
from understudy.failover import orders
from understudy.failover.abort import abort, plan_left, prepare_abort
from understudy.failover.decide import Acceptances
from understudy.failover.engine import prepare
from understudy.failover.journal import read_journal
from understudy.failover.lease import StrictLease
from understudy.failover.plans import save_plan
from understudy.failover.register import Register
from understudy.objects.file import FileStore
from understudy.secrets import Secret
from understudy.vault.store import Vault

if TYPE_CHECKING:
    from pathlib import Path

    from understudy.failover.plan import Plan
    from understudy.failover.world import World

pytestmark = pytest.mark.slow  # a loop of 30 seconds has no room for it


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path / "world", home_answers=3)
    return tmp_path / "world"


@pytest.fixture
def world(folder: Path) -> World:
    return open_world(folder)


def stop_at(folder: Path, effect: str) -> Plan:
    """Run a failover that a hold stops after an effect, then lift that hold."""
    clean = open_world(folder)
    plan = prepare(clean, target="away")
    save_plan(clean.register.store, plan)

    def order() -> None:
        if effects(folder)[-1:] == [effect] and clean.register.read().halt is None:
            clean.register.halt(who="bob", host="desk", reason="stop")

    with pytest.raises(StoppedPartWay, match="on hold by bob@desk"):
        press(plan, open_world(folder, order))
    clean.register.lift()
    return plan


def undo(plan: Plan, world: World, **more: Any) -> Any:
    return abort(plan, world, who="ana", host="bastion", reason="false alarm", pace=PACE, **more)


def test_an_abort_gives_back_traffic_then_capacity_then_writes(folder: Path, world: World) -> None:
    plan = stop_at(folder, "resize-4")
    shown = prepare_abort(plan, world)
    assert shown is not None
    assert ["undo-traffic", "undo-scale"] == [action.id for action in shown.undo]
    assert "all traffic back to aws-use1" in shown.render()
    assert "gcp-usc1 back to 1 instances" in shown.render()

    outcome = undo(plan, world)
    assert ("aborted", "aws-use1", 7) == (outcome.verdict, outcome.source, outcome.epoch)
    assert ["undo-traffic", "undo-scale"] == list(outcome.undone)
    assert ["shift-0", "resize-1"] == effects(folder)[-2:]
    assert "understudy failover plan" == outcome.next_command
    written = [(e.kind, e.action) for e in read_journal(world.vault, 7)]
    assert [
        ("takeover", ""),
        *((kind, action) for action in ("undo-traffic", "undo-scale") for kind in ("intent", "effect", "read_back")),
        ("aborted", ""),
    ] == written[-8:]
    lease = StrictLease(world.register, name="home-9", site="home", seconds=5)
    assert lease.renew_once()
    assert 7 == lease.epoch
    fresh = prepare(world, target="away")
    assert 7 == fresh.epoch
    assert "done" == press(fresh, world).verdict


def test_a_claim_alone_is_undone_by_letting_it_go(folder: Path, world: World) -> None:
    plan = stop_at(folder, "model")

    assert {} == undo(plan, world).undone
    assert ["model"] == effects(folder)
    assert (True, None) == (end_state(folder)["writes"], end_state(folder)["holder"])


def test_nothing_is_given_back_to_a_dead_site_unless_someone_answers_for_it(folder: Path, world: World) -> None:
    plan = stop_at(folder, "shift-25")
    Files(folder / "outside", lambda: None).write("health", {HOME: 0, "192.0.2.2": 3})

    said = r"aws-use1 answers 0 of 3 probes \(connection refused\): all traffic would go back to a site that is dead"
    with pytest.raises(Refused, match=rf"{said}. Nothing was changed") as refusal:
        undo(plan, world)
    assert "--accept-dead-home REASON" in refusal.value.hint
    assert f"understudy failover run {plan.id}" == refusal.value.next_command
    holder = world.register.read().holder
    assert holder is not None
    assert "" == holder.aborting

    taken = Acceptances(dead_home="it is coming up, I see its console")
    assert "aborted" == undo(plan, world, acceptances=taken).verdict
    (entry,) = [e for e in read_journal(world.vault, 7) if e.kind == "takeover"]
    assert "it is coming up, I see its console" == entry.data["acceptances"]["dead_home"]


def test_a_site_that_answers_half_the_time_is_not_well() -> None:
    from understudy.failover.decide import decide_abort
    from understudy.failover.observed import Health

    assert "refused" == decide_abort(Health(2, 3, "time-out"), name="aws-use1", back=True).verdict
    assert "refused" == decide_abort(Health(0, 0, "no address"), name="aws-use1", back=True).verdict
    assert "would stay" in decide_abort(Health(0, 3, "refused"), name="aws-use1", back=False).sentence
    assert "ok" == decide_abort(Health(3, 3), name="aws-use1", back=True).verdict


def test_after_the_point_of_no_return_forward_is_the_only_way(folder: Path, world: World) -> None:
    plan = prepare(world, target="away")
    save_plan(world.register.store, plan)

    class Blind(type(world.outside)):  # type: ignore[misc]
        def watch(self, *_: Any, **__: Any) -> Any:
            raise NotReady("no resolver answers")

    with pytest.raises(StoppedPartWay):
        press(plan, replace(world, outside=Blind(Files(folder / "outside", lambda: None))))
    before = effects(folder)

    for call in (
        lambda: plan_left(world.register, world.vault),
        lambda: prepare_abort(plan, world),
        lambda: undo(plan, world),
    ):
        with pytest.raises(Refused, match="point of no return") as refusal:
            call()
        assert "forward is the only way" == refusal.value.hint
        assert f"understudy failover run {plan.id}" == refusal.value.next_command
    assert before == effects(folder)
    assert "done" == press(plan, world).verdict
    with pytest.raises(Refused, match=rf"plan {plan.id} was finished at epoch 7"):
        plan_left(world.register, world.vault)


def test_of_an_abort_and_the_point_of_no_return_the_register_takes_one(world: World) -> None:
    register = world.register
    for first in ("writes", "abort"):
        epoch = register.read().epoch
        state = register.read()
        target: Any = "away" if state.active == "home" else "home"
        claim = register.claim(epoch, who="bob", host="desk", plan="zzzzzz", target=target, seconds=60)
        register.record_fence(claim, "leases", {})
        if first == "writes":
            register.enable_writes(claim)
            register.leave(claim, "writes")
            with pytest.raises(Refused, match="point of no return"):
                register.take_over("zzzzzz", who="ana", host="b", aborting="false alarm")
            register.finish(register.take_over("zzzzzz", who="bob", host="desk"), {})
        else:
            register.leave(claim, "scale")
            taken = register.take_over("zzzzzz", who="ana", host="b", aborting="false alarm")
            with pytest.raises(HeldByAnother):
                register.enable_writes(claim)
            with pytest.raises(Refused, match="is being undone"):
                register.enable_writes(taken)


def test_a_call_that_may_still_arrive_is_waited_out_before_the_undo_looks(folder: Path, world: World) -> None:
    plan = prepare(world, target="away")
    save_plan(world.register.store, plan)

    class Lost(FileTraffic):
        def shift(self, *_: Any, **__: Any) -> Any:
            raise Unreachable("no answer to the call that was sent")

    with pytest.raises(StoppedPartWay):
        press(plan, replace(world, traffic=Lost(Files(folder / "outside", lambda: None))))
    said: list[str] = []
    pace = replace(PACE, effect_seconds=0.2)

    def listen(event: Any) -> None:
        said.append(event.sentence)
        if "can no longer arrive" in event.sentence:  # now it arrives
            Files(folder / "outside", lambda: None).write("traffic", {"home": 75, "away": 25})

    abort(plan, world, who="ana", host="b", reason="x", pace=pace, progress=listen)
    assert any("until an earlier call can no longer arrive" in each for each in said)
    assert {"home": 100, "away": 0} == end_state(folder)["traffic"]
    assert ["shift-0"] == [each for each in effects(folder) if each.startswith("shift")]


def test_a_commander_who_lives_is_not_aborted_but_named(world: World) -> None:
    plan = prepare(world, target="away")
    world.register.claim(6, who="bob", host="desk", plan=plan.id, target="away", seconds=60)

    with pytest.raises(HeldByAnother, match="bob@desk holds epoch 7") as held:
        undo(plan, world)
    assert "failover hold --reason TEXT stops it" in held.value.hint


def test_once_begun_an_abort_is_ended_and_not_turned_round(folder: Path, world: World) -> None:
    plan = stop_at(folder, "shift-25")

    class Down(FileTraffic):
        def shift(self, *_: Any, **__: Any) -> Any:
            raise Unreachable("Route 53 does not answer")

    down = replace(world, traffic=Down(Files(folder / "outside", lambda: None)))
    with pytest.raises(StoppedPartWay, match="the abort stopped: Route 53 does not answer") as stop:
        undo(plan, down)
    assert "understudy failover abort" == stop.value.next_command
    with pytest.raises(Refused, match=r"is being undone \(false alarm\), so it cannot go forward") as refusal:
        press(plan, world)
    assert "understudy failover abort" == refusal.value.next_command

    resumed = abort(plan, world, who="eve", host="x", pace=PACE)
    assert ("aborted", "false alarm") == (resumed.verdict, resumed.reason)
    with pytest.raises(Refused, match="was aborted at epoch 7: false alarm"):
        press(plan, world)


def test_an_abort_goes_on_under_a_hold_that_it_saw_and_stops_at_a_later_one(folder: Path, world: World) -> None:
    plan = stop_at(folder, "shift-25")
    orders.hold(world.register, world.vault, who="bob", host="desk", reason="think")

    def order() -> None:
        state = world.register.read()
        if effects(folder)[-1:] == ["shift-0"] and state.halt is not None and state.halt.who == "bob":
            world.register.lift()
            world.register.halt(who="eve", host="x", reason="home's index is broken")

    with pytest.raises(StoppedPartWay, match=r"on hold by eve@x since .*: home.s index is broken"):
        undo(plan, open_world(folder, order))
    assert not end_state(folder)["writes"]

    outcome = undo(plan, world)
    assert "aborted" == outcome.verdict
    assert outcome.hold.startswith("on hold by eve@x")
    assert "understudy failover release" == outcome.next_command
    assert 1 == effects(folder).count("shift-0")
    with pytest.raises(Refused, match="on hold by eve@x"):
        press(prepare(world, target="away"), world)


def test_a_vendors_own_error_with_a_secret_is_journaled_without_it(folder: Path, world: World) -> None:
    plan = stop_at(folder, "shift-25")
    Secret("planted-abort-4711")

    class Down(FileTraffic):
        def shift(self, *_: Any, **__: Any) -> Any:
            raise VendorError("403 for planted-abort-4711")

    events: list[Any] = []
    down = replace(world, traffic=Down(Files(folder / "outside", lambda: None)))
    with pytest.raises(StoppedPartWay, match=r"the abort stopped: 403 for \*\*\*"):
        undo(plan, down, progress=events.append)
    stopped = [entry.data["why"] for entry in read_journal(world.vault, 7) if entry.kind == "stopped"]
    assert "VendorError('403 for ***')" == stopped[-1]
    assert "planted-abort" not in everything_kept(folder)
    assert "planted-abort" not in repr(events)


def test_a_group_that_cannot_be_resized_does_not_keep_writes_off(folder: Path, world: World) -> None:
    plan = stop_at(folder, "resize-4")

    class Stuck(type(world.compute)):  # type: ignore[misc]
        def resize(self, size: int) -> Any:
            raise Unreachable(f"Compute Engine does not answer about {size}")

    stuck = replace(world, compute=Stuck(Files(folder / "outside", lambda: None)))
    with pytest.raises(StoppedPartWay, match="Compute Engine does not answer"):
        undo(plan, stuck)

    outcome = undo(plan, stuck, leave_capacity=True)
    assert ("aborted", ("mig was left as it is",)) == (outcome.verdict, outcome.left)
    assert (4, True) == (end_state(folder)["compute"], end_state(folder)["writes"])


def test_with_the_vault_gone_the_copy_beside_the_register_tells_what_to_undo(folder: Path, world: World) -> None:
    plan = stop_at(folder, "resize-4")

    class Gone(FileStore):
        def __getattribute__(self, name: str) -> Any:
            if name in ("get", "head", "list", "create", "replace", "put"):
                raise Unreachable("the vault does not answer")
            return super().__getattribute__(name)

    outcome = undo(plan, replace(world, vault=Vault(Gone(folder / "vault")), journal_directory=None))
    assert ("aborted", False) == (outcome.verdict, outcome.journal_complete)
    assert ["shift-0", "resize-1"] == effects(folder)[-2:]


def test_a_plan_that_was_lost_beside_the_register_is_found_in_the_journal(folder: Path, world: World) -> None:
    plan = stop_at(folder, "shift-25")
    world.register.store.delete(f"plans/{plan.id}.json")

    assert plan == plan_left(world.register, world.vault)


def test_without_a_failover_there_is_nothing_to_abort(world: World) -> None:
    assert plan_left(world.register, world.vault) is None


def test_an_abort_needs_a_reason(folder: Path, world: World) -> None:
    plan = stop_at(folder, "shift-25")
    with pytest.raises(Unsupported, match="a reason is missing"):
        abort(plan, world, who="ana", host="bastion", pace=PACE)
    assert "" == getattr(world.register.read().holder, "aborting", None)


def test_a_release_whose_answer_is_lost_is_found_done(folder: Path, world: World) -> None:
    plan = stop_at(folder, "model")

    class Forgetful(FileStore):
        """Loses the answer to the write that lets the epoch go, so that the client sends it again."""

        def replace(self, key: str, data: bytes, *, expected: str | None) -> Any:
            info = super().replace(key, data, expected=expected)
            if b'"aborted"' in data and key == "register.json":
                return super().replace(key, data, expected=expected)
            return info

    lossy = replace(world, register=Register(Forgetful(folder / "register"), margin=0.05))
    assert "aborted" == undo(plan, lossy).verdict
