"""Compute in memory: what the interface promises, in few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from understudy.compute.interface import Group
from understudy.errors import NotReady, Refused

if TYPE_CHECKING:
    from collections.abc import Callable


class MemoryCompute:
    """A group whose instances run at once, up to a capacity."""

    control_plane = "memory"

    ABILITIES: ClassVar[dict[str, str]] = {
        "compare-and-set": "no",
        "control plane": "none",
    }

    def __init__(self, name: str, *, size: int, capacity: int = 1000) -> None:
        """Start with ``size`` running instances of at most ``capacity``."""
        self.resizes = 0
        self._group = Group(name, size, min(size, capacity), stable=size <= capacity)
        self._capacity = capacity

    def read(self) -> Group:
        """See the interface."""
        return self._group

    def resize(self, size: int) -> Group:
        """See the interface."""
        if size < 0:
            message = f"{self._group.name} cannot have {size} instances"
            raise Refused(message, hint="ask for 0 or more")
        if size != self._group.size:
            self.resizes += 1
            self._group = Group(self._group.name, size, min(size, self._capacity), stable=size <= self._capacity)
        return self._group

    def await_running(self, size: int, *, seconds_max: float, tell: Callable[[Group], None] | None = None) -> Group:
        """See the interface."""
        if tell is not None:
            tell(self._group)
        if self._group.running < size or not self._group.stable:
            message = f"{self._group.running} of {size} instances of {self._group.name} run after {seconds_max:g}s"
            raise NotReady(message, hint="ask for fewer, or for another type or zone")
        return self._group
