"""The register: one small object with compare-and-set, in neither site, that says who is active and who may write.

Every change is read, decide, compare-and-set, and decided again when someone else was quicker; so two commanders who
claim the same epoch are put in an order by the store, and one of them wins. No clock but the store's own is compared
with anything that a machine wrote here.
"""

from __future__ import annotations

import json
import random
import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from understudy.errors import Conflict, Corrupt, HeldByAnother, NotFound, Refused, Transient, Unsupported
from understudy.settings import SiteRole, other

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.objects.interface import ObjectStore

KEY = "register.json"
FORMAT_VERSION = 1
HOLD_SECONDS = 15.0
#: How coarse a store's clock is, and how long a write may be under way: two ticks of one second.
MARGIN_SECONDS = 2.0
_TRIES = 60
_FORGET_AFTER = 20  # leases; a writer that missed so many is gone


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Lease(_Record):
    """A writer's right to accept writes, for ``seconds`` after it sent its last good renewal.

    Attributes:
        site: where the writer runs.
        epoch: at which it renewed.
        seconds: how long it writes on without a renewal.
        renewed: the register's clock just before the last good renewal was committed.
    """

    site: SiteRole
    epoch: int
    seconds: float = Field(gt=0)
    renewed: datetime


class Holder(_Record):
    """The commander who holds an epoch while a failover runs.

    Attributes:
        who: a person or a robot; ``host`` is where they run.
        plan: what they run; only the same plan resumes it.
        target: the site that is to become active.
        stage: where they are, as people see it.
        since: the register's clock at the claim.
        beat: the register's clock at the last sign of life; None when they said that they left.
        seconds: without a sign of life for so long, another process may take over.
        nonce: names the very process.
        claimed_at: a moment on the register's clock not before the claim was committed; the fence counts from it.
        aborting: why this failover is being undone; empty while it goes forward. Once set it stays: forward is closed.
    """

    who: str
    host: str
    plan: str
    target: SiteRole
    stage: str
    since: datetime
    beat: datetime | None
    seconds: float
    nonce: str
    claimed_at: datetime | None = None
    aborting: str = ""

    def __str__(self) -> str:
        """Say who it is."""
        return f"{self.who}@{self.host}"

    @property
    def way_on(self) -> str:
        """The command that goes on with what this holder left part way."""
        return "understudy failover abort" if self.aborting else f"understudy failover run {self.plan}"


class Halt(_Record):
    """A commander's order that no failover starts or goes on, until it is lifted.

    Attributes:
        who: gave it; ``host`` is where.
        reason: in their words.
        since: the register's clock when it was given.
        nonce: names the very order.
    """

    who: str
    host: str
    reason: str
    since: datetime
    nonce: str

    def __str__(self) -> str:
        """Say who it is."""
        return f"{self.who}@{self.host}"

    @property
    def sentence(self) -> str:
        """Say who, since when and why; the day too, for a hold may be forgotten."""
        return f"on hold by {self} since {self.since:%Y-%m-%d %H:%M:%S}Z: {self.reason}"


class Fence(_Record):
    """Why the old side's writers cannot write at this epoch: expired leases, or a recorded acceptance."""

    epoch: int
    by: Literal["leases", "acceptance"]
    proof: dict[str, Any]


class State(_Record):
    """The whole register.

    Attributes:
        id: names this register; another one that is initialised in its place counts its epochs anew.
        epoch: grows by one with each claim.
        active: the site whose writers may hold leases.
        writes: whether they may write.
        since: the register's clock when ``active`` last became so.
        holder: who runs a failover now, or left one part way.
        leases: by the writer's name.
        fence: the proof at this epoch.
        finished: what the last finished or aborted failover was, for ``status``.
        halt: the order that holds failovers back; None when there is none.
    """

    format: int = FORMAT_VERSION
    id: str
    service: str
    epoch: int = Field(ge=1)
    active: SiteRole
    writes: bool
    since: datetime
    holder: Holder | None = None
    leases: dict[str, Lease] = Field(default_factory=dict)
    fence: Fence | None = None
    finished: dict[str, Any] | None = None
    halt: Halt | None = None

    def leases_of(self, site: SiteRole) -> dict[str, Lease]:
        """Return the leases of a site's writers that the register knows, lapsed ones too."""
        return {name: lease for name, lease in sorted(self.leases.items()) if lease.site == site}

    def longest_lease(self, site: SiteRole) -> float | None:
        """Return the seconds after which the last writer of a site must have stopped; None when none is known."""
        return max((lease.seconds for lease in self.leases_of(site).values()), default=None)


