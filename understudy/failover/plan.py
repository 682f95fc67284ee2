"""The plan of a failover: a pure function of what was observed; the same situation gives the same plan and id.

The order is the safe one: verified data and capacity before the traffic they serve, writes only after the fence. The
stages that a commander sees are labels on the actions.
"""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field

from understudy.failover.decide import Gate, acceptance_flags, decide, refused
from understudy.failover.register import MARGIN_SECONDS
from understudy.report import human_seconds
from understudy.settings import SiteRole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from understudy.failover.observed import Observed
    from understudy.settings import Settings

Stage = Literal["validate", "dns", "scale", "writes", "monitor", "alerts"]
Kind = Literal["claim", "fence", "model", "index", "features", "shift", "scale", "writes", "watch", "alerts"]
STAGES: tuple[Stage, ...] = ("validate", "dns", "scale", "writes", "monitor", "alerts")

#: Seconds an action takes where no earlier failover has measured it.
DEFAULT_SECONDS: dict[str, float] = {
    "claim": 1.0,
    "model": 30.0,
    "index": 60.0,
    "features": 60.0,
    "shift": 5.0,
    "scale": 90.0,
    "writes": 1.0,
    "watch": 5.0,
    "alerts": 2.0,
}
#: The control plane of an adapter that asks nobody.
NO_PLANE = "none"
_ID_LENGTH = 6
_ALL = 100


class Action(BaseModel):
    """One step of a plan.

    Attributes:
        id: unique in the plan, such as ``shift-50``.
        kind: what the engine does for it.
        stage: under which a commander sees it.
        sentence: what it does, in a few words.
        seconds: predicted.
        parameters: all that its effect depends on; part of the plan's id.
        undo: how it is undone; empty when it need not or cannot be.
        no_return: there is no way back to the old site after it, but a failback.
        depends_on: the control planes that must answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: Kind
    stage: Stage
    sentence: str
    seconds: float
    parameters: dict[str, Any] = Field(default_factory=dict)
    undo: str = ""
    no_return: bool = False
    depends_on: tuple[str, ...] = ()


class Plan(BaseModel):
    """What a failover would do, whether it may, how long it takes and what is lost.

    Attributes:
        id: six characters over the actions and the gates' verdicts.
        made: the register's clock when it was made.
        fresh_seconds: how long it may be run.
        epoch: of the register when it was made; running it claims the next.
        source: the active site; ``target`` becomes it; ``names`` are the sites' names.
        source_seen: how the source was seen, in words.
        serving_seconds: predicted until the target serves its first share; ``full`` all of it; ``confirmed`` seen from
            outside.
        rto_seconds: the shortest recovery time of all components.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    service: str
    made: datetime
    fresh_seconds: float
    epoch: int
    source: SiteRole
    target: SiteRole
    names: dict[SiteRole, str]
    source_seen: str
    gates: tuple[Gate, ...]
    actions: tuple[Action, ...]
    serving_seconds: float
    full_seconds: float
    confirmed_seconds: float
    rto_seconds: float

    def action(self, action_id: str) -> Action:
        """Return an action by its id. Raises KeyError."""
        return next(action for action in self.actions if action.id == action_id)

    def is_fresh(self, now: datetime) -> bool:
        """Whether it may still be run, by the register's clock."""
        return (now - self.made).total_seconds() <= self.fresh_seconds


def make_plan(observed: Observed, settings: Settings, *, margin: float = MARGIN_SECONDS) -> Plan:
    """Return the plan for a situation.

    Args:
        observed: both sites, the vault and the register.
        settings: targets, ramp and capacity.
        margin: seconds that the fence waits beyond the longest lease.
    """
    gates = decide(observed, settings, margin=margin)
    actions = tuple(_actions(observed, settings, margin))
    document = {
        "service": observed.service,
        "epoch": observed.state.epoch,
        "source": observed.source,
        "target": observed.target,
        "actions": [[action.id, action.kind, action.stage, action.parameters] for action in actions],
        "gates": [[gate.name, gate.verdict, gate.accept] for gate in gates],
    }
    serving = next((index for index, action in enumerate(actions) if action.kind == "shift"), len(actions) - 1)
    full = next((i for i, a in enumerate(actions) if a.kind == "shift" and a.parameters["share"] == _ALL), serving)
    confirmed = next((i for i, a in enumerate(actions) if a.kind == "watch"), full)
    return Plan(
        id=_digest(document),
        service=observed.service,
        made=observed.now,
        fresh_seconds=settings.limits.plan_fresh.total_seconds(),
        epoch=observed.state.epoch,
        source=observed.source,
        target=observed.target,
        names=observed.names,
        source_seen=_seen(observed),
        gates=gates,
        actions=actions,
        serving_seconds=sum(action.seconds for action in actions[: serving + 1]),
        full_seconds=sum(action.seconds for action in actions[: full + 1]),
        confirmed_seconds=sum(action.seconds for action in actions[: confirmed + 1]),
        rto_seconds=min(component.rto.total_seconds() for component in settings.components.values()),
    )


