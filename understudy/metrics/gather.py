"""The gauges, read from the vault's and the register's pointers: right whichever worker ran, and never remembered."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from understudy import opening
from understudy.errors import Refused, UnderstudyError
from understudy.metrics import instruments as i
from understudy.metrics.instruments import Instrument, Sample
from understudy.status import judge
from understudy.threads import ThreadPool, TookTooLong, within
from understudy.transfer.budget import Transferred, read_transferred
from understudy.vault.marks import Marks, read_marks
from understudy.vault.store import Vault, decrypting
from understudy.vault.verified import KINDS, Verified, read_verified

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from concurrent.futures import Future

    from understudy.failover.register import State
    from understudy.service import Service
    from understudy.settings import SiteRole
    from understudy.status import Row

T = TypeVar("T")

STORES = ("vault", "register")
#: Prometheus waits ten seconds for a scrape; a store that hangs is said within that.
GATHER_SECONDS = 8.0
_ROLES: tuple[SiteRole, ...] = ("home", "away")


@dataclass(frozen=True, slots=True)
class Gathered:
    """What the stores said at one moment.

    Attributes:
        samples: of the gauges; nothing of a store that did not answer.
        problems: by store (vault, register), why it could not be read.
        rows: one a component, judged as in the status; empty unless both stores answered.
        quiet: whether nobody holds the epoch.
    """

    samples: tuple[Sample, ...]
    problems: dict[str, str] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()
    quiet: bool = False

    @property
    def within_targets(self) -> bool:
        """Whether every pair was copied in time and proven lately, with no failover under way."""
        return bool(self.rows) and self.quiet and all(row.verdict in _WELL for row in self.rows)


#: Verdicts that say nothing against the copies: a slow failover is another matter.
_WELL = {"ok", "TOO SLOW", "not exercised"}


def proof_kind(by: str) -> str:
    """Return by what something was proven without its figures: ``sha256 12/12`` is ``sha256``.

    Figures in a label would begin a new series with every proof.
    """
    found = re.search(r"[a-z][a-z0-9]+", by)
    return found[0] if found else "unknown"


class Turns:
    """Lets one read of a store run at a time: those of a store that hangs must not pile up."""

    def __init__(self) -> None:
        """Begin with no read under way."""
        self._locks = {store: threading.Lock() for store in STORES}

    def read(self, store: str, seconds: float, action: Callable[[], T]) -> T:
        """Return what ``action`` reads; raise TookTooLong when it, or the one before it, has not ended in time."""

        def take_turn() -> T:
            if not self._locks[store].acquire(timeout=seconds):
                raise TookTooLong(f"an earlier reading of the {store} has not ended")
            try:
                return action()
            finally:
                self._locks[store].release()

        return within(seconds, take_turn, name=f"reading the {store}")


def gather(service: Service, *, seconds: float = GATHER_SECONDS, turns: Turns | None = None) -> Gathered:
    """Read every gauge. Never raises for a store that cannot be read: that is a value too.

    Args:
        service: whose.
        seconds: for each store, both at once; one that hangs hides nothing of the other.
        turns: of whoever reads again and again.
    """
    problems: dict[str, str] = {}
    samples: list[Sample] = []
    turns = turns or Turns()
    with ThreadPool(len(STORES), thread_name_prefix="gather") as pool:
        of_register = pool.submit(turns.read, "register", seconds, lambda: _of_register(service))
        of_vault = pool.submit(turns.read, "vault", seconds, lambda: _read_marks(service))
        from_register = _result(of_register, "register", problems)
        pointers = _result(of_vault, "vault", problems)
    state, found = from_register or (None, [])
    samples += found
    if pointers is not None:
        samples += _of_vault(service, *pointers)
    up = up_samples(service.name, problems)
    rows: tuple[Row, ...] = ()
    if state is not None and pointers is not None:
        standby: SiteRole = "away" if state.active == "home" else "home"
        rows = tuple(
            judge(
                service.settings,
                now=pointers[0].now,
                watermarks=pointers[0].watermarks,
                proven=pointers[0].proven[standby],
                predicted={},
                protected=state.active == "home",
            )
        )
    quiet = state is not None and state.holder is None
    return Gathered((*up, *_targets(service), *samples), problems, rows, quiet)


def _result(job: Future[T], store: str, problems: dict[str, str]) -> T | None:
    """Return what was read, or None with the reason among the problems."""
    try:
        return job.result()
    except UnderstudyError as error:
        problems[store] = error.message
    except TookTooLong as slow:
        problems[store] = str(slow)
    except Exception as error:  # noqa: BLE001 - what one store holds must not hide the other
        problems[store] = f"unexpected {type(error).__name__}"
    return None


def up_samples(name: str, problems: Collection[str]) -> list[Sample]:
    """Return for a service which stores could be read: 1 for all, and for each that is not among the problems."""
    labels = {"service": name}
    stores = [Sample(i.STORE_UP, float(store not in problems), {**labels, "store": store}) for store in STORES]
    return [Sample(i.UP, float(not problems), labels), *stores]


def _targets(service: Service) -> list[Sample]:
    samples = []
    for name, component in service.settings.components.items():
        labels = {"service": service.name, "component": name}
        samples.append(Sample(i.RTO_TARGET, component.rto.total_seconds(), labels))
        if component.rpo is not None:
            samples.append(Sample(i.RPO_TARGET, component.rpo.total_seconds(), labels))
        samples += [Sample(i.PAIR, 1.0, {**labels, "pair": pair.name}) for pair in component.pairs]
    return samples


def _of_register(service: Service) -> tuple[State, list[Sample]]:
    """Read the register and the newest plan beside it. Raises Unreachable, NotFound, Corrupt."""
    from understudy.failover.decide import refused
    from understudy.failover.plans import newest_plan

    register = service.register
    state = register.read()
    name = {"service": service.name}
    samples = [
        Sample(i.EPOCH, state.epoch, name),
        Sample(i.WRITES, float(state.writes), name),
        Sample(i.PROTECTED, float(state.active == "home"), name),
        Sample(i.HELD, float(state.holder is not None), name),
    ]
    for role in _ROLES:
        site = service.settings.site(role).name
        samples.append(Sample(i.ACTIVE, float(state.active == role), {**name, "site": site}))
        for writer, lease in state.leases_of(role).items():
            labels = {**name, "site": site, "writer": writer}
            samples.append(Sample(i.LEASE_RENEWED, lease.renewed.timestamp(), labels))
            samples.append(Sample(i.LEASE_DURATION, lease.seconds, labels))
    try:
        plan = newest_plan(register.store, service=service.name, now=register.now())
    except Refused:
        return state, samples
    samples += [
        Sample(i.PLAN_MADE, plan.made.timestamp(), name),
        Sample(i.RTO_PREDICTED, plan.confirmed_seconds, name),
        Sample(i.PLAN_REFUSED, float(len(refused(plan.gates))), name),
    ]
    return state, samples


def _read_marks(service: Service) -> tuple[Marks, Verified, Transferred | None]:
    """Read the vault's pointers. Raises Unreachable, Denied, Corrupt."""
    settings = service.settings
    # Not service.vault: pointers are all that is read, so neither the vault's format nor who signs is asked for.
    store = opening.open_store(settings.vault.url, settings.sites.away)
    vault = Vault(decrypting(store, service.encryption))
    marks, budget = read_marks(vault, settings.all_pairs(), _ROLES), settings.limits.transfer_month
    transferred = read_transferred(vault, budget, marks.now) if budget is not None else None
    return marks, read_verified(vault), transferred


