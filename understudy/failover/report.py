"""What a failover did, beside what was meant: read from its journal, which holds the plan, and from the register.

Needs neither the old site nor Prefect. The vault or the register may be gone too, as long as one of them answers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from understudy.errors import NotFound, UnderstudyError
from understudy.failover.decide import NOTHING_ACCEPTED, Acceptances
from understudy.failover.journal import PREFIX, Entry, Journal, read_journal
from understudy.failover.plan import Plan
from understudy.report import human_seconds
from understudy.vault.store import Vault

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from understudy.failover.decide import Gate
    from understudy.failover.register import Register, State
    from understudy.settings import Settings

FORMAT_VERSION = 1
_COMPONENT_OF = {"model": "training", "index": "vector_index", "features": "feature_store"}
_INCIDENTS = ("takeover", "stopped", "hold", "release", "aborted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the timeline.

    Attributes:
        at: the register's clock to about a second, else the clock of the machine that wrote it; ISO 8601.
        sure: whether it is the register's.
        who: a person at a machine.
        what: in words.
    """

    at: str
    sure: bool
    who: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLine:
    """One action of the plan: seconds predicted, and achieved (None: not done)."""

    id: str
    stage: str
    sentence: str
    predicted_seconds: float
    achieved_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetLine:
    """One component's targets and what was achieved.

    Attributes:
        rto_seconds: the target; ``recovered_seconds`` is what was achieved, None when it was not recovered.
        rpo_seconds: the target, None for a component without data; ``lost_seconds`` is at most what was lost.
        watermark: before this moment on the source's clock nothing was lost; empty when it is not known.
        last_write: after this moment, by the register's clock, the old site can have accepted nothing.
        rto_verdict, rpo_verdict: met, MISSED, none (no target), not achieved, or not judged (aborted).
    """

    component: str
    rto_seconds: float
    recovered_seconds: float | None
    rto_verdict: str
    rpo_seconds: float | None
    lost_seconds: float | None
    rpo_verdict: str
    watermark: str = ""
    last_write: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverReport:
    """All that is known of one epoch's failover; see ``as_json`` for its documented form.

    Attributes:
        verdict: done, aborted, running, left part way, or unknown (the register cannot be read).
        counted_from: the moment from which recovery is counted; ``counted_why`` says why that one.
        moments: when it was claimed, serving (first share), full, writing, confirmed, ended.
        fence: sentences that say what proves that the old writers had stopped.
        acceptances: sentences; risks that people took by name.
        incidents: takeovers, stops, holds, releases, aborts.
        problems: what could not be read for this report.
        remains: what is still to be done, in words.
    """

    service: str
    epoch: int
    plan: str
    source: str
    target: str
    verdict: str
    who: str
    sentence: str
    counted_from: str
    counted_why: str
    moments: dict[str, str] = field(default_factory=dict)
    targets: tuple[TargetLine, ...] = ()
    steps: tuple[StepLine, ...] = ()
    fence: tuple[str, ...] = ()
    acceptances: tuple[str, ...] = ()
    incidents: tuple[Line, ...] = ()
    timeline: tuple[Line, ...] = ()
    problems: tuple[str, ...] = ()
    remains: tuple[str, ...] = ()
    next_command: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values; ``format`` grows when a field changes its meaning or goes."""
        values = asdict(self)
        following = values.pop("next_command")
        return {"format": FORMAT_VERSION, **values, "next": following}


def read_report(
    register: Register, vault: Vault, settings: Settings, *, epoch: int | None = None, directory: Path | None = None
) -> FailoverReport:
    """Return the report of an epoch (None: the newest that was claimed).

    Args:
        register: of the service; may be gone.
        vault: with the journal; may be gone, then the copy beside the register is read.
        settings: for the targets, where an older journal does not hold them.
        epoch: that a failover claimed.
        directory: of the journal's copy on the local disk.

    Raises:
        NotFound: no failover claimed that epoch, or none at all.
        StoppedPartWay: no copy of the journal can be read.
    """
    problems: list[str] = []
    state: State | None = None
    try:
        state = register.read()
    except UnderstudyError as error:
        problems.append(f"the register cannot be read: {error.message}")
    second = Vault(register.store)
    if epoch is not None:
        epochs = [epoch]
    else:
        epochs = sorted({*_epochs(vault, problems), *(_epochs(second, []) if state else [])}, reverse=True)
    for each in epochs:
        entries = _entries(vault, second, each, state, directory)
        if any(entry.action == "claim" for entry in entries):
            return make_report(entries, state, settings, alive=_is_alive(register, state), problems=problems)
    if epoch is None:
        raise NotFound("no failover has been run yet, so there is nothing to report", hint="; ".join(problems))
    message = f"no failover claimed epoch {epoch}"
    raise NotFound(message, hint="without EPOCH the newest is reported", next_command="understudy report")


def _epochs(vault: Vault, problems: list[str]) -> list[int]:
    try:
        return vault.sequences(PREFIX)
    except UnderstudyError as error:
        problems.append(f"the vault cannot be read: {error.message}")
        return []


def _entries(vault: Vault, second: Vault, epoch: int, state: State | None, directory: Path | None) -> list[Entry]:
    if state is not None:
        journal = Journal(
            vault, second, epoch=epoch, who="", plan="", register=state.id, directory=directory, service=state.service
        )
        return journal.open().entries
    entries = read_journal(vault, epoch)
    return [entry for entry in entries if entry.register == entries[-1].register]


def _is_alive(register: Register, state: State | None) -> bool:
    if state is None or state.holder is None:
        return False
    try:
        return register.now() < register.hold_expires(state.holder)
    except UnderstudyError:
        return False


# ---------------------------------------------------------------------- from entries to a report; no I/O


def make_report(
    entries: list[Entry], state: State | None, settings: Settings, *, alive: bool = False, problems: Iterable[str] = ()
) -> FailoverReport:
    """Return the report of a journal's entries. Pure.

    Args:
        entries: of one epoch under one register, in order; one of them begins its claim.
        state: the register now; None when it cannot be read.
        settings: for the targets, where the journal does not hold them.
        alive: whoever holds the epoch gave a sign of life lately.
        problems: what could not be read.
    """
    held = _last(entries, "read_back", "claim")
    begun = [entry for entry in entries if entry.kind == "intent" and entry.action == "claim"]
    winner = held.plan if held else begun[-1].plan
    intent = next((entry for entry in reversed(begun) if entry.plan == winner), begun[-1])
    plan = Plan.model_validate(intent.data["plan"])
    own = [entry for entry in entries if entry.plan in (winner, "")]
    seen = {entry.action: entry for entry in own if entry.kind == "read_back"}
    moments = _moments(plan, own, seen)
    counted_from, counted_why = _counted_from(plan, seen, moments)
    verdict = _verdict(own, state, epoch=intent.epoch, alive=alive)
    meant = intent.data.get("targets") or _targets_of(settings)
    targets = _targets(
        plan,
        meant,
        seen,
        recovered=_between(counted_from, moments.get("confirmed")),
        last_write=_last_write(seen, moments),
        aborted=verdict == "aborted",
    )
    remains, following = _remains(plan, state, verdict=verdict)
    return FailoverReport(
        service=plan.service,
        epoch=intent.epoch,
        plan=plan.id,
        source=plan.names[plan.source],
        target=plan.names[plan.target],
        verdict=verdict,
        who=intent.who,
        sentence=_sentence(plan, intent.epoch, verdict, own, targets),
        counted_from=counted_from.isoformat() if counted_from else "",
        counted_why=counted_why,
        moments={name: moment.isoformat(timespec="seconds") for name, moment in moments.items()},
        targets=targets,
        steps=tuple(_steps(plan, seen)),
        fence=tuple(_fence(plan, seen)),
        acceptances=tuple(_acceptance_lines(_accepted(own))),
        incidents=tuple(_line(entry, plan) for entry in own if entry.kind in _INCIDENTS),
        timeline=tuple(_line(entry, plan) for entry in own if entry.kind != "effect"),
        problems=tuple(problems),
        remains=remains,
        next_command=following,
    )


def _last(entries: list[Entry], kind: str, action: str) -> Entry | None:
    return next((e for e in reversed(entries) if e.kind == kind and e.action == action), None)


def _moment(entry: Entry) -> datetime:
    return datetime.fromisoformat(entry.clock or entry.time)


def _moments(plan: Plan, entries: list[Entry], seen: dict[str, Entry]) -> dict[str, datetime]:
    """Return when what happened, by the register's clock where it is known."""
    found: dict[str, datetime] = {}
    claim = seen.get("claim")
    if claim is not None:
        found["claimed"] = datetime.fromisoformat(claim.data["claimed_at"])
    shifts = [seen[a.id] for a in plan.actions if a.kind == "shift" and a.id in seen]
    if shifts:
        found["serving"] = _moment(shifts[0])
    for name, action in (("full", "shift-100"), ("writing", "writes"), ("confirmed", "watch")):
        if action in seen:
            found[name] = _moment(seen[action])
    ended = next((entry for entry in reversed(entries) if entry.kind in ("finished", "aborted")), None)
    if ended is not None:
        found["ended"] = _moment(ended)
    return found