def _actions(observed: Observed, settings: Settings, margin: float) -> Iterator[Action]:
    """Yield the actions in their safe order.

    The fence counts from the claim, so model and index are caught up while the old leases lapse. The features come
    after it: only then has the old side written its last.
    """
    epoch, target = observed.state.epoch + 1, observed.names[observed.target]
    planes, pinned = observed.control_planes, observed.pinned
    address = settings.traffic.addresses.get(observed.target, "")

    def took(kind: Kind, least: float = 0.0) -> float:
        return max(observed.timings.get(kind, DEFAULT_SECONDS[kind]), least)

    yield Action(
        id="claim", kind="claim", stage="validate", sentence=f"claim epoch {epoch}", seconds=took("claim"),
        parameters={"epoch": epoch}, undo="release the epoch", depends_on=("register", "vault"),
    )  # fmt: skip
    caught_up = 0.0
    if pinned is not None:
        caught_up += took("model")
        yield Action(
            id="model", kind="model", stage="validate", sentence=f"hydrate {pinned.model} {pinned.version}",
            seconds=took("model"), depends_on=("vault",),
            parameters={
                "set": pinned.sequence, "model": pinned.model, "version": pinned.version, "digest": pinned.digest,
            },
        )  # fmt: skip
        if pinned.index:
            caught_up += took("index")
            yield Action(
                id="index", kind="index", stage="validate", sentence=f"rebuild index {pinned.index}",
                seconds=took("index"), depends_on=("vault",),
                parameters={"set": pinned.sequence, "index": pinned.index, "sequence": pinned.index_sequence},
            )  # fmt: skip
    longest = observed.state.longest_lease(observed.source)
    yield Action(
        id="fence", kind="fence", stage="validate",
        sentence="fence: wait for leases" if longest is not None else "fence: NO LEASE IS KNOWN",
        seconds=0.0 if longest is None else max(longest + margin - caught_up, 0.0),
        parameters={"site": observed.source, "lease_seconds": longest}, depends_on=("register",),
    )  # fmt: skip
    if pinned is not None and pinned.view:
        yield Action(
            id="features", kind="features", stage="validate", sentence=f"rebuild {pinned.view}",
            seconds=took("features"), parameters={"set": pinned.sequence, "view": pinned.view}, depends_on=("vault",),
        )  # fmt: skip
    size, running = (observed.group.size, observed.group.running) if observed.group else (0, 0)
    full = settings.capacity.full
    warm, steps = _shares(observed, settings)

    def shift(share: int, before: int, stage: Stage, *, after: bool) -> Action:
        return Action(
            id=f"shift-{share}", kind="shift", stage=stage, seconds=took("shift"), undo="shift back",
            sentence=f"{before} -> {share} %" + (" (warm share)" if not after else ""),
            parameters={"share": share, "address": address, "site": observed.target},
            depends_on=(planes.get("traffic", "DNS"),),
        )  # fmt: skip

    if warm:
        yield shift(warm, 0, "dns", after=False)
    yield Action(
        id="scale", kind="scale", stage="scale", sentence=f"{size} -> {full} instances",
        # An instance that is started now serves when it has loaded the model, and not before.
        seconds=took("scale", least=observed.load_seconds) if size < full or running < full else 1.0,
        parameters={"group": observed.group.name if observed.group else "", "from": size, "to": max(size, full)},
        undo=f"resize to {size}", depends_on=(planes.get("compute", "compute"),),
    )  # fmt: skip
    before = warm
    for share in steps:
        yield shift(share, before, "scale" if warm else "dns", after=True)
        before = share
    yield Action(
        id="writes", kind="writes", stage="writes", sentence=f"{target} may write", seconds=took("writes"),
        no_return=True, parameters={"site": observed.target}, depends_on=("register",),
    )  # fmt: skip
    ttl = observed.routing.ttl if observed.routing else settings.traffic.ttl_max.total_seconds()
    resolvers = len(settings.traffic.resolvers) or 1
    yield Action(
        id="watch", kind="watch", stage="monitor", sentence=f"{resolvers} resolvers, TTL {human_seconds(ttl)}",
        seconds=took("watch", least=ttl), depends_on=("DNS resolvers",),
        parameters={"address": address, "resolvers": list(settings.traffic.resolvers)},
    )  # fmt: skip
    if settings.alerts is not None:
        yield Action(
            id="alerts", kind="alerts", stage="alerts", sentence=f"watch {address}:{settings.traffic.port}",
            seconds=took("alerts"), parameters={"address": address, "port": settings.traffic.port}, undo="point back",
            depends_on=(planes.get("alerts", "monitoring"),),
        )  # fmt: skip


