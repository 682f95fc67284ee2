"""The instances that serve at a site, in our words. ``memory.py`` is its executable description."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


#: What every adapter says of itself in ``ABILITIES``, in words; "no" begins what it cannot.
ABILITIES = ("compare-and-set", "control plane")


@dataclass(frozen=True, slots=True)
class Group:
    """A group of equal instances.

    Attributes:
        name: of the group.
        size: how many there are to be.
        running: how many run, and answer where the vendor's group watches that.
        stable: the vendor is not changing anything: all that is to be there is there.
    """

    name: str
    size: int
    running: int
    stable: bool


class Compute(Protocol):
    """One group of instances. Errors of every method: Unreachable, Throttled, Denied, NotFound.

    Attributes:
        control_plane: what answers these calls, as a plan names it; "none" where nobody has to.
    """

    control_plane: str

    def read(self) -> Group:
        """Return the group as it is now."""

    def resize(self, size: int) -> Group:
        """Ask for that many instances, and return when the vendor has accepted it; the same size again changes nothing.

        Raises:
            Refused: no capacity or quota for it, in the vendor's words.
        """

    def await_running(self, size: int, *, seconds_max: float, tell: Callable[[Group], None] | None = None) -> Group:
        """Wait until the group is stable with at least ``size`` running instances.

        Args:
            size: how many must run.
            seconds_max: how long to wait.
            tell: called with every change that is seen.

        Raises:
            NotReady: not within that time; says how many run.
        """
