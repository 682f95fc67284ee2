"""Which site the service's name leads to, in our words. ``memory.py`` is its executable description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from understudy.errors import Conflict, Refused

if TYPE_CHECKING:
    from collections.abc import Mapping

    from understudy.settings import SiteRole

SHARE_MAX = 100
#: What every adapter says of itself in ``ABILITIES``, in words; "no" begins what it cannot.
ABILITIES = ("compare-and-set", "control plane")


@dataclass(frozen=True, slots=True)
class Way:
    """One site's address behind the name, and its share of the traffic.

    Attributes:
        address: IPv4 address of the site's load balancer.
        share: 0 to 100; only the proportion between the sites counts.
    """

    address: str
    share: int


@dataclass(frozen=True, slots=True)
class Routing:
    """Where the name leads now.

    Attributes:
        name: without the dot at its end.
        ways: by the site's role in the config.
        ttl: seconds for which resolvers may remember an answer.
    """

    name: str
    ways: dict[SiteRole, Way]
    ttl: int

    def share(self, site: SiteRole) -> int:
        """Return a site's share of the traffic in per cent, 0 when it has none."""
        total = sum(way.share for way in self.ways.values())
        own = self.ways[site].share if site in self.ways else 0
        return round(100 * own / total) if total else 0

    def __str__(self) -> str:
        """Say it: ``home 80 %, away 20 %``."""
        return ", ".join(f"{site} {self.share(site)} %" for site in sorted(self.ways, reverse=True))


class Traffic(Protocol):
    """The records of one name. Errors of every method: Unreachable, Throttled, Denied, NotFound when the zone is gone.

    Attributes:
        control_plane: what answers these calls, as a plan names it ("Route 53 API").
        compare_and_set: whether ``shift`` is refused by the vendor itself when the records are not as expected; where
            not, whoever resumes waits until an earlier call can no longer arrive, then reads back.
    """

    control_plane: str
    compare_and_set: bool

    def read(self) -> Routing:
        """Return the records. Raises NotReady when there are none."""

    def prepare(self, addresses: Mapping[SiteRole, str], *, active: SiteRole, ttl: int) -> Routing:
        """Write both sites' records, all traffic to ``active``: once, long before a failover; again changes nothing."""

    def shift(self, shares: Mapping[SiteRole, int], *, expected: Routing) -> Routing:
        """Change both shares in one atomic call and return what is read back afterwards.

        The name is never left without an answer: shares that add up to nothing are refused. The same shares again
        change nothing.

        Raises:
            Refused: the shares are not between 0 and 100, or all zero, or name a site without a record.
            Conflict: the records are not as expected, or were not as meant when read back.
        """


def check_shares(shares: Mapping[SiteRole, int], now: Routing) -> None:
    """Refuse shares that would leave the name without an answer, or that are no shares. Raises Refused."""
    if set(shares) != set(now.ways):
        message = f"{now.name} has records for {sorted(now.ways)}, the shares are for {sorted(shares)}"
        raise Refused(message, hint="give each site its share")
    if not all(0 <= share <= SHARE_MAX for share in shares.values()) or not any(shares.values()):
        message = f"{dict(shares)} are no shares between 0 and 100 with a sum above 0"
        raise Refused(message, hint="a name must always lead somewhere")


def shifted(now: Routing, shares: Mapping[SiteRole, int], *, expected: Routing) -> Routing:
    """Return what ``Traffic.shift`` is to make of the records it found. Raises Refused, Conflict."""
    check_shares(shares, now)
    if now != expected:
        message = f"{now.name} leads to {now}, not to {expected}"
        raise Conflict(message, hint="someone else moved it; read it again")
    return Routing(now.name, {site: Way(way.address, shares[site]) for site, way in now.ways.items()}, now.ttl)
