"""Alerts in memory: what the interface promises, in few lines."""

from __future__ import annotations

from typing import ClassVar

from understudy.alerts.interface import Watched
from understudy.errors import Conflict


class MemoryAlerts:
    """One health check in this process."""

    control_plane = "memory"

    ABILITIES: ClassVar[dict[str, str]] = {
        "compare-and-set": "under a lock",
        "control plane": "none",
    }

    def __init__(self, address: str, port: int) -> None:
        """Watch an address."""
        self._watched = Watched(address, port, "1")

    def read(self) -> Watched:
        """See the interface."""
        return self._watched

    def point(self, address: str, port: int, *, expected: Watched) -> Watched:
        """See the interface."""
        if expected != self._watched:
            message = f"the health check was changed by someone else; it watches {self._watched.address}"
            raise Conflict(message, hint="read it again")
        if (address, port) != (expected.address, expected.port):
            self._watched = Watched(address, port, str(int(expected.token) + 1))
        return self._watched