def _of_vault(service: Service, marks: Marks, verified: Verified, transferred: Transferred | None) -> list[Sample]:
    """Return the values of the instruments that the vault's pointers fill."""
    name = {"service": service.name}
    samples = [
        Sample(i.VAULT_VERIFIED, each.at.timestamp(), {**name, "kind": kind})
        for kind in KINDS
        if (each := verified.of(kind))
    ]
    if samples:
        samples.append(Sample(i.VAULT_PROBLEMS, float(verified.damage.problems if verified.damage else 0), name))
    if transferred is not None and transferred.budget is not None:
        samples.append(Sample(i.TRANSFERRED, float(transferred.bytes), name))
        samples.append(Sample(i.TRANSFER_BUDGET, float(transferred.budget), name))
    for component, pair in service.settings.all_pairs():
        labels = {"service": service.name, "component": component, "pair": pair.name}
        if mark := marks.watermarks.get(pair.name):
            samples.append(Sample(i.WATERMARK, mark.timestamp(), labels))
            samples.append(Sample(i.LAG, max(0.0, (marks.now - mark).total_seconds()), labels))
        for role in _ROLES:
            if found := marks.proven[role].get(pair.name):
                by, at = found
                more = {"site": service.settings.site(role).name, "by": proof_kind(by)}
                samples.append(Sample(i.LAST_VERIFIED, at.timestamp(), {**labels, **more}))
    return samples


def by_instrument(samples: tuple[Sample, ...]) -> dict[Instrument, list[Sample]]:
    """Return samples grouped, in the order of the first of each."""
    groups: dict[Instrument, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.instrument, []).append(sample)
    return groups
