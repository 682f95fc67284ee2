"""How hard one run codes: it starts fast, and follows what its own uploads and coders reach."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from understudy.transfer.link import Choice, CoderMeter, Effort, LinkMeter, choose, free_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: A choice stands for so long.
_SECONDS_MIN = 1.0


class Pace:
    """The choice in force. Safe to use from many threads."""

    def __init__(
        self, link: LinkMeter, *, effort: Effort | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take what measures the uploads; an ``effort`` that is given stays. ``clock`` is in seconds."""
        self._link = link
        self._fixed = effort
        self._clock = clock
        self._coders = CoderMeter()
        self._cores = free_cores()
        self._lock = threading.Lock()
        self._until = clock() + _SECONDS_MIN
        self._measured = False
        self._choice = choose(link_bytes_per_second=None, cores=self._cores, current=effort)

    @property
    def choice(self) -> Choice:
        """What is in force now."""
        with self._lock:
            now = self._clock()
            if self._fixed is None and now >= self._until:
                self._until = now + _SECONDS_MIN
                link = self._link.bytes_per_second
                self._measured = link is not None
                self._choice = choose(
                    link_bytes_per_second=link,
                    connection_bytes_per_second=self._link.connection_bytes_per_second,
                    cores=self._cores,
                    coder_rates=self._coders.rates,
                    ratios=self._coders.ratios,
                    current=self._choice.effort,
                )
            return self._choice

    @property
    def reason(self) -> str:
        """What was chosen and from which figures; empty where nothing was measured."""
        choice = self.choice
        return choice.reason if self._measured else ""

    def effort(self) -> Effort:
        """Return how hard the next chunk is coded."""
        return self.choice.effort

    @contextlib.contextmanager
    def coding(self, effort: Effort, plain_bytes: int) -> Iterator[Callable[[int], None]]:
        """Measure the coding of so many bytes in this thread; call what is given with the bytes that came of them."""
        started = time.thread_time()
        coded = plain_bytes

        def done(count: int) -> None:
            nonlocal coded
            coded = count

        yield done
        self._coders.coded(effort, plain_bytes, coded, time.thread_time() - started)