def _leases(seen: dict[str, Entry]) -> list[tuple[datetime, float]]:
    """Return (last renewal, seconds) of each lease that the fence waited for."""
    fence = seen.get("fence")
    leases = fence.data.get("leases", {}) if fence else {}
    return [(datetime.fromisoformat(lease["renewed"]), float(lease["seconds"])) for lease in leases.values()]


def _counted_from(plan: Plan, seen: dict[str, Entry], moments: dict[str, datetime]) -> tuple[datetime | None, str]:
    """Return from when recovery is counted, and why."""
    claimed, leases = moments.get("claimed"), _leases(seen)
    name = plan.names[plan.source]
    dead = any(gate.name == "source" and gate.verdict == "ok" for gate in plan.gates)
    if not dead:
        return claimed, f"the claim: {name} still answered when the plan was made"
    if leases:
        return max(renewed for renewed, _ in leases), f"the last renewal of a lease at {name}, its last sign of life"
    return claimed, f"the claim: no lease says when {name} was last alive, so the outage was longer than this"


def _verdict(entries: list[Entry], state: State | None, *, epoch: int, alive: bool) -> str:
    if any(entry.kind == "aborted" for entry in entries) and not _holds(state, epoch):
        return "aborted"
    if any(entry.kind == "finished" for entry in entries) and not _holds(state, epoch):
        return "done"
    if _holds(state, epoch):
        return "running" if alive else "left part way"
    finished = (state.finished or {}) if state else {}
    if finished.get("epoch") == epoch:
        return "aborted" if "aborted" in finished else "done"
    return "unknown" if state is None else "left part way"


