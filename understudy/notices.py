"""What people are told of a failover and of a standby that is not ready, once each however often a run repeats it.

A mark beside the register says what was told to whom; so a flow that is resumed, run twice or run elsewhere is silent
about what is known already. Who carries the words is the caller's matter.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from understudy.errors import StoppedPartWay, UnderstudyError
from understudy.report import human_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.failover.engine import Outcome
    from understudy.failover.plan import Plan
    from understudy.failover.telling import Event
    from understudy.status import Row, Status
    from understudy.vault.store import Vault

logger = logging.getLogger("understudy.notices")

#: Whoever took a notice and did not say within this that it was told has died: another may tell it.
_TELLING = timedelta(seconds=60)
_TOLD = "pointers/told/"
#: Gates that another notice speaks of: a late copy is a missed target, a claimed register a failover.
_SPOKEN_OF = ("rpo ", "register")


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to tell.

    Attributes:
        service: whose.
        epoch: at which it happened.
        what: names it within the epoch: the same is told once.
        sentence: for people.
    """

    service: str
    epoch: int
    what: str
    sentence: str

    @property
    def key(self) -> str:
        """``understudy/recommender/7/claim``: also PagerDuty's dedup_key, where a channel can carry one."""
        return f"understudy/{self.service}/{self.epoch}/{self.what}"


# ---------------------------------------------------------------------- what is told. Pure


def of_event(event: Event, plan: Plan) -> list[Notice]:
    """Return what a failover's event is worth telling: the claim, and the point of no return.

    A failover that is resumed says neither again, so whatever happens after the claim stands for it too.
    """
    if event.what == "stopped" or (event.action == "claim" and event.what != "done"):
        return []
    target = plan.names[plan.target]
    claimed = event.sentence if event.action == "claim" else f"epoch {plan.epoch + 1} is claimed"
    notices = [_of_plan(plan, "claim", f"a failover to {target} has begun: {claimed}, plan {plan.id}")]
    passed = event.what in ("done", "already")
    if passed and any(action.id == event.action and action.no_return for action in plan.actions):
        notices.append(_of_plan(plan, "no-return", f"past the point of no return: {target} may write"))
    return notices


def of_outcome(outcome: Outcome, plan: Plan) -> list[Notice]:
    """Return what the end of a failover is worth telling: that it ended, and that it took longer than it may."""
    notices = [_of_plan(plan, "finished", outcome.sentence)]
    if outcome.verdict == "done" and outcome.seconds > plan.rto_seconds:
        took, target = human_seconds(outcome.seconds), human_seconds(plan.rto_seconds)
        notices.append(_of_plan(plan, "missed-rto", f"the failover took {took}, the target is {target}"))
    return notices


def of_error(error: UnderstudyError, plan: Plan) -> Notice:
    """Return what is told when a gate refused a failover, or it stopped part way."""
    kind = "stopped" if isinstance(error, StoppedPartWay) else "refused"
    lead = "a failover stopped part way" if kind == "stopped" else "a failover was refused"
    # The same reason with other figures is the same reason.
    reason = hashlib.sha256(re.sub(r"\d+", "", error.message).encode()).hexdigest()[:8]
    return _of_plan(plan, f"{kind}-{plan.id}-{reason}", f"{lead}: {error}")


def of_standing(status: Status, plan: Plan | None) -> dict[str, Notice | None]:
    """Return what stands against a failover today, by what it is named; None where nothing does (any more).

    Args:
        status: of the service.
        plan: as it was made just now; None when none could be made.
    """
    sentences: dict[str, str | None] = {
        "unprotected": None if status.protected else f"{status.active} serves and nothing is copied away: UNPROTECTED"
    }
    if status.vault is not None:
        sentences["vault"] = None if status.vault.ok else status.vault.sentence
    for row in status.rows if status.protected else ():
        sentences[f"target-{row.component}"] = None if row.verdict in ("ok", "not exercised") else _of_row(row)
    for gate in plan.gates if plan is not None and status.protected else ():
        if not gate.name.startswith(_SPOKEN_OF):
            why = f"a failover would be refused: {gate.sentence}" if gate.verdict == "refused" else None
            sentences[f"gate-{_slug(gate.name)}"] = why
    return {
        what: Notice(status.service, status.epoch, what, sentence) if sentence else None
        for what, sentence in sentences.items()
    }