class Claim(_Record):
    """The right to change both sites at one epoch; every change to the register shows it."""

    epoch: int
    nonce: str
    holder: Holder
    claimed_at: datetime
    taken_over_from: str | None = None


class Register:
    """The register of one service over one object store. Safe to use from many threads and machines."""

    def __init__(self, store: ObjectStore, *, margin: float = MARGIN_SECONDS) -> None:
        """Wrap a store.

        Args:
            store: with compare-and-set; the journal's second copy and the plans live beside the register.
            margin: seconds by which the store's clock may be coarse, added to every wait.
        """
        self.store = store
        self.margin = margin
        self._ahead = float("-inf")  # seconds from this process's monotonic clock to the register's, as seen best

    @property
    def url(self) -> str:
        """Where the register is."""
        return self.store.url

    def now(self) -> datetime:
        """Return the register's own clock. Raises Unreachable."""
        now = self.store.now()
        # The clock ticks in seconds and the answer travels: the greatest difference ever seen is the nearest.
        self._ahead = max(self._ahead, now.timestamp() - time.monotonic())
        return now

    def reckoned(self) -> datetime | None:
        """Return the register's clock without asking it, to about a second; None before the first answer.

        For people who read what happened: no decision is made by it.
        """
        if self._ahead == float("-inf"):
            return None
        return datetime.fromtimestamp(time.monotonic() + self._ahead, UTC)

    def read(self) -> State:
        """Return the register. Raises NotFound before ``initialise``, Unreachable, Corrupt, Unsupported."""
        try:
            data = self.store.get(KEY)
        except NotFound as error:
            message = f"there is no register at {self.url}"
            raise NotFound(
                message,
                hint="initialise it once, while the home site serves",
                next_command="understudy register init",
            ) from error
        return _parse(data, self.url)

    def initialise(self, service: str, *, active: SiteRole = "home") -> State:
        """Write the first register: epoch 1, writes on.

        Raises:
            Conflict: there is one already. It is never overwritten: that would forget an epoch.
        """
        state = State(id=secrets.token_hex(8), service=service, epoch=1, active=active, writes=True, since=self.now())
        try:
            self.store.replace(KEY, _dump(state), expected=None)
        except Conflict as error:
            message = f"there is a register at {self.url} already"
            raise Conflict(
                message, hint="it is never overwritten; read it", next_command="understudy status"
            ) from error
        return state

    # ------------------------------------------------------------------ writers

    def renew(self, name: str, site: SiteRole, epoch: int, seconds: float) -> State:
        """Renew a writer's lease at the epoch it knows and return the register; grants nothing while writes are off.

        Raises:
            Conflict: the epoch moved, or the site is not active: the writer must stop.
        """

        def change(state: State, now: datetime) -> State:
            if state.epoch != epoch:
                message = f"{name} knows epoch {epoch}, the register is at epoch {state.epoch}"
                raise Conflict(message, hint="read the register again before writing")
            if state.active != site:
                message = f"{name} runs at the {site} site, but the {state.active} site is active"
                raise Conflict(message, hint="write at the active site")
            if not state.writes:
                return state
            oldest = now - timedelta(seconds=seconds * _FORGET_AFTER)
            kept = {key: lease for key, lease in state.leases.items() if lease.site != site or lease.renewed > oldest}
            kept[name] = Lease(site=site, epoch=epoch, seconds=seconds, renewed=now)
            return state.model_copy(update={"leases": kept})

        return self._change(change)

    def drop(self, name: str) -> State:
        """Forget a writer that has stopped. Not an error when it is not known."""

        def change(state: State, now: datetime) -> State:  # noqa: ARG001 - a change takes the clock
            if name not in state.leases:
                return state
            return state.model_copy(update={"leases": {k: v for k, v in state.leases.items() if k != name}})

        return self._change(change)

    # ------------------------------------------------------------------ commanders

    def claim(
        self,
        epoch: int,
        *,
        who: str,
        host: str,
        plan: str,
        target: SiteRole,
        seconds: float = HOLD_SECONDS,
    ) -> Claim:
        """Move the register from ``epoch`` to the next and hold it; from then on no writer can renew.

        Raises:
            HeldByAnother: another commander holds the epoch and lives.
            Refused: failovers are on hold, the register is at another epoch, the target is active already, or another
                plan was left part way.
        """
        nonce = secrets.token_hex(8)

        def change(state: State, now: datetime) -> State:
            if state.holder is not None and state.holder.nonce == nonce:
                return state  # the answer to the first try was lost
            refuse_if_halted(state)
            self.refuse_if_held(state, now)
            if state.epoch != epoch:
                message = f"the register is at epoch {state.epoch}, the plan was made at epoch {epoch}"
                raise Refused(message, hint="make a new plan", next_command="understudy failover plan")
            if state.active == target:
                message = f"the {target} site is active already"
                raise Refused(message, hint="nothing is to be done", next_command="understudy status")
            holder = Holder(
                who=who, host=host, plan=plan, target=target, stage="validate", since=now, beat=now, seconds=seconds,
                nonce=nonce,
            )  # fmt: skip
            return state.model_copy(update={"epoch": epoch + 1, "writes": False, "holder": holder, "fence": None})

        state = self._change(change)
        return self._stamp(state, nonce, taken_over_from=None)

    def take_over(self, plan: str, *, who: str, host: str, seconds: float = HOLD_SECONDS, aborting: str = "") -> Claim:
        """Resume what a commander left part way, once the hold has lapsed by the register's clock.

        Args:
            plan: that was left; only the same plan is resumed or aborted.
            who: takes over.
            host: where they are.
            seconds: without a sign of life for so long, another process may take over.
            aborting: why it is undone; empty resumes it. From then on it can only be undone. A hold does not keep one
                from undoing: it holds back what goes forward.

        Raises:
            HeldByAnother: the holder still lives.
            Refused: nobody holds the epoch, or another plan was left part way; to resume: failovers are on hold, or
                this one is being undone; to abort: the target is active already.
        """
        nonce = secrets.token_hex(8)
        before: list[str] = []

        def change(state: State, now: datetime) -> State:
            if state.holder is not None and state.holder.nonce == nonce:
                return state
            if state.holder is None:
                message = f"nobody holds epoch {state.epoch}, so there is nothing to resume"
                raise Refused(message, hint="make a new plan", next_command="understudy failover plan")
            if aborting:
                refuse_after_no_return(state)
            else:
                refuse_if_halted(state)
            self.refuse_if_held(state, now, unless_plan=plan)
            if state.holder.aborting and not aborting:
                message = f"plan {plan} is being undone ({state.holder.aborting}), so it cannot go forward any more"
                raise Refused(message, hint="end the abort, then make a new plan", next_command=state.holder.way_on)
            before[:] = [str(state.holder)]
            update = {"who": who, "host": host, "nonce": nonce, "beat": now, "seconds": seconds}
            if aborting:
                update |= {"aborting": state.holder.aborting or aborting, "stage": "abort"}
            return state.model_copy(update={"holder": state.holder.model_copy(update=update)})

        state = self._change(change)
        return self._stamp(state, nonce, taken_over_from=before[0])

    def beat(self, claim: Claim, stage: str) -> State:
        """Show that the holder lives, and where it is. Raises HeldByAnother when the hold was lost."""

        def change(state: State, now: datetime) -> State:
            holder = _own(state, claim)
            return state.model_copy(update={"holder": holder.model_copy(update={"beat": now, "stage": stage})})

        return self._change(change)

    def record_fence(self, claim: Claim, by: Literal["leases", "acceptance"], proof: dict[str, Any]) -> State:
        """Keep the proof that the old side's writers cannot write at this epoch. Raises HeldByAnother."""

        def change(state: State, now: datetime) -> State:  # noqa: ARG001
            _own(state, claim)
            return state.model_copy(update={"fence": Fence(epoch=claim.epoch, by=by, proof=proof)})

        return self._change(change)

    def enable_writes(self, claim: Claim) -> State:
        """Make the target active and let its writers write. A second call changes nothing.

        Raises:
            Refused: no fence proof at this epoch, failovers are on hold, or this one is being undone.
            HeldByAnother: the hold was lost.
        """

        def change(state: State, now: datetime) -> State:
            holder = _own(state, claim)
            if state.fence is None or state.fence.epoch != claim.epoch:
                message = f"writes stay off: epoch {claim.epoch} has no proof that the old writers have stopped"
                raise Refused(message, hint="fence first, or accept the risk with --accept-unfenced REASON")
            if state.active == holder.target and state.writes:
                return state
            refuse_if_halted(state)
            if holder.aborting:
                message = f"plan {holder.plan} is being undone ({holder.aborting}), so writes stay where they are"
                raise Refused(message, next_command=holder.way_on)
            return state.model_copy(update={"active": holder.target, "writes": True, "since": now})

        return self._change(change)

    def leave(self, claim: Claim, stage: str) -> State:
        """Say that this process stops part way, so that the same plan can be resumed at once. Raises HeldByAnother."""

        def change(state: State, now: datetime) -> State:  # noqa: ARG001
            holder = _own(state, claim)
            return state.model_copy(update={"holder": holder.model_copy(update={"beat": None, "stage": stage})})

        return self._change(change)

    def finish(self, claim: Claim, summary: dict[str, Any]) -> State:
        """Let go of the epoch after the last action, and forget the old side's leases. Raises HeldByAnother."""

        def change(state: State, now: datetime) -> State:
            if _ended_by(state, claim):
                return state  # the answer to the first try was lost
            holder = _own(state, claim)
            kept = {name: lease for name, lease in state.leases.items() if lease.site == state.active}
            finished = {
                **summary, "epoch": claim.epoch, "plan": holder.plan, "who": str(holder), "at": now.isoformat(),
                "nonce": claim.nonce,
            }  # fmt: skip
            return state.model_copy(update={"holder": None, "leases": kept, "finished": finished})

        return self._change(change)

    def release(self, claim: Claim, reason: str, summary: dict[str, Any] | None = None) -> State:
        """Abort before writes were enabled: the old site stays active and its writers may renew at this epoch.

        Args:
            claim: that is given up.
            reason: in the commander's words.
            summary: more to keep about it; JSON values.

        Raises:
            Refused: the target writes already; going back is a failback.
            HeldByAnother: the hold was lost.
        """

        def change(state: State, now: datetime) -> State:
            if _ended_by(state, claim):
                return state  # the answer to the first try was lost
            holder = _own(state, claim)
            if state.active == holder.target:
                message = f"the {holder.target} site is active and writes at epoch {state.epoch}"
                raise Refused(message, hint="going back is a failback with a plan of its own")
            finished = {
                **(summary or {}), "aborted": reason, "epoch": claim.epoch, "plan": holder.plan, "who": str(holder),
                "at": now.isoformat(), "nonce": claim.nonce,
            }  # fmt: skip
            return state.model_copy(update={"holder": None, "writes": True, "fence": None, "finished": finished})

        return self._change(change)

    # ------------------------------------------------------------------ orders

    def halt(self, *, who: str, host: str, reason: str) -> State:
        """Hold all failovers back: none starts, none is resumed, a running one stops before its next effect.

        Raises:
            Refused: somebody has done so already; the first order stands, with its reason.
        """
        nonce = secrets.token_hex(8)

        def change(state: State, now: datetime) -> State:
            if state.halt is None:
                ordered = Halt(who=who, host=host, reason=reason, since=now, nonce=nonce)
                return state.model_copy(update={"halt": ordered})
            if state.halt.nonce == nonce:
                return state
            message = f"failovers are {state.halt.sentence}. That hold stands"
            raise Refused(message, hint="speak with them, or lift it", next_command="understudy failover release")

        return self._change(change)

    def lift(self) -> Halt | None:
        """End the hold and return what it was; None when there was none."""
        lifted: list[Halt] = []

        def change(state: State, now: datetime) -> State:  # noqa: ARG001
            if state.halt is None:
                return state
            lifted[:] = [state.halt]
            return state.model_copy(update={"halt": None})

        self._change(change)
        return lifted[0] if lifted else None

    # ------------------------------------------------------------------ how

    def hold_expires(self, holder: Holder) -> datetime:
        """Return the moment on the register's clock from which another process may take over."""
        if holder.beat is None:
            return holder.since
        return holder.beat + timedelta(seconds=holder.seconds + self.margin)

    def refuse_if_held(self, state: State, now: datetime, *, unless_plan: str | None = None) -> None:
        """Raise HeldByAnother when a commander holds the epoch and lives, Refused when one left it part way."""
        holder = state.holder
        if holder is None:
            return
        if now < self.hold_expires(holder):
            raise held_by(holder, state.epoch)
        if holder.plan != unless_plan:
            message = f"{holder} left plan {holder.plan} part way, at {holder.stage} of epoch {state.epoch}"
            raise Refused(message, hint="end that first", next_command=holder.way_on)

    def _stamp(self, state: State, nonce: str, *, taken_over_from: str | None) -> Claim:
        """Write down a moment not before the claim's commit: the register's clock, asked after the claim's answer."""
        holder = state.holder
        if holder is None or holder.nonce != nonce:  # pragma: no cover - the change before has just set it
            raise held_by(holder, state.epoch) if holder else Conflict("the register changed hands")
        claim = Claim(
            epoch=state.epoch, nonce=nonce, holder=holder, claimed_at=holder.claimed_at or self.now(),
            taken_over_from=taken_over_from,
        )  # fmt: skip

        def change(state: State, now: datetime) -> State:  # noqa: ARG001
            own = _own(state, claim)
            if own.claimed_at is not None:
                return state
            return state.model_copy(update={"holder": own.model_copy(update={"claimed_at": claim.claimed_at})})

        self._change(change)
        return claim

    def _change(self, change: Callable[[State, datetime], State]) -> State:
        for attempt in range(_TRIES):
            try:
                info = self.store.head(KEY)
                data = self.store.get(KEY)
            except NotFound:
                return self.read()  # says it in words
            state = _parse(data, self.url)
            changed = change(state, self.now())
            if changed == state:
                return state
            try:
                # Was it written between head and get, the token is an older one and this is a Conflict: decide again.
                self.store.replace(KEY, _dump(changed), expected=info.token)
            except Conflict:
                time.sleep(random.uniform(0, 0.005 * 2 ** min(attempt, 5)))  # noqa: S311 - to part two writers
                continue
            return changed
        message = f"the register at {self.url} was changed by others {_TRIES} times in a row"
        raise Transient(message, hint="look for a writer that renews without pause")


