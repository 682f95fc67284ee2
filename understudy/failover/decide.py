"""The gates of a failover: what was observed, judged. Pure: no I/O, and no clock but the one that was observed."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from understudy.report import human_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable

    from understudy.failover.observed import Health, Observed
    from understudy.settings import Settings

Verdict = Literal["ok", "note", "refused"]
_UNFENCED = "accept-unfenced"
_LOSS = "accept-loss"
_DEAD_HOME = "accept-dead-home"


class Gate(BaseModel):
    """One question that a failover must answer with yes.

    Attributes:
        name: such as ``fence`` or ``rpo vector_index``.
        verdict: ok, note (shown, lets pass) or refused.
        sentence: why, with figures.
        accept: how a person may take the risk: ``accept-unfenced``, ``accept-loss COMPONENT``, ``accept-dead-home``, or
            empty: not at all.
        seconds: how much would be lost, where that is the question; ``watermark`` is since when, by the source's clock.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    verdict: Verdict
    sentence: str
    accept: str = ""
    seconds: float | None = None
    watermark: datetime | None = None


class Acceptances(BaseModel):
    """The risks that a person takes for one run, recorded with it and gone after it.

    Attributes:
        loss_seconds: at most so much may be lost, by component.
        unfenced: why the old writers are known to be stopped though nothing proves it.
        dead_home: why an abort gives all traffic to a site that does not answer.
        reason: a ticket or a sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss_seconds: dict[str, float] = Field(default_factory=dict)
    unfenced: str = ""
    dead_home: str = ""
    reason: str = ""

    def covers(self, gate: Gate) -> bool:
        """Whether a refused gate is accepted."""
        if gate.accept == _UNFENCED:
            return bool(self.unfenced)
        if gate.accept == _DEAD_HOME:
            return bool(self.dead_home)
        if gate.accept.startswith(_LOSS) and gate.seconds is not None:
            return gate.seconds <= self.loss_seconds.get(gate.accept.removeprefix(_LOSS).strip(), -1.0)
        return False


NOTHING_ACCEPTED = Acceptances()


def decide(observed: Observed, settings: Settings, *, margin: float) -> tuple[Gate, ...]:
    """Return every gate's verdict, in the order in which people read them.

    Args:
        observed: both sites, the vault and the register.
        settings: targets and limits.
        margin: seconds that the fence waits beyond the longest lease.
    """
    return (
        *_hold(observed),
        _register(observed),
        _source(observed),
        _target(observed),
        _vault(observed),
        *_recovery_points(observed, settings),
        _capacity(observed, settings),
        _traffic(observed, settings),
        *_alerts(observed, settings),
        _fence(observed, margin),
    )


def refused(gates: Iterable[Gate], acceptances: Acceptances = NOTHING_ACCEPTED) -> tuple[Gate, ...]:
    """Return the gates that say no and that nobody has accepted."""
    return tuple(gate for gate in gates if gate.verdict == "refused" and not acceptances.covers(gate))


def acceptance_flags(gates: Iterable[Gate]) -> str:
    """Return what a person would have to add to the command to take every risk that can be taken; may be empty."""
    flags = []
    for gate in gates:
        if gate.verdict == "refused" and gate.accept == _UNFENCED:
            flags.append("--accept-unfenced REASON")
        elif gate.verdict == "refused" and gate.accept.startswith(_LOSS) and gate.seconds is not None:
            component = gate.accept.removeprefix(_LOSS).strip()
            flags.append(f"--accept-loss {component}={_bound_minutes(gate.seconds)}m")
    return " ".join([*flags, "--reason TICKET"]) if flags else ""


def _bound_minutes(seconds: float) -> int:
    """A round bound a little above what is lost now."""
    minutes = seconds / 60 * 1.02
    step = 1 if minutes < 10 else 5 if minutes < 120 else 60
    return math.ceil(minutes / step) * step


def decide_abort(health: Health, *, name: str, back: bool) -> Gate:
    """Return the gate of an abort: the old site must answer, for it serves alone afterwards.

    Args:
        health: of the old site's front door.
        name: of the old site.
        back: whether a share of the traffic is at the other site and would go back.
    """
    answers = f"{name} answers {health.answered} of {health.asked} probes"
    if health.asked and health.answered == health.asked:
        return Gate(name="old site", verdict="ok", sentence=answers)
    moves = "all traffic would go back to a site" if back else "all traffic would stay at a site"
    what = "that is dead" if not health.answered else "that does not answer well"
    sentence = f"{answers} ({health.detail}): {moves} {what}"
    return Gate(name="old site", verdict="refused", sentence=sentence, accept=_DEAD_HOME)


def _hold(observed: Observed) -> list[Gate]:
    halt = observed.state.halt
    return [Gate(name="hold", verdict="refused", sentence=f"failovers are {halt.sentence}")] if halt else []


def _register(observed: Observed) -> Gate:
    state = observed.state
    if state.holder is not None:
        doing = f"undoes plan {state.holder.plan}" if state.holder.aborting else f"with plan {state.holder.plan}"
        sentence = f"{state.holder} holds epoch {state.epoch} {doing}, at {state.holder.stage}"
        return Gate(name="register", verdict="refused", sentence=sentence)
    if state.active == observed.target:
        sentence = f"{observed.names[observed.target]} is active already"
        return Gate(name="register", verdict="refused", sentence=sentence)
    return Gate(name="register", verdict="ok", sentence=f"at epoch {state.epoch}, held by nobody")


def _source(observed: Observed) -> Gate:
    health, name = observed.health[observed.source], observed.names[observed.source]
    if health.answered:
        sentence = f"{name} answers {health.answered} of {health.asked} probes: is this failover meant?"
        return Gate(name="source", verdict="note", sentence=sentence)
    return Gate(name="source", verdict="ok", sentence=f"{name} answers 0 of {health.asked} probes")


def _target(observed: Observed) -> Gate:
    health, name = observed.health[observed.target], observed.names[observed.target]
    if health.answered == health.asked:
        sentence = f"{name} answers {health.answered} of {health.asked} probes"
        return Gate(name="target", verdict="ok", sentence=sentence)
    sentence = (
        f"{name} answers {health.answered} of {health.asked} probes ({health.detail}); it gets no traffic until it does"
    )
    return Gate(name="target", verdict="note", sentence=sentence)


def _vault(observed: Observed) -> Gate:
    if problem := observed.problems.get("vault"):
        return Gate(name="vault", verdict="refused", sentence=problem)
    pinned = observed.pinned
    if pinned is None:
        return Gate(
            name="vault", verdict="refused", sentence="the vault holds no set: nothing complete was replicated yet"
        )
    if pinned.missing:
        sentence = f"set {pinned.sequence} is not complete: {', '.join(pinned.missing)} missing"
        return Gate(name="vault", verdict="refused", sentence=sentence)
    held = f"; {'; '.join(pinned.held)}" if pinned.held else ""
    sentence = f"set {pinned.sequence} is complete: {pinned.model} {pinned.version}{held}"
    return Gate(name="vault", verdict="ok", sentence=sentence)


def _recovery_points(observed: Observed, settings: Settings) -> list[Gate]:
    gates = []
    for name, component in sorted(settings.components.items()):
        if component.rpo is None:
            continue
        pairs = [copied for copied in observed.copied if copied.component == name]
        empty = [copied.pair for copied in pairs if copied.watermark is None]
        if empty:
            sentence = f"nothing of {', '.join(empty)} is in the vault"
            gates.append(Gate(name=f"rpo {name}", verdict="refused", sentence=sentence))
            continue
        marks = [copied.watermark for copied in pairs if copied.watermark is not None]
        if not marks:
            continue
        lost = max(observed.last_write - min(marks), timedelta(0)).total_seconds()
        target = component.rpo.total_seconds()
        figures = f"loses {human_seconds(lost)} of {name}"
        if lost > target:
            sentence = f"{figures}: OVER TARGET {human_seconds(target)}"
            gates.append(
                Gate(
                    name=f"rpo {name}",
                    verdict="refused",
                    sentence=sentence,
                    accept=f"{_LOSS} {name}",
                    seconds=lost,
                    watermark=min(marks),
                )
            )
        else:
            sentence = f"{figures} (target {human_seconds(target)})"
            gates.append(Gate(name=f"rpo {name}", verdict="ok", sentence=sentence, seconds=lost, watermark=min(marks)))
    return gates


def _capacity(observed: Observed, settings: Settings) -> Gate:
    wanted = settings.capacity
    if observed.group is None:
        sentence = observed.problems.get("compute", "the instances cannot be read")
        return Gate(name="capacity", verdict="refused", sentence=sentence)
    group = observed.group
    sentence = f"{group.running} of {wanted.warm} warm instances run in {group.name}, {wanted.full} are to serve"
    return Gate(name="capacity", verdict="ok" if group.running >= wanted.warm else "note", sentence=sentence)


def _traffic(observed: Observed, settings: Settings) -> Gate:
    routing = observed.routing
    if routing is None:
        return Gate(
            name="traffic", verdict="refused", sentence=observed.problems.get("traffic", "the records cannot be read")
        )
    address = settings.traffic.addresses.get(observed.target)
    way = routing.ways.get(observed.target)
    if way is None or way.address != address:
        sentence = f"{routing.name} has no record for {observed.names[observed.target]} at {address}"
        return Gate(name="traffic", verdict="refused", sentence=sentence)
    longest = settings.traffic.ttl_max.total_seconds()
    if routing.ttl > longest:
        sentence = (
            f"{routing.name} may be remembered for {human_seconds(routing.ttl)}, longer than {human_seconds(longest)}"
        )
        return Gate(name="traffic", verdict="note", sentence=sentence)
    return Gate(name="traffic", verdict="ok", sentence=f"{routing.name}: {routing}, TTL {human_seconds(routing.ttl)}")


def _alerts(observed: Observed, settings: Settings) -> list[Gate]:
    if settings.alerts is None:
        return []
    if observed.watched is None:
        sentence = f"{observed.problems.get('alerts', 'the alerts cannot be read')}; they would be re-pointed by hand"
        return [Gate(name="alerts", verdict="note", sentence=sentence)]
    return [Gate(name="alerts", verdict="ok", sentence=f"watching {observed.watched.address}:{observed.watched.port}")]


def _fence(observed: Observed, margin: float) -> Gate:
    leases = observed.state.leases_of(observed.source)
    longest = observed.state.longest_lease(observed.source)
    if longest is None:
        sentence = (
            f"no writer of {observed.names[observed.source]} is known by a lease: that a site does not answer "
            "does not prove that it does not write"
        )
        return Gate(name="fence", verdict="refused", sentence=sentence, accept=_UNFENCED)
    proof = human_seconds(longest + margin)
    sentence = f"{len(leases)} writers hold leases of at most {human_seconds(longest)}: proof {proof} after the claim"
    return Gate(name="fence", verdict="ok", sentence=sentence)
