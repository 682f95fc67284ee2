"""How far long work is, how quick it goes and when it will end: what the terminal and the run page both show."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from understudy.report import human_bytes, human_seconds

if TYPE_CHECKING:
    from understudy.report import Counts

#: The rate is that of so many seconds: it follows a link that slows down, and does not jump with every chunk.
_WINDOW_SECONDS = 15.0
_SAMPLES_SECONDS = 0.25
#: So many works are remembered at once; of more, the one that was silent longest begins anew.
_WORKS_MAX = 16
_RATE_SECONDS_MIN = 0.5


@dataclass(frozen=True, slots=True)
class Reading:
    """How far one work is.

    Attributes:
        what: names it.
        done: ``unit``s that are finished.
        total: of all; None is unknown.
        unit: ``bytes``, ``rows`` and the like.
        rate: units a second lately; None until that can be said.
        left_seconds: until it ends at that rate; None until that can be said.
        counts: what became of a push's bytes; None for other work.
    """

    what: str
    done: int
    total: int | None
    unit: str
    rate: float | None
    left_seconds: float | None
    counts: Counts | None

    @property
    def percent(self) -> float:
        """How much is done, 0 to 100; 0 where the total is unknown."""
        if self.total is None:
            return 0.0
        return 100.0 if self.total <= 0 else max(0.0, min(100.0, 100 * self.done / self.total))

    @property
    def line(self) -> str:
        """One line for people: ``m 2: 512 MB of 1.00 GB (51 %), 480 MB known, 32 MB coded, 18 MB sent, 210 MB/s``."""
        parts = [self._amount(self.done)]
        if self.total:
            parts[0] += f" of {self._amount(self.total)} ({int(self.percent)} %)"
        if self.counts is not None:
            parts += [
                f"{human_bytes(self.counts.known)} known",
                f"{human_bytes(self.counts.coded)} coded",
                f"{human_bytes(self.counts.sent)} sent",
            ]
        if self.rate:
            parts.append(f"{human_bytes(self.rate)}/s" if self.unit == "bytes" else f"{self.rate:,.0f} {self.unit}/s")
        if self.left_seconds is not None:
            parts.append(f"about {human_seconds(self.left_seconds)} left")
        return f"{self.what}: {', '.join(parts)}"

    def _amount(self, count: int) -> str:
        return human_bytes(count) if self.unit == "bytes" else f"{count:,} {self.unit}"


class Meter:
    """Turns the calls of ``Progress`` into readings. Safe to use from many threads; a call costs microseconds."""

    def __init__(self) -> None:
        """Begin with nothing under way."""
        self._lock = threading.Lock()
        self._works: OrderedDict[str, deque[tuple[float, int]]] = OrderedDict()

    def read(
        self, what: str, done: int, total: int | None, unit: str, counts: Counts | None = None, *, now: float
    ) -> Reading:
        """Take note of how far a work is, and return that with its rate.

        Args:
            what: as in ``Progress``, and so are ``done``, ``total``, ``unit`` and ``counts``.
            done: less than before begins the work anew.
            total: None is unknown.
            unit: of both.
            counts: of a push.
            now: seconds of a clock that never goes back.
        """
        with self._lock:
            marks = self._works.setdefault(what, deque())
            self._works.move_to_end(what)
            while len(self._works) > _WORKS_MAX:
                self._works.popitem(last=False)
            if marks and done < marks[-1][1]:
                marks.clear()
            if not marks or now - marks[-1][0] >= _SAMPLES_SECONDS:
                marks.append((now, done))
            while len(marks) > 1 and now - marks[1][0] >= _WINDOW_SECONDS:
                marks.popleft()
            since, base = marks[0]
        elapsed = now - since
        rate = (done - base) / elapsed if elapsed >= _RATE_SECONDS_MIN and done > base else None
        left = (total - done) / rate if rate and total is not None and total >= done else None
        return Reading(what, done, total, unit, rate, left, counts)