def _shares(observed: Observed, settings: Settings) -> tuple[int, list[int]]:
    """Return the share that warm capacity serves before scaling, and the shares after it, up to all.

    A source that is dead needs no slow ramp: what it still gets is lost.
    """
    running = observed.group.running if observed.group and observed.health[observed.target].answered else 0
    warm = _ALL * min(running, settings.capacity.warm) // settings.capacity.full
    if warm >= _ALL:
        warm = 0
    ramp = settings.traffic.ramp if observed.health[observed.source].answered else ()
    steps = sorted({share for share in ramp if warm < share < _ALL})
    return warm, [*steps, _ALL]


def _seen(observed: Observed) -> str:
    health = observed.health[observed.source]
    if health.answered:
        return f"answers {health.answered} of {health.asked} probes"
    last = observed.last_renewal
    since = f" {human_seconds(max((observed.now - last).total_seconds(), 0))}" if last else ""
    return f"unreachable{since}, {health.asked} of {health.asked} probes"


def _digest(document: Any) -> str:  # noqa: ANN401 - any JSON value
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return base64.b32encode(blake3(canonical).digest()).decode().lower()[:_ID_LENGTH]


def render(plan: Plan) -> str:
    """Return the plan as the terminal and the run page show it."""
    names, lines = plan.names, []
    lines.append(
        f"PLAN {plan.id}  {names[plan.source]} ({plan.source_seen}) -> {names[plan.target]}  "
        f"epoch {plan.epoch} -> {plan.epoch + 1}  good for {human_seconds(plan.fresh_seconds)}"
    )
    stages = list(dict.fromkeys(action.stage for action in plan.actions))
    for number, stage in enumerate(stages, start=1):
        actions = [action for action in plan.actions if action.stage == stage]
        text = "; ".join(action.sentence for action in actions)
        if any(action.no_return for action in actions):
            flag = "  NO RETURN"
        else:
            flag = "  undo" if stage != "validate" and any(action.undo for action in actions) else ""
        lines.append(f" {number} {stage:<9} {text:<72} {human_seconds(sum(a.seconds for a in actions)):>6}{flag}")
    verdict = "" if plan.confirmed_seconds <= plan.rto_seconds else ": OVER TARGET"
    lines.append(
        f"serving {human_seconds(plan.serving_seconds)}, full {human_seconds(plan.full_seconds)}, confirmed "
        f"{human_seconds(plan.confirmed_seconds)} (target {human_seconds(plan.rto_seconds)}){verdict}"
    )
    planes = sorted({plane for action in plan.actions for plane in action.depends_on} - {NO_PLANE})
    lines.append(f"depends on {', '.join(planes)}")
    no = refused(plan.gates)
    for gate in plan.gates:
        mark = {"ok": "ok     ", "note": "note   ", "refused": "REFUSED"}[gate.verdict]
        lines.append(f" {mark} {gate.name}: {gate.sentence}")
    flags = acceptance_flags(no)
    if all(gate.accept for gate in no):
        lines.append(f"next: understudy failover run {plan.id}{' ' if flags else ''}{flags}")
    else:
        lines.append("next: bring right what is REFUSED, then understudy failover plan")
    return "\n".join(lines)


def difference(before: Plan, after: Plan) -> str:
    """Return in a sentence how the situation behind two plans differs; empty when it does not."""
    parts = []
    for noun, old, new in (
        ("epoch", before.epoch, after.epoch),
        ("source", before.names[before.source], after.names[after.source]),
        ("target", before.names[before.target], after.names[after.target]),
    ):
        if old != new:
            parts.append(f"{noun} {old} -> {new}")
    gates = {gate.name: gate for gate in before.gates}
    for gate in after.gates:
        was = gates.pop(gate.name, None)
        if was is None:
            parts.append(f"{gate.name} is new: {gate.sentence}")
        elif (was.verdict, was.accept) != (gate.verdict, gate.accept):
            parts.append(f"{gate.name} {was.verdict} -> {gate.verdict}: {gate.sentence}")
    parts += [f"{name} is gone" for name in gates]
    actions = {action.id: action for action in before.actions}
    for action in after.actions:
        old_action = actions.pop(action.id, None)
        if old_action is None:
            parts.append(f"{action.id} is new: {action.sentence}")
            continue
        for key in sorted({*old_action.parameters, *action.parameters}):
            old_value, new_value = old_action.parameters.get(key), action.parameters.get(key)
            if old_value != new_value:
                parts.append(f"{action.id} {key} {old_value} -> {new_value}")
    parts += [f"{name} is gone" for name in actions]
    return "; ".join(parts)