def _stands(what: str) -> bool:
    """Whether a notice is one of ``of_standing``, which ends, and not of something that happened."""
    return what in ("unprotected", "vault") or what.startswith(("target-", "gate-"))


def _of_row(row: Row) -> str:
    if row.verdict == "MISSED" and row.rpo_seconds is not None and row.rpo_target_seconds is not None:
        lag, target = human_seconds(row.rpo_seconds), human_seconds(row.rpo_target_seconds)
        return f"{row.component} missed its target: {lag} would be lost, {target} may be"
    if row.verdict == "TOO SLOW" and row.rto_seconds is not None:
        rto, target = human_seconds(row.rto_seconds), human_seconds(row.rto_target_seconds)
        return f"{row.component} would miss its target: a failover would take {rto}, {target} is allowed"
    return f"{row.component} is {row.verdict}"


def _of_plan(plan: Plan, what: str, sentence: str) -> Notice:
    return Notice(plan.service, plan.epoch + 1, what, sentence)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


# ---------------------------------------------------------------------- once


class Marks:
    """Who was told what, beside the register."""

    def __init__(self, beside: Vault) -> None:
        """Wrap the register's store."""
        self._beside = beside
        self._here: set[str] = set()

    def once(self, notice: Notice, channel: str, send: Callable[[], None]) -> bool:
        """Send a notice to a channel unless it was told there. Returns whether it was sent now.

        Told too often is better than never: when the mark cannot be written, it is sent all the same, once by this
        process. Raises what ``send`` raises; then it is not told, and the next run tries again.
        """
        key = _mark(notice, channel)
        if key in self._here:
            return False
        try:
            mine = self._take(key, "telling", lambda state: state != "told")
        except UnderstudyError as error:
            logger.warning("no mark can be kept that %s was told: %s", notice.key, error.message)
            mine = True
        if not mine:
            return False
        try:
            send()
        except Exception:
            self._keep(key, "failed")
            raise
        self._here.add(key)
        self._keep(key, "told")
        return True

    def over(self, notice: Notice, channel: str, send: Callable[[], None]) -> bool:
        """Say that what a standing notice said holds no more, if it was told there. Returns whether it was sent now.

        Raises what ``send`` raises; then its end is not told, and the next run tries again.
        """
        key = _mark(notice, channel)
        if self._beside.pointer(key) is None:
            return False  # the usual case writes nothing
        if not self._take(key, "ending", lambda state: state in ("told", "ending")):
            return False
        try:
            send()
        except Exception:
            self._keep(key, "told")
            raise
        self._here.discard(key)
        self._keep(key, "over")
        return True

    def open_before(self, service: str, epoch: int, channel: str) -> list[Notice]:
        """Return what was told to a channel as standing in an earlier epoch, and never as over; without sentences."""
        found = []
        for info in self._beside.store.list(_TOLD):
            at, what, to = info.key.removeprefix(_TOLD).split("/")
            if int(at) < epoch and _stands(what) and to == f"{_slug(channel)}.json":
                mark = self._beside.pointer(info.key)
                if mark is not None and mark["state"] in ("told", "ending"):
                    found.append(Notice(service, int(at), what, ""))
        return found

    def _take(self, key: str, doing: str, ready: Callable[[str], bool]) -> bool:
        """Mark what is being done, unless another is at it or there is nothing to do; True when it is ours to do."""
        mine: list[bool] = []
        now = datetime.fromisoformat(self._now())

        def take(found: Any) -> Any:  # noqa: ANN401 - a pointer's value
            state = found["state"] if found else ""
            busy = state in ("telling", "ending") and now - datetime.fromisoformat(found["at"]) < _TELLING
            mine[:] = [not busy and ready(state)]
            return {"state": doing, "at": now.isoformat()} if mine[0] else found

        self._beside.move_pointer(key, take)
        return mine[0]

    def _keep(self, key: str, state: str) -> None:
        try:
            self._beside.move_pointer(key, lambda _: {"state": state, "at": self._now()})
        except UnderstudyError as error:
            logger.warning("no mark can be kept at %s: %s", key, error.message)

    def _now(self) -> str:
        return self._beside.store.now().isoformat()


def _mark(notice: Notice, channel: str) -> str:
    return f"{_TOLD}{notice.epoch}/{notice.what}/{_slug(channel)}.json"
