"""What was seen of both sites before a plan: plain values, gathered by ``observe`` and judged by ``decide``."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from understudy.alerts.interface import Watched
    from understudy.compute.interface import Group
    from understudy.failover.register import State
    from understudy.settings import ComponentName, SiteRole
    from understudy.traffic.interface import Routing


@dataclass(frozen=True, slots=True)
class Health:
    """How a site's front door answers its health check.

    Attributes:
        answered: probes answered well.
        asked: probes sent.
        detail: what was wrong last; empty when nothing was.
    """

    answered: int
    asked: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Copied:
    """How far the vault has one pair of a component.

    Attributes:
        component: whose recovery point it is.
        pair: the index, view or models.
        watermark: before this moment on the source's clock every change is in the vault; None when nothing is there.
    """

    component: ComponentName
    pair: str
    watermark: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """The newest set: what will be served together.

    Attributes:
        sequence: of the set.
        model: its name; ``version`` is its label at the source, ``digest`` over its files.
        index: its name; None when the service has none. ``index_sequence`` is which export of it.
        view: the feature view; None when the service has none.
        missing: keys that the set names and the vault does not have.
        held: sentences about what is newer and not served.
    """

    sequence: int
    model: str
    version: str
    digest: str = ""
    index: str | None = None
    index_sequence: int | None = None
    view: str | None = None
    missing: tuple[str, ...] = ()
    held: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """All that a plan is made from.

    Attributes:
        now: the register's clock.
        source: the site that is active; ``target`` is to become it.
        names: of both sites.
        state: the register.
        health: of both sites' front doors.
        copied: what the vault has, pair by pair.
        pinned: the newest set; None when there is none or the vault cannot be read.
        group: the instances at the target; None when they cannot be read.
        routing: the name's records; None when they cannot be read.
        watched: what the alerts look at; None when they cannot be read or none are configured.
        problems: what could not be read, by noun (vault, compute, traffic, alerts): a sentence each.
        control_planes: what each change depends on, by noun.
        timings: seconds that actions took in earlier failovers, by the action's kind.
        load_seconds: what the target's instances took to load the model when its pointer last moved; 0 unmeasured.
    """

    service: str
    now: datetime
    source: SiteRole
    target: SiteRole
    names: dict[SiteRole, str]
    state: State
    health: dict[SiteRole, Health]
    copied: tuple[Copied, ...] = ()
    pinned: Pinned | None = None
    group: Group | None = None
    routing: Routing | None = None
    watched: Watched | None = None
    problems: dict[str, str] = field(default_factory=dict)
    control_planes: dict[str, str] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    load_seconds: float = 0.0

    @property
    def last_renewal(self) -> datetime | None:
        """The last moment at which a writer of the source was surely alive, None when none was ever seen."""
        return max((lease.renewed for lease in self.state.leases_of(self.source).values()), default=None)

    @property
    def last_write(self) -> datetime:
        """The last moment at which the source can have accepted a write: now, or when its last lease lapsed."""
        ends = [
            lease.renewed + timedelta(seconds=lease.seconds) for lease in self.state.leases_of(self.source).values()
        ]
        return min([self.now, max(ends)]) if ends else self.now
