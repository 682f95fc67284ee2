"""Undoes a failover before its point of no return: traffic back, the group's size back, then the epoch is let go.

It takes the epoch over like whoever resumes, and marks it in the same compare-and-set: from then on that plan cannot
go forward. Each undo is journalled like an action, and the same call resumes an abort that was killed. What is safe
when it stops stands in docs/adr/0005-hold-release-abort.md.
"""

from __future__ import annotations

import logging
import socket
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from understudy.errors import Corrupt, HeldByAnother, NotFound, Refused, StoppedPartWay, UnderstudyError
from understudy.failover.commander import Commander
from understudy.failover.decide import NOTHING_ACCEPTED, Acceptances, Gate, decide_abort, refused
from understudy.failover.engine import PACE
from understudy.failover.hold import Halted, Hold
from understudy.failover.journal import Journal
from understudy.failover.orders import reason_of
from understudy.failover.plan import Action, Plan
from understudy.failover.plans import FAILBACK, load_plan
from understudy.failover.register import refuse_after_no_return
from understudy.failover.steps import UNDO_STEPS, Run
from understudy.failover.telling import Teller, silent
from understudy.report import human_seconds
from understudy.vault.store import Vault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from understudy.failover.journal import Entry
    from understudy.failover.register import Claim, Holder, Register, State
    from understudy.failover.steps import Pace
    from understudy.failover.telling import Event
    from understudy.failover.world import World

logger = logging.getLogger("understudy.failover")

COMMAND = "understudy failover abort"


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortOutcome:
    """What an abort did.

    Attributes:
        plan: that was undone.
        epoch: that was let go; the old writers renew at it.
        source: name of the site that is active, as before.
        verdict: aborted, or nothing (it had been aborted before).
        reason: why.
        seconds: of this call.
        undone: seconds by undo, such as ``undo-traffic``; empty when nothing had been changed but the register.
        left: what was not undone, a sentence each.
        hold: the hold that still stands, in words; empty when there is none.
        journal_complete: whether the vault has the whole journal.
    """

    plan: str
    epoch: int
    source: str
    verdict: str
    reason: str
    seconds: float = 0.0
    undone: dict[str, float] = field(default_factory=dict)
    left: tuple[str, ...] = ()
    hold: str = ""
    journal_complete: bool = True

    @property
    def sentence(self) -> str:
        """Say it in a line."""
        if self.verdict == "nothing":
            return f"nothing to do: plan {self.plan} was aborted at epoch {self.epoch}: {self.reason}"
        parts = ", ".join(f"{name} {human_seconds(seconds)}" for name, seconds in self.undone.items())
        did = f" ({parts})" if parts else ""
        left = "".join(f"; {each}" for each in self.left)
        hold = f". Failovers stay {self.hold}" if self.hold else ""
        return (
            f"plan {self.plan} is aborted after {human_seconds(self.seconds)}{did}: {self.source} is active, and its "
            f"writers renew at epoch {self.epoch}{left}{hold}"
        )

    @property
    def next_command(self) -> str:
        """What to do after it."""
        return "understudy failover release" if self.hold else "understudy failover plan"

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**asdict(self), "next": self.next_command}


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortPlan:
    """What an abort would do now: shown before anybody says yes.

    Attributes:
        plan: that would be undone.
        holder: who holds its epoch.
        undo: the actions, in their order.
        gate: whether the old site can serve again.
        recorded: what was accepted when this abort was begun before.
        halt: the hold that stands, in words.
    """

    plan: Plan
    holder: Holder
    undo: tuple[Action, ...]
    gate: Gate
    recorded: Acceptances
    halt: str = ""

    def render(self) -> str:
        """Return it as the terminal shows it."""
        names, gate = self.plan.names, self.gate
        lines = [f"ABORT {self.plan.id}  epoch {self.plan.epoch + 1}: {names[self.plan.source]} stays active"]
        for number, action in enumerate(self.undo, start=1):
            lines.append(f" {number} undo      {action.sentence}")
        lines.append(f" {len(self.undo) + 1} release   writers of {names[self.plan.source]} renew")
        lines.append(f" {'ok     ' if gate.verdict == 'ok' else 'REFUSED'} {gate.name}: {gate.sentence}")
        if self.halt:
            lines.append(f" note    {self.halt}; an abort may be run all the same, the hold stays after it")
        return "\n".join(lines)


