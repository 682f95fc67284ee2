"""The plan: always in the safe order, the same for the same situation, another when something that matters changed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.failover.situation import NOW, lease, settings, situation, state
from understudy.compute.fixed import FixedCompute
from understudy.compute.interface import Group
from understudy.failover.decide import Acceptances, refused
from understudy.failover.observed import Copied, Health
from understudy.failover.plan import STAGES, Plan, difference, make_plan, render
from understudy.failover.register import Holder

SETTINGS = settings()

situations = st.builds(
    lambda home, away, running, size, leases, pinned, lag, holder: situation(
        health={"home": Health(home, 3), "away": Health(away, 3)},
        group=Group("recommender-mig", size, min(running, size), stable=running >= size) if size >= 0 else None,
        state=state(leases={str(n): lease(seconds=seconds) for n, seconds in enumerate(leases)}),
        pinned=situation().pinned if pinned else None,
        copied=(Copied("feature_store", "user_features", NOW - timedelta(seconds=lag) if holder else None),),
    ),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 20),
    st.integers(-1, 20),
    st.lists(st.floats(0.5, 60), max_size=3),
    st.booleans(),
    st.floats(0, 10_000),
    st.booleans(),
)
ramps = st.lists(st.integers(1, 99), max_size=3, unique=True).map(lambda steps: (*sorted(steps), 100))


@given(situations, ramps, st.integers(0, 5), st.integers(1, 12))
def test_no_plan_serves_before_it_verified_or_writes_before_it_fenced(observed, ramp, warm, full) -> None:
    plan = make_plan(
        observed, settings(**{"traffic.ramp": ramp, "capacity.warm": min(warm, full), "capacity.full": full})
    )
    place = {action.id: number for number, action in enumerate(plan.actions)}
    shifts = [action for action in plan.actions if action.kind == "shift"]

    assert 0 == place["claim"]
    assert place["claim"] < place["fence"] < place["writes"]
    for name in ("model", "index", "features", "fence"):
        assert all(place.get(name, 0) < place[shift.id] for shift in shifts)
        assert place.get(name, 0) < place["writes"]
    running = observed.group.running if observed.group else 0
    for shift in shifts:
        assert place["scale"] < place[shift.id] or shift.parameters["share"] * full <= 100 * running
    shares = [shift.parameters["share"] for shift in shifts]
    assert sorted(set(shares)) == shares
    assert 100 == shares[-1]
    assert place[shifts[-1].id] < place["writes"] < place["watch"] < place["alerts"]
    assert ["writes"] == [action.id for action in plan.actions if action.no_return]
    assert {action.stage for action in plan.actions} <= set(STAGES)
    assert plan == Plan.model_validate_json(plan.model_dump_json())
    assert plan.id in render(plan)


@given(situations, st.floats(0, 3))
def test_the_same_situation_a_moment_later_gives_the_same_id(observed, seconds) -> None:
    later = replace(observed, now=observed.now + timedelta(seconds=seconds))
    before, after = make_plan(observed, SETTINGS), make_plan(later, SETTINGS)

    same = [gate.verdict for gate in before.gates] == [gate.verdict for gate in after.gates]
    assert same == (before.id == after.id)
    assert same == ("" == difference(before, after))


def test_a_lag_that_changes_each_second_does_not_change_the_plan() -> None:
    observed = situation(state=state(leases={"a": lease(ago=1)}))
    later = replace(observed, now=NOW + timedelta(seconds=1), timings=observed.timings)

    assert make_plan(observed, SETTINGS).id == make_plan(later, SETTINGS).id


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"group": Group("recommender-mig", 0, 0, stable=True)}, "capacity ok -> note: 0 of 1 warm instances run"),
        ({"group": Group("recommender-mig", 0, 0, stable=True)}, "scale from 1 -> 0"),
        ({"health": {"home": Health(3, 3), "away": Health(3, 3)}}, "source ok -> note: aws-use1 answers 3 of 3 probes"),
        ({"state": state(epoch=7)}, "epoch 6 -> 7"),
        ({"state": state(leases={})}, "fence ok -> refused"),
        ({"state": state(leases={"a": lease(seconds=60)})}, "fence lease_seconds 15.0 -> 60.0"),
        ({"pinned": replace(situation().pinned, version="2")}, "model version 1 -> 2"),  # type: ignore[type-var]
        ({"pinned": replace(situation().pinned, sequence=5)}, "model set 4 -> 5"),  # type: ignore[type-var]
        ({"pinned": replace(situation().pinned, index_sequence=8)}, "index sequence 7 -> 8"),  # type: ignore[type-var]
        ({"pinned": replace(situation().pinned, missing=("packs/x",))}, "vault ok -> refused"),  # type: ignore[type-var]
        ({"routing": None, "problems": {"traffic": "no answer"}}, "traffic ok -> refused: no answer"),
    ],
)
def test_what_matters_changes_the_id_and_is_said(changes, said) -> None:
    before, after = make_plan(situation(), SETTINGS), make_plan(situation(**changes), SETTINGS)

    assert before.id != after.id
    assert said in difference(before, after)


def test_the_loss_is_counted_up_to_the_last_moment_a_lease_allowed_a_write() -> None:
    four_minutes = Copied("feature_store", "user_features", NOW - timedelta(seconds=300 + 240))
    observed = situation(copied=(four_minutes,), now=NOW + timedelta(hours=4))

    gate = next(gate for gate in make_plan(observed, SETTINGS).gates if gate.name == "rpo feature_store")

    assert ("ok", 240 + 15) == (gate.verdict, gate.seconds)


def test_a_loss_over_its_target_is_refused_until_a_bound_is_accepted() -> None:
    long_ago = Copied("vector_index", "products", NOW - timedelta(minutes=72))
    plan = make_plan(situation(copied=(long_ago,)), SETTINGS)
    (gate,) = refused(plan.gates)

    assert "loses 1h07m of vector_index: OVER TARGET 1h00m" == gate.sentence
    assert "--accept-loss vector_index=70m --reason TICKET" in render(plan)
    assert (gate,) == refused(plan.gates, Acceptances(loss_seconds={"vector_index": 60 * 60}))
    assert () == refused(plan.gates, Acceptances(loss_seconds={"vector_index": 70 * 60}))


def test_a_site_without_a_known_lease_is_refused_until_someone_answers_for_it() -> None:
    just_now = Copied("feature_store", "user_features", NOW - timedelta(seconds=4))
    plan = make_plan(situation(state=state(leases={}), copied=(just_now,)), SETTINGS)
    (gate,) = refused(plan.gates)

    assert "fence" == gate.name
    assert "--accept-unfenced REASON" in render(plan)
    assert () == refused(plan.gates, Acceptances(unfenced="its disks are on my desk"))


def test_what_is_missing_in_the_vault_cannot_be_accepted() -> None:
    nothing = Copied("feature_store", "user_features", None)
    plan = make_plan(situation(copied=(nothing,), pinned=None), SETTINGS)
    everything = Acceptances(loss_seconds={"feature_store": 1e9}, unfenced="yes")

    assert ["vault", "rpo feature_store"] == [gate.name for gate in refused(plan.gates, everything)]


def test_an_epoch_that_is_held_is_refused() -> None:
    holder = Holder(
        who="ana",
        host="bastion-2",
        plan="k7qf2m",
        target="away",
        stage="dns",
        since=NOW,
        beat=NOW,
        seconds=15,
        nonce="n",
    )
    plan = make_plan(situation(state=state(holder=holder)), SETTINGS)

    assert ["register"] == [gate.name for gate in refused(plan.gates)]


def test_a_living_source_is_left_in_the_steps_of_the_ramp_and_a_dead_one_at_once() -> None:
    def shares(plan: Plan) -> list[int]:
        return [action.parameters["share"] for action in plan.actions if action.kind == "shift"]

    living = situation(health={"home": Health(3, 3), "away": Health(3, 3)})
    cold = situation(group=Group("recommender-mig", 0, 0, stable=True))

    assert [25, 50, 100] == shares(make_plan(living, SETTINGS))
    assert [25, 100] == shares(make_plan(situation(), SETTINGS))
    assert [100] == shares(make_plan(cold, SETTINGS))


def test_measured_times_replace_the_defaults() -> None:
    measured = dict.fromkeys(("claim", "model", "index", "features", "shift", "scale", "writes", "watch"), 0.5)
    plan = make_plan(situation(timings=measured), SETTINGS)

    # claim, features and the first shift; model and index are caught up while the fence waits its 17 s
    assert pytest.approx(17 + 3 * 0.5) == plan.serving_seconds
    assert pytest.approx(plan.serving_seconds + 1.0) == plan.full_seconds
    assert pytest.approx(plan.full_seconds + 0.5 + 60) == plan.confirmed_seconds


def test_the_screen_shows_all_stages_and_the_point_of_no_return() -> None:
    lines = render(make_plan(situation(), SETTINGS)).splitlines()

    assert lines[0].startswith("PLAN ")
    assert "aws-use1 (unreachable 5m00s, 3 of 3 probes) -> gcp-usc1  epoch 6 -> 7  good for 10m" in lines[0]
    assert list(STAGES) == [line.split()[1] for line in lines[1:7]]
    assert lines[4].endswith("NO RETURN")
    assert max(map(len, lines)) < 140


def test_what_asks_nobody_is_no_dependency():
    planes = situation().control_planes
    fixed = make_plan(situation(control_planes={**planes, "compute": FixedCompute(2).control_plane}), SETTINGS)
    [line] = [line for line in render(fixed).splitlines() if line.startswith("depends on ")]
    assert "depends on DNS resolvers, Route 53 API, register, vault" == line
