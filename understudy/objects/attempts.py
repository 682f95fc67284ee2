"""How often an adapter tries again, and what it does when the answer to a write was lost."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

from understudy.errors import Conflict, NotFound, Throttled, Transient, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.objects.interface import ObjectInfo

Result = TypeVar("Result")

#: Seconds between tries. A dead server is noticed within about 5 s; one that asks for patience is given more of it.
_UNREACHABLE_WAITS = (0.15, 0.5)
_THROTTLED_WAITS = (0.2, 0.4, 0.8, 1.6, 3.2)
_UNREACHABLE_SECONDS_MAX = 4.0
_WAIT_RANDOM_SHARE = 0.5


class NeverSent(Unreachable):
    """The request did not leave: its effect cannot have happened."""


class CutShort(Unreachable):
    """The body ended before the length that was said: a broken connection, or a broken object."""


def persist(call: Callable[[], Result]) -> Result:
    """Call until it succeeds, a few times; for what may be done twice.

    Raises:
        Transient: it was in vain; the last error.
    """
    patience = _Patience()
    while True:
        try:
            return call()
        except Transient as error:
            if not patience.wait_after(error):
                if isinstance(error, CutShort):
                    # A server that says a length and sends less, or a network that cuts: nobody here can tell which.
                    hint = "run again; when it always ends there the object is damaged: understudy vault verify --deep"
                    raise CutShort(error.message, hint=hint) from error
                raise


def persist_write(call: Callable[[], ObjectInfo], look: Callable[[], ObjectInfo]) -> ObjectInfo:
    """Call a conditional write until it has an outcome, and find that out when an answer was lost.

    Args:
        call: the write; raises Conflict when its condition does not hold.
        look: describes the object when it holds the very bytes of this write; raises Conflict when it holds others,
            NotFound when the write has not happened.

    Raises:
        Conflict: the condition did not hold and what is there is not ours.
        Transient: nothing was written as far as can be known; the last error.
    """
    patience = _Patience()
    lost = False
    while True:
        try:
            return call()
        except Conflict:
            if not lost:
                raise
            try:
                return look()
            except NotFound:
                pass
            raise
        except Transient as error:
            lost = lost or not isinstance(error, (NeverSent, Throttled))
            if patience.wait_after(error):
                continue
            if not lost:
                raise
            try:
                return look()
            except (NotFound, Transient):
                pass
            raise


class _Patience:
    """Counts the failures of one call and sleeps between its tries."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._failures = 0

    def wait_after(self, error: Transient) -> bool:
        """Sleep before the next try and return True, or return False when there should be none."""
        waits = _THROTTLED_WAITS if isinstance(error, Throttled) else _UNREACHABLE_WAITS
        spent = time.monotonic() - self._started
        if self._failures >= len(waits) or (waits is _UNREACHABLE_WAITS and spent > _UNREACHABLE_SECONDS_MAX):
            return False
        time.sleep(waits[self._failures] * (1 + _WAIT_RANDOM_SHARE * random.random()))  # noqa: S311 - not cryptography
        self._failures += 1
        return True
