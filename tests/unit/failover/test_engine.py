"""The engine over the drill's world in files: what it refuses, what it records, and that nothing holds it up."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.drill.failover_world import BRIEF, LEASE, MARGIN, PACE, Files, effects, end_state, make, open_world
from understudy.errors import Conflict, Corrupt, HeldByAnother, Refused, StoppedPartWay, Unreachable
from understudy.failover.decide import Acceptances
from understudy.failover.engine import prepare, run
from understudy.failover.journal import read_journal
from understudy.failover.observed import Health
from understudy.failover.plan import DEFAULT_SECONDS, Plan
from understudy.failover.plans import load_plan, newest_plan, plan_to_run, save_plan
from understudy.failover.register import Register
from understudy.failover.status import failover_status, render_status
from understudy.failover.world import CatchUp
from understudy.secrets import Secret

if TYPE_CHECKING:
    from pathlib import Path

    from understudy.failover.steps import Pace
    from understudy.failover.telling import Event
    from understudy.failover.world import World

NAMES: dict[Any, str] = {"home": "aws-use1", "away": "gcp-usc1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path / "world")
    return tmp_path / "world"


@pytest.fixture
def world(folder: Path) -> World:
    return open_world(folder)


def press(plan: Plan, world: World, *, pace: Pace = PACE, **more: Any) -> Any:
    return run(plan, world, who="ana", host="bastion", pace=pace, **more)


def change_register(folder: Path, **changes: Any) -> None:
    file = folder / "register" / "register.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_failover_says_what_it_did_and_how_long_it_took(world: World, folder: Path) -> None:
    events: list[Event] = []
    outcome = press(prepare(world, target="away"), world, progress=events.append)

    assert "done" == outcome.verdict
    assert (7, "gcp-usc1") == (outcome.epoch, outcome.target)
    assert {"validate", "dns", "scale", "writes", "monitor", "alerts"} == set(outcome.stages)
    assert LEASE + MARGIN <= outcome.seen["fence"]["waited_seconds"]
    assert {"home-1", "home-2"} == set(outcome.seen["fence"]["leases"])
    assert 0 < outcome.serving_seconds < outcome.confirmed_seconds
    assert outcome.journal_complete
    done = [event.action for event in events if event.what == "done"]
    assert [action for action in outcome.seen if action] == done
    assert ["finished"] == [event.what for event in events if not event.action]
    assert "nothing" == press(prepare_again(world), world).verdict
    assert 7 == len(effects(folder))


class VendorError(Exception):
    """An SDK's own error, which no adapter has translated."""


def everything_kept(folder: Path) -> str:
    """Return every byte of the world's stores, to look for what must not be there."""
    return "".join(file.read_text(errors="replace") for file in folder.rglob("*") if file.is_file())


def test_a_vendors_own_error_with_a_secret_is_journaled_without_it(world: World, folder: Path) -> None:
    Secret("planted-engine-4711")

    def broken(_set_sequence: int) -> Any:
        raise VendorError("401 for https://me:planted-engine-4711@index")

    events: list[Event] = []
    cut = replace(world, catch_up=replace(world.catch_up, rebuild_index=broken))
    with pytest.raises(StoppedPartWay):
        press(prepare(world, target="away"), cut, progress=events.append)
    (stopped,) = [entry for entry in read_journal(world.vault, 7) if entry.kind == "stopped"]
    assert "VendorError('401 for https://me:***@index')" == stopped.data["why"]
    assert "planted-engine" not in everything_kept(folder)
    assert "planted-engine" not in repr(events)


def prepare_again(world: World) -> Plan:
    return Plan.model_validate(read_journal(world.vault, 7)[0].data["plan"])


def test_the_next_plan_predicts_from_what_was_measured(world: World) -> None:
    outcome = press(prepare(world, target="away"), world)
    following = prepare(world, target="home")

    for name in ("model", "index", "features", "writes", "alerts"):
        assert pytest.approx(outcome.actions[name], abs=0.001) == following.action(name).seconds
        assert following.action(name).seconds < DEFAULT_SECONDS[name]


def test_a_plan_whose_world_has_changed_is_refused_with_the_difference(world: World, folder: Path) -> None:
    plan = prepare(world, target="away")
    Files(folder / "outside", lambda: None).write("compute", 0)

    with pytest.raises(Refused, match=rf"plan {plan.id} no longer holds: capacity ok -> note.*Nothing was changed"):
        press(plan, world)
    assert 6 == world.register.read().epoch
    assert [] == read_journal(world.vault, 7)


def test_a_stale_plan_is_refused(world: World) -> None:
    plan = prepare(world, target="away").model_copy(update={"fresh_seconds": 0.01})
    time.sleep(0.05)

    with pytest.raises(Refused, match="plans are good for"):
        press(plan, world)