def _holds(state: State | None, epoch: int) -> bool:
    return state is not None and state.holder is not None and state.epoch == epoch


def _accepted(entries: list[Entry]) -> list[tuple[Entry, Acceptances]]:
    """Return what was accepted, each with the entry that recorded it, once."""
    found: list[tuple[Entry, Acceptances]] = []
    for entry in entries:
        if entry.data.get("acceptances"):
            acceptances = Acceptances.model_validate(entry.data["acceptances"])
            if acceptances != NOTHING_ACCEPTED and all(acceptances != other for _, other in found):
                found.append((entry, acceptances))
    return found


def _acceptance_lines(accepted: list[tuple[Entry, Acceptances]]) -> list[str]:
    lines = []
    for entry, taken in accepted:
        reason = f" ({taken.reason})" if taken.reason else ""
        lines += [
            f"{entry.who} accepted to lose up to {human_seconds(seconds)} of {component}{reason}"
            for component, seconds in taken.loss_seconds.items()
        ]
        if taken.unfenced:
            lines.append(f"{entry.who} answered for the old writers being stopped: {taken.unfenced}{reason}")
        if taken.dead_home:
            lines.append(f"{entry.who} gave the traffic back to a site that did not answer: {taken.dead_home}{reason}")
        if taken.reason and not (taken.loss_seconds or taken.unfenced or taken.dead_home):
            lines.append(f"{entry.who} gave the reason: {taken.reason}")
    return lines