def refuse_if_halted(state: State) -> None:
    """Raise Refused while a commander holds failovers back."""
    if state.halt is not None:
        message = f"failovers are {state.halt.sentence}"
        hint = "nothing was changed by this command; whoever has decided lifts the hold"
        raise Refused(message, hint=hint, next_command="understudy failover release")


def refuse_after_no_return(state: State) -> None:
    """Raise Refused when what a holder does can no longer be undone: its target is active."""
    holder = state.holder
    if holder is not None and state.active == holder.target:
        message = f"plan {holder.plan} has passed its point of no return: the {holder.target} site is active and writes"
        raise Refused(message, hint="forward is the only way", next_command=f"understudy failover run {holder.plan}")


def held_by(holder: Holder, epoch: int) -> HeldByAnother:
    """Return the error that says who holds an epoch, since when, and where they are."""
    message = f"{holder} holds epoch {epoch} since {holder.since:%H:%M:%S}Z, at {holder.stage}"
    return HeldByAnother(message, next_command="understudy failover status")


def lost(claim: Claim, state: State) -> HeldByAnother:
    """Return the error that says that a claim has ended without its holder."""
    message = f"epoch {claim.epoch} is no longer held here; the register is at epoch {state.epoch}"
    return HeldByAnother(message, next_command="understudy failover status")


