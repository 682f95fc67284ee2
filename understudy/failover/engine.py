"""Runs a plan: observes again, claims, and brings about each action once, however often it is killed and resumed.

Each action is: done already? -> journal the intent -> the effect -> read it back -> journal what was seen. The order,
and what is safe when it stops at each stage, stand in docs/adr/0003-failover-order.md.
"""

from __future__ import annotations

import logging
import socket
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from understudy.errors import HeldByAnother, Refused, StoppedPartWay, UnderstudyError
from understudy.failover.commander import Commander
from understudy.failover.decide import NOTHING_ACCEPTED, Acceptances, refused
from understudy.failover.hold import Halted, Hold
from understudy.failover.observe import observe
from understudy.failover.plan import STAGES, Plan, difference, make_plan
from understudy.failover.register import refuse_if_halted
from understudy.failover.steps import STEPS, Pace, Run
from understudy.failover.telling import Teller, silent
from understudy.report import human_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.failover.plan import Action
    from understudy.failover.register import Claim, State
    from understudy.failover.telling import Event
    from understudy.failover.world import World
    from understudy.settings import SiteRole

logger = logging.getLogger("understudy.failover")

PACE = Pace()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a failover did and how long it took.

    Attributes:
        plan: its id.
        epoch: that was claimed.
        target: the site that is now active.
        verdict: done, or nothing (it had been finished before).
        seconds: by the register's clock, from the claim to the end, all resumes included.
        actions: seconds by action id, each from its intent to its read-back.
        stages: their sums by stage.
        serving_seconds: from the start until the target had its first share; ``confirmed_seconds`` until seen from
            outside; both on this machine's clock, None when an earlier run did that.
        seen: what was read back, by action id.
        taken_over_from: who was resumed from, None for a run in one go.
        journal_complete: whether the vault has the whole journal.
    """

    plan: str
    epoch: int
    target: str
    verdict: str
    seconds: float
    actions: dict[str, float] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    serving_seconds: float | None = None
    confirmed_seconds: float | None = None
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)
    taken_over_from: str | None = None
    journal_complete: bool = True

    @property
    def sentence(self) -> str:
        """Say it in a line."""
        if self.verdict == "nothing":
            return f"nothing to do: plan {self.plan} was finished at epoch {self.epoch}, {self.target} is active"
        parts = ", ".join(f"{stage} {human_seconds(seconds)}" for stage, seconds in self.stages.items())
        return f"{self.target} is active at epoch {self.epoch} after {human_seconds(self.seconds)} ({parts})"


def prepare(world: World, *, target: SiteRole) -> Plan:
    """Observe and return the plan toward a site: the dry run. Raises Refused when the register cannot be read."""
    return make_plan(observe(world, target=target), world.settings, margin=world.register.margin)


def run(
    plan: Plan,
    world: World,
    *,
    who: str,
    host: str = "",
    acceptances: Acceptances = NOTHING_ACCEPTED,
    progress: Callable[[Event], None] = silent,
    pace: Pace = PACE,
) -> Outcome:
    """Run a plan, or resume it where it stopped.

    Args:
        plan: as it was shown.
        world: what it acts on.
        who: runs it.
        host: where; this machine's name by default.
        acceptances: of risks, recorded with this run.
        progress: told what happens, best effort.
        pace: time-outs and polling.

    Raises:
        Refused: a gate says no, the situation changed, or the plan is stale; nothing was changed.
        HeldByAnother: another commander holds the epoch.
        StoppedPartWay: after the claim; the same call resumes.
    """
    teller = Teller(progress)
    try:
        return _Engine(plan, world, who=who, host=host or socket.gethostname(), pace=pace, tell=teller).run(acceptances)
    finally:
        teller.close()


class _Engine(Commander):
    """One process's run of a plan."""

    def __init__(self, plan: Plan, world: World, **more: Any) -> None:  # noqa: ANN401 - see Commander
        super().__init__(plan, world, **more)
        self.claiming = self.started
        self.serving: float | None = None
        self.confirmed: float | None = None

    def run(self, acceptances: Acceptances) -> Outcome:
        """Start or resume."""
        try:
            state = self.world.register.read()
        except UnderstudyError as error:
            message = f"the register at {self.world.register.url} cannot be read: {error.message}"
            raise Refused(message, hint="nothing was changed here; bring it back first") from error
        self.journal = self.journal_of(state)
        ours = state.epoch == self.epoch and state.holder is not None and state.holder.plan == self.plan.id
        if ours:
            return self._hold(self._surely(self.take_over), acceptances)
        finished = state.finished or {}
        if state.holder is None and state.epoch == self.epoch and finished.get("plan") == self.plan.id:
            if "aborted" in finished:
                message = f"plan {self.plan.id} was aborted at epoch {self.epoch}: {finished['aborted']}"
                raise Refused(message, hint="make a new plan", next_command="understudy failover plan")
            return Outcome(
                plan=self.plan.id,
                epoch=self.epoch,
                target=self.plan.names[self.plan.target],
                verdict="nothing",
                seconds=0.0,
            )
        self._check(state, acceptances)
        self._begin(acceptances)
        return self._hold(self._surely(self._claim), acceptances)

    # ------------------------------------------------------------------ before anything is changed

    def _check(self, state: State, acceptances: Acceptances) -> None:
        """Observe again; refuse when the plan no longer holds. Raises Refused, HeldByAnother."""
        register, plan = self.world.register, self.plan
        now = register.now()
        refuse_if_halted(state)
        register.refuse_if_held(state, now)
        if not plan.is_fresh(now):
            age = human_seconds((now - plan.made).total_seconds())
            message = f"plan {plan.id} is {age} old, plans are good for {human_seconds(plan.fresh_seconds)}"
            raise Refused(message, hint="make a new one and read it", next_command="understudy failover plan")
        current = make_plan(observe(self.world, target=plan.target), self.world.settings, margin=register.margin)
        if current.id != plan.id:
            message = f"plan {plan.id} no longer holds: {difference(plan, current)}. Nothing was changed"
            raise Refused(message, next_command="understudy failover plan")
        if no := refused(current.gates, acceptances):
            message = "; ".join(gate.sentence for gate in no) + ". Nothing was changed"
            accept = ", ".join(f"--{gate.accept}" for gate in no if gate.accept)
            hint = f"mend it, or take the risk by name: {accept}" if accept else "mend it, then make a new plan"
            raise Refused(message, hint=hint, next_command="understudy failover plan")

    def _begin(self, acceptances: Acceptances) -> None:
        """Journal the intent where it outlives this process. Raises Refused."""
        try:
            self.journal.open()
        except StoppedPartWay as error:
            raise Refused(f"{error.message}, so nothing was changed", hint="bring the vault back") from error
        intent = {
            "plan": self.plan.model_dump(mode="json"),
            "acceptances": acceptances.model_dump(mode="json"),
            "targets": {
                name: {
                    "rto_seconds": component.rto.total_seconds(),
                    "rpo_seconds": component.rpo.total_seconds() if component.rpo else None,
                }
                for name, component in self.world.settings.components.items()
            },
        }
        self.journal.begin("claim", intent)
        self.say("validate", "claim", "began", f"claiming epoch {self.epoch}")
        self.claiming = time.monotonic()

    def _claim(self) -> Claim:
        """Claim the epoch. Raises Refused, HeldByAnother."""
        return self.world.register.claim(
            self.plan.epoch,
            who=self.who,
            host=self.host,
            plan=self.plan.id,
            target=self.plan.target,
            seconds=self.pace.hold_seconds,
        )

    def _surely(self, take: Callable[[], Claim]) -> Claim:
        """Take the epoch, or say that it may be taken: an answer that is lost does not undo the commit before it.

        Raises:
            Refused: it was not taken; HeldByAnother: someone else has it.
            StoppedPartWay: nobody knows here; the same call resumes.
        """
        try:
            return take()
        except (Refused, HeldByAnother):
            raise
        except Exception as error:
            why = error.message if isinstance(error, UnderstudyError) else repr(error)
            self.say("validate", "claim", "stopped", why, seconds=time.monotonic() - self.started)
            message = f"epoch {self.epoch} may be claimed, and then writes are off at both sites: {why}"
            raise StoppedPartWay(
                message,
                hint="the same command resumes, or finds that nothing was claimed",
                next_command=f"understudy failover run {self.plan.id}",
            ) from error

    # ------------------------------------------------------------------ with the epoch held

    def _hold(self, claim: Claim, acceptances: Acceptances) -> Outcome:
        with Hold(self.world.register, claim, seconds=self.pace.hold_seconds) as hold:
            try:
                return self._go(hold, acceptances)
            except HeldByAnother:
                raise
            except UnderstudyError as error:
                if lost := hold.lost():  # woken up late: what it met is what whoever took over did
                    raise lost from error
                self.leave(hold, error.message)
                message = f"stopped at {hold.stage}: {error.message}"
                command = error.next_command if isinstance(error, Halted) else f"understudy failover run {self.plan.id}"
                raise StoppedPartWay(message, hint=error.hint, next_command=command) from error
            except Exception as error:
                self.leave(hold, repr(error))
                message = f"stopped at {hold.stage}: {error}"
                command = f"understudy failover run {self.plan.id}"
                raise StoppedPartWay(message, hint="the same command resumes", next_command=command) from error
            except BaseException:  # Ctrl-C, or a flow that is cancelled
                self.leave(hold, "interrupted")
                raise

    def _go(self, hold: Hold, acceptances: Acceptances) -> Outcome:
        claim, journal = hold.claim, self.journal
        if claim.taken_over_from is not None:
            journal.open()
            acceptances = self._recorded(acceptances, claim.taken_over_from)
            journal.write("takeover", "", {"from": claim.taken_over_from, **_taken(acceptances)}, confirm=hold.own)
            self.say("validate", "", "told", f"resuming what {claim.taken_over_from} left at epoch {claim.epoch}")
        if journal.of("claim", "read_back") is None:
            seen = {"epoch": claim.epoch, "claimed_at": claim.claimed_at.isoformat(), **_taken(acceptances)}
            if claim.taken_over_from is None:
                seen["seconds"] = round(time.monotonic() - self.claiming, 3)
            journal.write("read_back", "claim", seen, confirm=hold.own)
            self.say("validate", "claim", "done", f"epoch {claim.epoch} is held by {claim.holder}")
        context = Run(
            plan=self.plan, world=self.world, hold=hold, acceptances=acceptances, pace=self.pace, tell=lambda _: None
        )
        for action in self.plan.actions:
            if action.kind != "claim":
                hold.at(action.stage)
                self._act(action, context, hold)
        return self._finish(hold)

    def _act(self, action: Action, context: Run, hold: Hold) -> None:
        """Bring one action about, or find it done."""
        journal, step = self.journal, STEPS[action.kind]
        if journal.of(action.id, "read_back") is not None:
            self.say(action.stage, action.id, "already", f"{action.sentence}: done before")
            return
        started = time.monotonic()
        context = Run(
            plan=context.plan,
            world=context.world,
            hold=hold,
            acceptances=context.acceptances,
            pace=context.pace,
            tell=self.teller_about(action.stage, action.id),
        )
        begun = journal.of(action.id, "intent")
        self.say(action.stage, action.id, "began", action.sentence)
        if begun is not None and step.waits_out(context):
            # Whoever began it can have sent its call just before it was killed: let it arrive, then look.
            self.wait_out(context)
        hold.look()
        found = step.done(context, action)
        if found is None:
            if begun is None:
                journal.write("intent", action.id, action.parameters, confirm=hold.own, essential=action.no_return)
            hold.look()
            effect = step.do(context, action)
            journal.write("effect", action.id, effect, confirm=hold.own)
            found = step.read_back(context, action, effect)
        seconds = time.monotonic() - started
        journal.write("read_back", action.id, {**found, "seconds": round(seconds, 3)}, confirm=hold.own)
        elapsed = time.monotonic() - self.started
        if action.kind == "shift" and self.serving is None:
            self.serving = elapsed
        if action.kind == "watch":
            self.confirmed = elapsed
        self.say(action.stage, action.id, "done", action.sentence, seconds=seconds, data=found)

    def _finish(self, hold: Hold) -> Outcome:
        """Let go of the epoch, with the figures of all resumes together."""
        journal, register, plan = self.journal, self.world.register, self.plan
        seen = {e.action: e.data for e in journal.entries if e.kind == "read_back"}
        actions = {a.id: float(seen[a.id]["seconds"]) for a in plan.actions if "seconds" in seen.get(a.id, {})}
        stages: dict[str, float] = {
            stage: round(sum(actions.get(a.id, 0.0) for a in plan.actions if a.stage == stage), 3)
            for stage in STAGES
            if any(a.stage == stage for a in plan.actions)
        }
        holder = hold.claim.holder
        outcome = Outcome(
            plan=plan.id,
            epoch=hold.claim.epoch,
            target=plan.names[plan.target],
            verdict="done",
            seconds=max((register.now() - holder.since).total_seconds(), 0.0),
            actions=actions,
            stages=stages,
            serving_seconds=self.serving,
            confirmed_seconds=self.confirmed,
            seen=seen,
            taken_over_from=hold.claim.taken_over_from,
        )
        if journal.of("", "finished") is None:
            summary = {"seconds": outcome.seconds, "timings": _by_kind(plan, actions), "stages": stages}
            journal.write("finished", "", summary, confirm=hold.own)
        complete = journal.settle()
        register.finish(hold.claim, {"target": plan.target, "seconds": outcome.seconds})
        self.say("alerts", "", "finished", outcome.sentence, seconds=time.monotonic() - self.started)
        return replace(outcome, journal_complete=complete)

    # ------------------------------------------------------------------ how

    def _recorded(self, acceptances: Acceptances, claimer: str) -> Acceptances:
        """What was accepted when this epoch was claimed still holds for it; new acceptances are added."""
        entry = self.journal.of("claim", "read_back")
        if entry is None:  # killed between the claim and its read-back: look for the intent of whoever claimed
            entry = next((e for e in reversed(self.journal.entries) if e.action == "claim" and e.who == claimer), None)
        if entry is None:
            return acceptances
        before = Acceptances.model_validate(entry.data.get("acceptances", {}))
        return Acceptances(
            loss_seconds={**before.loss_seconds, **acceptances.loss_seconds},
            unfenced=acceptances.unfenced or before.unfenced,
            reason=acceptances.reason or before.reason,
        )


def _taken(acceptances: Acceptances) -> dict[str, Any]:
    return {"acceptances": acceptances.model_dump(mode="json")} if acceptances != NOTHING_ACCEPTED else {}


def _by_kind(plan: Plan, actions: dict[str, float]) -> dict[str, float]:
    """Return the mean seconds of each kind of action, for the next plan's predictions."""
    times: dict[str, list[float]] = {}
    for action in plan.actions:
        if action.id in actions:
            times.setdefault(action.kind, []).append(actions[action.id])
    return {kind: round(sum(values) / len(values), 3) for kind, values in times.items()}