def _fence(plan: Plan, seen: dict[str, Entry]) -> list[str]:
    fence = seen.get("fence")
    name = plan.names[plan.source]
    if fence is None:
        return [f"none was made: nothing proves that the writers of {name} had stopped, and writes were not enabled"]
    data = fence.data
    if data.get("by") != "leases":
        return [f"no lease was known; a person answered for it: {data.get('reason', '')}"]
    waited, needed, margin = data["waited_seconds"], data["needed_seconds"], data["margin_seconds"]
    lapsed = f"every lease of {name} had lapsed: {waited:g}s after the claim, {needed:g}s were needed"
    lines = [f"{lapsed} ({margin:g}s of them margin)"]
    for writer, lease in data.get("leases", {}).items():
        renewed = datetime.fromisoformat(lease["renewed"])
        lines.append(f"{writer}: renewed {renewed:%H:%M:%S}Z for {lease['seconds']:g}s")
    return lines


def _steps(plan: Plan, seen: dict[str, Entry]) -> list[StepLine]:
    return [
        StepLine(
            id=action.id,
            stage=action.stage,
            sentence=action.sentence,
            predicted_seconds=round(action.seconds, 3),
            achieved_seconds=seen[action.id].data.get("seconds") if action.id in seen else None,
        )
        for action in plan.actions
    ]


def _targets_of(settings: Settings) -> dict[str, dict[str, float | None]]:
    """Return the targets of the config, for a journal that does not hold those of its time."""
    return {
        name: {
            "rto_seconds": component.rto.total_seconds(),
            "rpo_seconds": component.rpo.total_seconds() if component.rpo else None,
        }
        for name, component in settings.components.items()
    }


def _targets(
    plan: Plan,
    meant: dict[str, dict[str, Any]],
    seen: dict[str, Entry],
    *,
    recovered: float | None,
    last_write: datetime | None,
    aborted: bool,
) -> tuple[TargetLine, ...]:
    gates = {gate.name: gate for gate in plan.gates}
    lines = []
    for name, target in meant.items():
        gate = gates.get(f"rpo {name}")
        watermark = _watermark(name, gate, seen)
        lost = _lost(gate, watermark, last_write)
        lines.append(
            TargetLine(
                component=name,
                rto_seconds=target["rto_seconds"],
                recovered_seconds=None if aborted else recovered,
                rto_verdict="not judged" if aborted else _judged(recovered, target["rto_seconds"]),
                rpo_seconds=target["rpo_seconds"],
                lost_seconds=None if aborted else lost,
                rpo_verdict="not judged" if aborted else _judged(lost, target["rpo_seconds"]),
                watermark=watermark.isoformat() if watermark else "",
                last_write=last_write.isoformat() if last_write else "",
            )
        )
    return tuple(lines)


def _between(start: datetime | None, end: datetime | None) -> float | None:
    return round((end - start).total_seconds(), 3) if start and end else None


def _judged(achieved: float | None, target: float | None) -> str:
    if target is None:
        return "none"
    if achieved is None:
        return "not achieved"
    return "met" if achieved <= target else "MISSED"


def _last_write(seen: dict[str, Entry], moments: dict[str, datetime]) -> datetime | None:
    """Return the last moment at which the old site can have accepted a write."""
    leases = _leases(seen)
    if leases:
        return max(renewed + timedelta(seconds=seconds) for renewed, seconds in leases)
    return moments.get("claimed")


