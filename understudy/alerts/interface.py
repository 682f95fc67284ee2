"""What the monitoring watches, in our words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

#: What every adapter says of itself in ``ABILITIES``, in words; "no" begins what it cannot.
ABILITIES = ("compare-and-set", "control plane")


@dataclass(frozen=True, slots=True)
class Watched:
    """What a health check and its alarms look at.

    Attributes:
        address: IPv4 address of the load balancer that is probed.
        port: TCP port.
        token: changes with every change; what compare-and-set compares.
    """

    address: str
    port: int
    token: str


class Alerts(Protocol):
    """One health check. Errors of every method: Unreachable, Throttled, Denied, NotFound.

    Attributes:
        control_plane: what answers these calls, as a plan names it.
    """

    control_plane: str

    def read(self) -> Watched:
        """Return what is watched now."""

    def point(self, address: str, port: int, *, expected: Watched) -> Watched:
        """Watch another address and return what is read back; the same address again changes nothing.

        Raises:
            Conflict: someone else changed it since ``expected`` was read.
        """