def test_a_site_without_leases_is_not_fenced_by_being_dead(world: World, folder: Path) -> None:
    change_register(folder, leases={})
    plan = prepare(world, target="away")

    with pytest.raises(Refused, match="does not prove that it does not write") as refusal:
        press(plan, world)
    assert "--accept-unfenced" in refusal.value.hint
    assert 6 == world.register.read().epoch

    outcome = press(plan, world, acceptances=Acceptances(unfenced="its disks are on my desk", reason="INC-1"))
    assert {"by": "acceptance", "reason": "its disks are on my desk", "ticket": "INC-1"}.items() <= outcome.seen[
        "fence"
    ].items()


def test_an_unreachable_register_is_refused(world: World, folder: Path) -> None:
    plan = prepare(world, target="away")
    (folder / "register").rename(folder / "gone")

    with pytest.raises(Refused, match="cannot be read"):
        press(plan, world)


def test_another_commanders_epoch_is_said_with_who_and_where(world: World) -> None:
    plan = prepare(world, target="away")
    world.register.claim(6, who="bob", host="bastion-2", plan="zzzzzz", target="away", seconds=60)

    with pytest.raises(HeldByAnother, match=r"bob@bastion-2 holds epoch 7 since \d\d:\d\d:\d\dZ, at validate"):
        press(plan, world)


def test_what_fails_part_way_is_resumed_by_the_same_call(world: World, folder: Path) -> None:
    plan = prepare(world, target="away")
    calls = []

    def broken(_set_sequence: int) -> Any:
        calls.append(1)
        raise Unreachable("the vault does not answer")

    cut = replace(world, catch_up=replace(world.catch_up, rebuild_index=broken))
    with pytest.raises(StoppedPartWay, match="stopped at validate: the vault does not answer") as stop:
        press(plan, cut)
    assert f"understudy failover run {plan.id}" == stop.value.next_command
    status = failover_status(world.register, world.vault, names=NAMES)
    assert "LEFT PART WAY: ana@bastion" in render_status(status)
    assert f"next: understudy failover run {plan.id}" in render_status(status)

    began = time.monotonic()
    outcome = press(plan, world)
    assert time.monotonic() - began < 20
    assert ("done", "ana@bastion") == (outcome.verdict, outcome.taken_over_from)
    assert ["model", "index", "features", "shift-25", "resize-4", "shift-100", "alerts"] == effects(folder)
    assert "takeover" in [entry.kind for entry in read_journal(world.vault, 7)]


def test_what_was_left_part_way_is_offered_before_any_newer_plan(world: World) -> None:
    plan = prepare(world, target="away")
    save_plan(world.register.store, plan)
    claim = world.register.claim(6, who="ana", host="b", plan=plan.id, target="away", seconds=60)
    save_plan(world.register.store, prepare(world, target="away"))

    assert plan.id == plan_to_run(world.register, service="recommender").id
    world.register.release(claim, "false alarm")
    assert plan.id != plan_to_run(world.register, service="recommender").id
    assert plan == plan_to_run(world.register, service="recommender", plan_id=plan.id)


def test_an_acceptance_of_the_first_run_holds_for_its_resumption(world: World, folder: Path) -> None:
    change_register(folder, leases={})
    plan = prepare(world, target="away")

    class Broken(Register):
        def record_fence(self, *_: Any) -> Any:
            raise Unreachable("not now")

    cut = replace(world, register=Broken(world.register.store, margin=MARGIN))
    with pytest.raises(StoppedPartWay, match="not now"):
        press(plan, cut, acceptances=Acceptances(unfenced="seen by me"))

    assert "done" == press(plan, world).verdict
    assert "away" == end_state(folder)["active"]


def test_an_interrupt_leaves_the_epoch_in_order(world: World) -> None:
    plan = prepare(world, target="away")

    def interrupted(_set_sequence: int) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        press(plan, replace(world, catch_up=replace(world.catch_up, hydrate_model=interrupted)))
    holder = world.register.read().holder
    assert holder is not None
    assert holder.beat is None
    assert "done" == press(plan, world).verdict


def test_all_catch_up_goes_to_the_set_of_the_plan_though_a_newer_one_is_composed_meanwhile(world: World) -> None:
    asked: list[tuple[str, int]] = []

    def recording(name: str) -> Any:
        def call(set_sequence: int) -> Any:
            asked.append((name, set_sequence))
            newer = {**world.vault.read_json("sets/recommender/00000001.json"), "sequence": 2}
            world.vault.put_once("sets/recommender/00000002.json", json.dumps(newer).encode())
            return getattr(world.catch_up, name)(set_sequence)

        return call

    names = ("hydrate_model", "rebuild_index", "rebuild_features")
    press(
        prepare(world, target="away"),
        replace(world, catch_up=CatchUp(**{name: recording(name) for name in names})),
    )

    assert [(name, 1) for name in names] == asked