def _watermark(component: str, gate: Gate | None, seen: dict[str, Entry]) -> datetime | None:
    """Return up to when a component was restored: what the plan saw, or later when the catch-up brought more."""
    found = [gate.watermark] if gate and gate.watermark else []
    for action, name in _COMPONENT_OF.items():
        if name == component and action in seen:
            marks = [report["watermark"] for report in seen[action].data.get("reports", []) if report.get("watermark")]
            found += [min(datetime.fromisoformat(mark) for mark in marks)] if marks else []
    return max(found, default=None)


def _lost(gate: Gate | None, watermark: datetime | None, last_write: datetime | None) -> float | None:
    if watermark is not None and last_write is not None:
        return max((last_write - watermark).total_seconds(), 0.0)
    return gate.seconds if gate else None


def _sentence(plan: Plan, epoch: int, verdict: str, entries: list[Entry], targets: tuple[TargetLine, ...]) -> str:
    source, target = plan.names[plan.source], plan.names[plan.target]
    if verdict == "done":
        missed = [line.component for line in targets if "MISSED" in (line.rto_verdict, line.rpo_verdict)]
        judged = f"missed: {', '.join(missed)}" if missed else "all targets met"
        return f"failed over from {source} to {target} at epoch {epoch}; {judged}"
    if verdict == "aborted":
        reason = next((e.data.get("reason", "") for e in reversed(entries) if e.kind == "aborted"), "")
        return f"the failover from {source} to {target} at epoch {epoch} was aborted: {reason}"
    if verdict == "running":
        return f"a failover from {source} to {target} holds epoch {epoch}"
    if verdict == "left part way":
        return f"the failover from {source} to {target} was left part way at epoch {epoch}"
    return f"a failover from {source} to {target} claimed epoch {epoch}; without the register its end is not known"


def _remains(plan: Plan, state: State | None, *, verdict: str) -> tuple[tuple[str, ...], str]:
    """Return what is still to be done, and the next command."""
    source, target = plan.names[plan.source], plan.names[plan.target]
    holder = state.holder if state else None
    sentence, following = "", "understudy status"
    if verdict == "running":
        following = "understudy failover status"
    elif verdict == "aborted":
        sentence, following = f"{source} is active; nothing was lost by this failover", "understudy failover plan"
    elif verdict == "done" and state is not None and state.active == "away":
        sentence = f"{target} runs UNPROTECTED: nothing is copied until {source} is rebuilt; failback is not built yet"
    elif holder is not None and state is not None:
        following = holder.way_on
        if holder.aborting:
            sentence = f"the abort was left part way: writes are off at {source} until it ends"
        elif state.active == plan.target:
            sentence = f"{target} serves and writes; what is left is to confirm it"
        else:
            sentence = "writes are off at both sites: go on, or back with understudy failover abort"
    return (sentence,) if sentence else (), following


def _line(entry: Entry, plan: Plan) -> Line:
    moment = _moment(entry)
    return Line(
        at=moment.isoformat(timespec="seconds"), sure=bool(entry.clock), who=entry.who, what=_words(entry, plan)
    )


def _words(entry: Entry, plan: Plan) -> str:
    data = entry.data
    action = next((each.sentence for each in plan.actions if each.id == entry.action), entry.action)
    took = f" ({human_seconds(float(data['seconds']))})" if "seconds" in data else ""
    undoing = f" to undo it: {data['aborting']}" if data.get("aborting") else ""
    words = {
        "intent": f"begins: {action}",
        "read_back": f"done: {action}{took}",
        "takeover": f"takes over from {data.get('from')}{undoing}",
        "stopped": f"stops at {data.get('stage')}: {data.get('why')}",
        "hold": f"puts failovers on hold: {data.get('reason')}",
        "release": f"lifts the hold of {data.get('held_by')}: {data.get('reason')}",
        "aborted": f"aborted: {data.get('reason')}",
        "finished": "finished",
    }
    return words.get(entry.kind, f"{entry.kind} {action}".strip())
