"""What ``understudy failover status`` shows: who holds the epoch, where they are, what was done, what comes next."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from understudy.errors import UnderstudyError
from understudy.failover.journal import Entry, Journal
from understudy.report import human_seconds
from understudy.vault.store import Vault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from understudy.failover.register import Register, State
    from understudy.settings import SiteRole

_SHOWN = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class FailoverStatus:
    """The register and the newest epoch's journal at one moment.

    Attributes:
        service: whose.
        epoch: now.
        active: name of the site that may write; ``writes`` whether it may now.
        held_by: who runs a failover or left one part way; empty when nobody did.
        alive: whether they gave a sign of life lately; only then nobody else may go on.
        stage: where they are.
        fence: by what the old writers are proven to be stopped at this epoch; empty when they are not.
        leases: seconds since each known writer's last renewal, by name.
        entries: the newest of the journal.
        hold: who holds failovers back, since when and why; empty when nobody does.
        aborting: why the failover under way is being undone; empty while it goes forward.
        next_command: what to do.
    """

    service: str
    epoch: int
    active: str
    writes: bool
    held_by: str = ""
    plan: str = ""
    since: str = ""
    alive: bool = False
    stage: str = ""
    fence: str = ""
    leases: dict[str, float] = field(default_factory=dict)
    finished: dict[str, Any] | None = None
    entries: tuple[Entry, ...] = ()
    problem: str = ""
    hold: str = ""
    aborting: str = ""
    next_command: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def failover_status(register: Register, vault: Vault, *, names: Mapping[SiteRole, str]) -> FailoverStatus:
    """Return where a failover stands. Changes nothing.

    Args:
        register: of the service; must answer.
        vault: for the journal; read from the register's copy when it does not answer.
        names: of both sites.
    """
    state, now = register.read(), register.now()
    journal = Journal(vault, Vault(register.store), epoch=state.epoch, who="", plan="", register=state.id)
    problem = ""
    try:
        journal.open()
    except UnderstudyError as error:
        problem = error.message
    holder = state.holder
    alive = holder is not None and now < register.hold_expires(holder)
    return FailoverStatus(
        service=state.service,
        epoch=state.epoch,
        active=names[state.active],
        writes=state.writes,
        held_by=str(holder) if holder else "",
        plan=holder.plan if holder else "",
        since=f"{holder.since:%H:%M:%S}Z" if holder else "",
        alive=alive,
        stage=holder.stage if holder else "",
        fence=state.fence.by if state.fence and state.fence.epoch == state.epoch else "",
        leases={name: round((now - lease.renewed).total_seconds(), 1) for name, lease in sorted(state.leases.items())},
        finished=state.finished,
        entries=tuple(journal.entries[-_SHOWN:]),
        problem=problem,
        hold=state.halt.sentence if state.halt else "",
        aborting=holder.aborting if holder else "",
        next_command=_next(state, alive=alive),
    )


def render_status(status: FailoverStatus) -> str:
    """Return the status as the terminal shows it."""
    writes = "writes on" if status.writes else "WRITES OFF"
    lines = [f"{status.service}  {status.active} active at epoch {status.epoch}, {writes}"]
    if status.held_by:
        how = "running" if status.alive else "LEFT PART WAY"
        fence = f", fenced by {status.fence}" if status.fence else ", not fenced"
        what = f"abort of plan {status.plan} ({status.aborting})" if status.aborting else f"plan {status.plan}"
        lines.append(f"{how}: {status.held_by} since {status.since}, {what}, at {status.stage}{fence}")
    elif status.finished:
        what = f"aborted ({status.finished['aborted']})" if "aborted" in status.finished else "finished"
        seconds = status.finished.get("seconds")
        took = f" in {human_seconds(seconds)}" if seconds is not None else ""
        lines.append(
            f"last: plan {status.finished['plan']} {what}{took} at epoch {status.finished['epoch']} "
            f"by {status.finished['who']}, {status.finished['at']}"
        )
    if status.hold:
        lines.append(f"ON HOLD: failovers are {status.hold}")
    if status.leases:
        writers = ", ".join(f"{name} {human_seconds(max(age, 0))} ago" for name, age in status.leases.items())
        lines.append(f"writers renewed: {writers}")
    lines += [
        f" {entry.n:>3} {entry.time[11:19]}Z {entry.kind:<9} {entry.action:<10} {entry.who}" for entry in status.entries
    ]
    if status.problem:
        lines.append(f"journal: {status.problem}")
    if status.next_command:
        lines.append(f"next: {status.next_command}")
    return "\n".join(lines)


def _next(state: State, *, alive: bool) -> str:
    if state.holder is not None and alive:
        return "understudy failover status"
    if state.halt is not None:
        return "understudy failover release"
    if state.holder is not None:
        return state.holder.way_on
    ended = state.finished or {}
    return f"understudy report {state.epoch}" if ended.get("epoch") == state.epoch else ""