def plan_left(register: Register, vault: Vault) -> Plan | None:
    """Return the plan that holds the epoch and may be aborted, from beside the register, else from the journal.

    None when no failover is under way, so that there is nothing to abort.

    Raises:
        Refused: nobody holds the epoch and the last failover was finished; or it has passed its point of no return.
        Unreachable: the register does not answer.
    """
    state = register.read()
    refuse_after_no_return(state)
    finished = state.finished or {}
    if state.holder is None and finished.get("epoch") != state.epoch:
        return None
    if state.holder is None and "aborted" not in finished:
        message = f"plan {finished['plan']} was finished at epoch {state.epoch}: the {state.active} site is active"
        raise Refused(message, hint=FAILBACK, next_command="understudy status")
    plan_id = state.holder.plan if state.holder else str(finished["plan"])
    try:
        return load_plan(register.store, plan_id)
    except (NotFound, Corrupt):
        journal = Journal(vault, Vault(register.store), epoch=state.epoch, who="", plan="", register=state.id).open()
        claimed = [e for e in journal.entries if e.action == "claim" and e.kind == "intent" and e.plan == plan_id]
        if not claimed:
            raise
        return Plan.model_validate(claimed[-1].data["plan"])


def prepare_abort(plan: Plan, world: World) -> AbortPlan | None:
    """Look at what an abort would do; None when the plan has been aborted already. Changes nothing.

    Raises:
        Refused: nobody holds the epoch, another plan does, it has passed its point of no return, or the journal cannot
            be read.
    """
    try:
        state = world.register.read()
    except UnderstudyError as error:
        message = f"the register at {world.register.url} cannot be read: {error.message}"
        raise Refused(message, hint="nothing was changed; bring it back first") from error
    finished = state.finished or {}
    if state.holder is None and finished.get("plan") == plan.id and "aborted" in finished:
        return None
    return _Abort(plan, world, who="", host="", pace=PACE, tell=silent).look(state)


def abort(
    plan: Plan,
    world: World,
    *,
    who: str,
    reason: str = "",
    host: str = "",
    acceptances: Acceptances = NOTHING_ACCEPTED,
    leave_capacity: bool = False,
    progress: Callable[[Event], None] = silent,
    pace: Pace = PACE,
) -> AbortOutcome:
    """Undo a failover, or resume an abort where it stopped.

    Args:
        plan: that holds the epoch, see ``plan_left``.
        world: what it acts on.
        who: aborts it.
        reason: why; may be empty when an abort that was left part way is resumed.
        host: where; this machine's name by default.
        acceptances: ``dead_home`` gives the traffic back to a site that does not answer.
        leave_capacity: do not bring the group's size back; it can be done by hand, and costs money until then.
        progress: told what happens, best effort.
        pace: time-outs and polling.

    Raises:
        Refused: nobody holds the epoch, or another plan; the point of no return has passed; the old site does not
            answer and nobody accepts that; nothing was changed.
        HeldByAnother: whoever holds the epoch lives.
        StoppedPartWay: after the epoch was taken over; the same call resumes.
        Unsupported: no reason.
    """
    teller = Teller(progress)
    try:
        work = _Abort(plan, world, who=who, host=host or socket.gethostname(), pace=pace, tell=teller)
        return work.run(reason, acceptances, leave_capacity=leave_capacity)
    finally:
        teller.close()


