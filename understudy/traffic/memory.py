"""Traffic in memory: what the interface promises, in few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from understudy.errors import NotReady
from understudy.traffic.interface import SHARE_MAX, Routing, Way, shifted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from understudy.settings import SiteRole


class MemoryTraffic:
    """The records of one name in this process."""

    control_plane = "memory"
    compare_and_set = True

    ABILITIES: ClassVar[dict[str, str]] = {
        "compare-and-set": "under a lock",
        "control plane": "none",
    }

    def __init__(self, name: str) -> None:
        """Start without records."""
        self.name = name
        self.shifts = 0
        self._routing: Routing | None = None

    def read(self) -> Routing:
        """See the interface."""
        if self._routing is None:
            message = f"{self.name} has no records"
            raise NotReady(message, hint="write them once while the home site serves")
        return self._routing

    def prepare(self, addresses: Mapping[SiteRole, str], *, active: SiteRole, ttl: int) -> Routing:
        """See the interface."""
        ways = {site: Way(address, SHARE_MAX if site == active else 0) for site, address in addresses.items()}
        self._routing = Routing(self.name, ways, ttl)
        return self._routing

    def shift(self, shares: Mapping[SiteRole, int], *, expected: Routing) -> Routing:
        """See the interface."""
        now = self.read()
        meant = shifted(now, shares, expected=expected)
        if meant != now:
            self.shifts += 1
            self._routing = meant
        return self.read()