@pytest.mark.parametrize("error", [Conflict("another rebuild of products is running"), Unreachable("no answer")])
def test_a_rebuild_that_is_just_ending_is_waited_for_and_told(world: World, error: Exception) -> None:
    events: list[Event] = []
    calls: list[int] = []

    def busy(set_sequence: int) -> Any:
        calls.append(set_sequence)
        if len(calls) < 4:
            raise error
        return world.catch_up.rebuild_index(set_sequence)

    busy_world = replace(world, catch_up=replace(world.catch_up, rebuild_index=busy))
    outcome = press(prepare(world, target="away"), busy_world, progress=events.append)

    assert ("done", [1, 1, 1, 1]) == (outcome.verdict, calls)
    told = [event.sentence for event in events if event.what == "told" and event.action == "index"]
    assert 3 == sum(f"{error}; tried again for" in sentence for sentence in told)


def test_a_rebuild_that_never_ends_stops_the_failover_and_corrupt_data_at_once(world: World, folder: Path) -> None:
    plan = prepare(world, target="away")
    calls: list[int] = []

    def never(set_sequence: int) -> Any:
        calls.append(set_sequence)
        raise Conflict("another rebuild of products is running")

    def corrupt(set_sequence: int) -> Any:
        calls.append(set_sequence)
        raise Corrupt("products differs in 1 of 64 buckets")

    with pytest.raises(StoppedPartWay, match="stopped at validate: another rebuild of products is running"):
        press(plan, replace(world, catch_up=replace(world.catch_up, rebuild_index=never)))
    assert 2 < len(calls)
    calls.clear()
    with pytest.raises(StoppedPartWay, match="stopped at validate: products differs in 1 of 64 buckets"):
        press(plan, replace(world, catch_up=replace(world.catch_up, rebuild_index=corrupt)))
    assert 1 == len(calls)
    assert {"home": 100, "away": 0} == end_state(folder)["traffic"]


def test_a_claim_whose_answer_is_lost_says_that_writes_may_be_off_and_is_resumed(world: World) -> None:
    plan = prepare(world, target="away")

    class Lost(Register):
        def _stamp(self, *_: Any, **__: Any) -> Any:
            raise Unreachable("the answer was lost")

    lost = replace(world, register=Lost(world.register.store, margin=MARGIN))
    with pytest.raises(StoppedPartWay, match="writes are off at both sites: the answer was lost") as stop:
        press(plan, lost, pace=BRIEF)
    assert f"understudy failover run {plan.id}" == stop.value.next_command
    assert (7, False) == (world.register.read().epoch, world.register.read().writes)

    assert "done" == press(plan, world).verdict


@pytest.mark.slow
@pytest.mark.parametrize("listener", ["raises", "hangs"])
def test_a_listener_that_fails_or_hangs_holds_nothing_up(world: World, listener: str) -> None:
    def listen(event: Event) -> None:
        if listener == "raises":
            raise RuntimeError(event.sentence)
        time.sleep(60)

    began = time.monotonic()
    outcome = press(prepare(world, target="away"), world, progress=listen)

    assert "done" == outcome.verdict
    assert time.monotonic() - began < 6


def test_no_traffic_goes_to_a_site_that_does_not_answer(world: World, folder: Path) -> None:
    class Silent(type(world.outside)):  # type: ignore[misc]
        def health(self, address: str) -> Any:
            return Health(0, 3, f"{address} refused")

    silent = replace(world, outside=Silent(Files(folder / "outside", lambda: None)))
    plan = prepare(silent, target="away")

    with pytest.raises(StoppedPartWay, match="stopped at dns: gcp-usc1 answers 0 of 3 probes"):
        run(plan, silent, who="ana", host="b", pace=replace(PACE, door_seconds=0.1))
    assert {"home": 100, "away": 0} == end_state(folder)["traffic"]
    assert "home" == end_state(folder)["active"]


def test_the_newest_fresh_plan_is_offered(world: World) -> None:
    store, now = world.register.store, world.register.now()
    with pytest.raises(Refused, match="no fresh plan"):
        newest_plan(store, service="recommender", now=now)

    plan = prepare(world, target="away")
    save_plan(store, plan)
    assert plan == load_plan(store, plan.id) == newest_plan(store, service="recommender", now=now)
    with pytest.raises(Refused):
        newest_plan(store, service="another", now=now)
    save_plan(store, plan.model_copy(update={"fresh_seconds": -1.0}))
    with pytest.raises(Refused):
        newest_plan(store, service="recommender", now=now)
