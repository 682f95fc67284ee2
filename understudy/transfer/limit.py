"""A limit on bytes a second, over all threads of a run."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: What was not used may be used later, as far as this.
CREDIT_SECONDS = 1.0


class Bandwidth:
    """Lets bytes pass at a rate. Safe to use from many threads.

    Bytes are paid for before they go, each request as a whole. So N bytes of a run take no less than N / rate seconds,
    but for one second's worth; within a request the network sets the pace.
    """

    def __init__(
        self,
        bytes_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Begin with a credit of one second.

        Args:
            bytes_per_second: the rate.
            clock: in seconds, of any beginning.
            sleep: waits so many seconds.
        """
        self.bytes_per_second = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._paid_until = clock() - CREDIT_SECONDS

    def take(self, count: int) -> float:
        """Wait until ``count`` bytes may go, and return how many seconds that took. In the order of the calls."""
        with self._lock:
            now = self._clock()
            self._paid_until = max(self._paid_until, now - CREDIT_SECONDS) + count / self.bytes_per_second
            wait = self._paid_until - now
        if wait <= 0:
            return 0.0
        self._sleep(wait)
        return wait