def _own(state: State, claim: Claim) -> Holder:
    if state.holder is not None and state.holder.nonce == claim.nonce and state.epoch == claim.epoch:
        return state.holder
    if state.holder is not None:
        raise held_by(state.holder, state.epoch)
    raise lost(claim, state)


def _ended_by(state: State, claim: Claim) -> bool:
    """Whether this very claim has been finished or given up."""
    return state.holder is None and (state.finished or {}).get("nonce") == claim.nonce


def _dump(state: State) -> bytes:
    """Return the register's bytes. What is unset and newer than format 1's first writers is left out: they read on."""
    document = state.model_dump(mode="json")
    if state.halt is None:
        del document["halt"]
    if state.holder is not None and not state.holder.aborting:
        del document["holder"]["aborting"]
    return json.dumps(document, indent=1, ensure_ascii=False).encode()


def _parse(data: bytes, url: str) -> State:
    try:
        return State.model_validate_json(data)
    except ValidationError as error:
        if any(problem["loc"] == ("format",) or problem["type"] == "extra_forbidden" for problem in error.errors()):
            message = f"the register at {url} was written by a later version of understudy"
            raise Unsupported(message, hint="use that version") from error
        message = f"{KEY} at {url} is not a register: {error.errors()[0]['msg']}"
        raise Corrupt(message, hint="restore the object's previous version") from error


def old_site(claim: Claim) -> SiteRole:
    """Return the site whose writers a claim's fence must stop."""
    return other(claim.holder.target)