class _Abort(Commander):
    """One process's abort of a plan."""

    def look(self, state: State) -> AbortPlan:
        """Return what would be done. Raises Refused, StoppedPartWay."""
        register = self.world.register
        holder = state.holder
        if holder is None or state.epoch != self.epoch:
            message = (
                f"nobody holds epoch {self.epoch} with plan {self.plan.id}; the register is at epoch {state.epoch}"
            )
            raise Refused(message, next_command="understudy failover status")
        refuse_after_no_return(state)
        if holder.plan != self.plan.id:
            register.refuse_if_held(state, register.now())
        try:
            self.journal = self.journal_of(state).open()
        except StoppedPartWay as error:
            raise Refused(f"{error.message}, so nothing was changed", hint=error.hint) from error
        moved, problem = self._moved()
        health = self.world.outside.health(self.world.settings.traffic.addresses[self.plan.source])
        return AbortPlan(
            plan=self.plan,
            holder=holder,
            undo=tuple(undo_actions(self.plan, self.journal.entries, moved=moved)),
            gate=decide_abort(health, name=self.plan.names[self.plan.source], back=moved and not problem),
            recorded=self._recorded(),
            halt=f"failovers are {state.halt.sentence}" if state.halt else "",
        )

    def run(self, reason: str, acceptances: Acceptances, *, leave_capacity: bool) -> AbortOutcome:
        """Start or resume."""
        try:
            state = self.world.register.read()
        except UnderstudyError as error:
            message = f"the register at {self.world.register.url} cannot be read: {error.message}"
            raise Refused(message, hint="nothing was changed here; bring it back first") from error
        if done := self._done(state):
            return done
        seen = self.look(state)
        taken = acceptances.model_copy(update={"dead_home": acceptances.dead_home or seen.recorded.dead_home})
        if refused([seen.gate], taken):
            hint = "a failover goes on where this one stopped; or take the risk by name: --accept-dead-home REASON"
            message = f"{seen.gate.sentence}. Nothing was changed"
            raise Refused(message, hint=hint, next_command=seen.holder.way_on)
        why = reason_of(reason or seen.holder.aborting)
        try:
            claim = self._take(why)
        except HeldByAnother as error:
            if done := self._done(self.world.register.read()):  # the other one ended it while this one waited
                return done
            hint = "understudy failover hold --reason TEXT stops it before its next effect; then abort"
            raise HeldByAnother(error.message, hint=hint, next_command=error.next_command) from error
        with Hold(
            self.world.register, claim, seconds=self.pace.hold_seconds, stage="abort", despite=state.halt
        ) as hold:
            return self._held(hold, why, taken, leave_capacity=leave_capacity)

    def _held(self, hold: Hold, why: str, taken: Acceptances, *, leave_capacity: bool) -> AbortOutcome:
        """Undo with the epoch held; leave in order when that fails."""
        try:
            return self._go(hold, why, taken, leave_capacity=leave_capacity)
        except HeldByAnother:
            raise
        except UnderstudyError as error:
            if lost := hold.lost():
                raise lost from error
            self.leave(hold, error.message)
            command = error.next_command if isinstance(error, Halted) else COMMAND
            raise StoppedPartWay(
                f"the abort stopped: {error.message}", hint=error.hint, next_command=command
            ) from error
        except Exception as error:
            self.leave(hold, repr(error))
            message = f"the abort stopped: {error}"
            raise StoppedPartWay(message, hint="the same command resumes", next_command=COMMAND) from error
        except BaseException:  # Ctrl-C
            self.leave(hold, "interrupted")
            raise

    def _done(self, state: State) -> AbortOutcome | None:
        """Return the outcome when this plan was aborted before."""
        finished = state.finished or {}
        if state.holder is not None or finished.get("plan") != self.plan.id or "aborted" not in finished:
            return None
        return AbortOutcome(
            plan=self.plan.id,
            epoch=int(finished["epoch"]),
            source=self.plan.names[self.plan.source],
            verdict="nothing",
            reason=str(finished["aborted"]),
            hold=state.halt.sentence if state.halt else "",
        )

    def _take(self, why: str) -> Claim:
        """Take the epoch over; an answer that is lost does not undo the commit before it."""
        try:
            return self.take_over(aborting=why)
        except (Refused, HeldByAnother):
            raise
        except Exception as error:
            said = error.message if isinstance(error, UnderstudyError) else repr(error)
            message = f"the abort of plan {self.plan.id} may have begun: {said}"
            raise StoppedPartWay(message, hint="the same command resumes", next_command=COMMAND) from error

    def _go(self, hold: Hold, why: str, taken: Acceptances, *, leave_capacity: bool) -> AbortOutcome:
        claim, journal = hold.claim, self.journal.open()  # again: whoever was replaced may have written meanwhile
        why = claim.holder.aborting or why
        accepted: dict[str, Any] = {"acceptances": taken.model_dump(mode="json")} if taken != NOTHING_ACCEPTED else {}
        begun = {"from": claim.taken_over_from, "aborting": why, "leave_capacity": leave_capacity, **accepted}
        journal.write("takeover", "", begun, confirm=hold.own)
        self.say("abort", "", "told", f"undoing what {claim.taken_over_from} left at epoch {claim.epoch}")
        run = Run(plan=self.plan, world=self.world, hold=hold, acceptances=taken, pace=self.pace, tell=lambda _: None)
        moved, problem = self._moved()
        undone: dict[str, float] = {}
        left: list[str] = []
        if problem:
            left.append(f"the journal says that no traffic was moved, and the records cannot be read: {problem}")
        for action in undo_actions(self.plan, journal.entries, moved=moved):
            if action.kind == "scale" and leave_capacity:
                left.append(f"{action.parameters['group']} was left as it is")
                continue
            undone[action.id] = self._undo(action, run, hold)
        hold.look()
        if journal.of("", "aborted") is None:
            journal.write("aborted", "", {"reason": why, "undone": undone, "left": left}, confirm=hold.own)
        complete = journal.settle()
        summary = {"target": self.plan.target, **({"left": left} if left else {})}
        state = self.world.register.release(claim, why, summary)
        outcome = AbortOutcome(
            plan=self.plan.id,
            epoch=claim.epoch,
            source=self.plan.names[self.plan.source],
            verdict="aborted",
            reason=why,
            seconds=round(time.monotonic() - self.started, 3),
            undone=undone,
            left=tuple(left),
            hold=state.halt.sentence if state.halt else "",
            journal_complete=complete,
        )
        self.say("abort", "", "finished", outcome.sentence, seconds=outcome.seconds)
        return outcome

    def _undo(self, action: Action, run: Run, hold: Hold) -> float:
        """Undo one thing, or find it undone; returns its seconds."""
        journal, step = self.journal, UNDO_STEPS[action.kind]
        before = journal.of(action.id, "read_back")
        if before is not None:
            self.say("abort", action.id, "already", f"{action.sentence}: done before")
            return float(before.data.get("seconds", 0.0))
        started = time.monotonic()
        run = Run(
            plan=run.plan,
            world=run.world,
            hold=hold,
            acceptances=run.acceptances,
            pace=run.pace,
            tell=self.teller_about("abort", action.id),
        )
        self.say("abort", action.id, "began", action.sentence)
        if self._open_ended(action) and step.waits_out(run):
            # A call of the failover, or of an abort before this one, can be under way: let it arrive, then look.
            self.wait_out(run)
        hold.look()
        found = step.done(run, action)
        if found is None:
            if journal.of(action.id, "intent") is None:
                journal.write("intent", action.id, action.parameters, confirm=hold.own)
            hold.look()
            effect = step.do(run, action)
            journal.write("effect", action.id, effect, confirm=hold.own)
            found = step.read_back(run, action, effect)
        seconds = round(time.monotonic() - started, 3)
        journal.write("read_back", action.id, {**found, "seconds": seconds}, confirm=hold.own)
        self.say("abort", action.id, "done", action.sentence, seconds=seconds, data=found)
        return seconds

    def _open_ended(self, action: Action) -> bool:
        """Whether a call that this undo must come after was begun and never seen to be done."""
        undoes = {each.id for each in self.plan.actions if each.kind == action.kind} | {action.id}
        journal = self.journal
        return any(journal.of(each, "intent") and not journal.of(each, "read_back") for each in undoes)

    def _moved(self) -> tuple[bool, str]:
        """Return whether traffic is to be brought back, and what cannot be seen of that.

        What the journal says is not all: where no copy of it could be written, the records still tell.
        """
        begun = any(self.journal.of(each.id, "intent") for each in self.plan.actions if each.kind == "shift")
        if begun or self.journal.of("undo-traffic", "intent"):
            return True, ""
        try:
            return self.world.traffic.read().share(self.plan.target) > 0, ""
        except UnderstudyError as error:
            return False, error.message

    def _recorded(self) -> Acceptances:
        """What was accepted when this abort was begun holds for its resumption."""
        for entry in reversed(self.journal.entries):
            if entry.kind == "takeover" and "aborting" in entry.data and "acceptances" in entry.data:
                return Acceptances.model_validate(entry.data["acceptances"])
        return NOTHING_ACCEPTED


