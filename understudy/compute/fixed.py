"""Instances whose number somebody else keeps: ``fixed://COUNT``, for a standby that always runs in full.

There is nothing to ask and nothing to scale; whether they answer is found out by the health that a plan looks at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from understudy.compute.interface import Group
from understudy.errors import NotReady, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

_HINT = "scale it by hand, and write the new count in the URL"


class FixedCompute:
    """A group of as many instances as the config says."""

    ABILITIES: ClassVar[dict[str, str]] = {
        "compare-and-set": "no, there is nothing to set",
        "control plane": "none",
    }

    control_plane = "none"

    def __init__(self, count: int) -> None:
        """Take how many instances always run."""
        self._group = Group(f"the {count} fixed instances", count, count, stable=True)

    def read(self) -> Group:
        """See the interface."""
        return self._group

    def resize(self, size: int) -> Group:
        """See the interface; a group that is large enough stays as it is."""
        if size < 0 or size > self._group.size:
            raise Refused(f"{self._group.name} cannot become {size}", hint=_HINT)
        return self._group

    def await_running(self, size: int, *, seconds_max: float, tell: Callable[[Group], None] | None = None) -> Group:
        """See the interface."""
        if tell is not None:
            tell(self._group)
        if self._group.running < size:
            message = f"{self._group.running} of {size} instances run after {seconds_max:g}s: their number is fixed"
            raise NotReady(message, hint=_HINT)
        return self._group