def undo_actions(plan: Plan, entries: Iterable[Entry], *, moved: bool) -> list[Action]:
    """Return what undoes a failover, in its order. Pure.

    The traffic goes back first and all at once: the old site has its full size, and no share may stay where no write
    will be accepted. The group shrinks after it, when nobody is served from it any more.

    Args:
        plan: that was run.
        entries: of its epoch's journal.
        moved: a share of the traffic is, or may be, at the target.
    """
    begun = {entry.action for entry in entries if entry.kind == "intent"}
    source, target = plan.names[plan.source], plan.names[plan.target]
    undo = []
    if moved:
        shift = next(action for action in plan.actions if action.kind == "shift")
        undo.append(
            Action(
                id="undo-traffic",
                kind="shift",
                stage="dns",
                sentence=f"all traffic back to {source}",
                seconds=shift.seconds,
                parameters={"site": plan.source, "share": 100},
                depends_on=shift.depends_on,
            )
        )
    scale = next((action for action in plan.actions if action.kind == "scale"), None)
    if scale is not None and scale.id in begun and scale.parameters["from"] < scale.parameters["to"]:
        size = int(scale.parameters["from"])
        undo.append(
            Action(
                id="undo-scale",
                kind="scale",
                stage="scale",
                sentence=f"{target} back to {size} instances",
                seconds=scale.seconds,
                parameters={"group": scale.parameters["group"], "to": size},
                depends_on=scale.depends_on,
            )
        )
    return undo
