"""How hard what is sent is worth to be coded: on a slow link every byte counts, on a quick one the coders hold it up.

``choose`` is pure. ``LinkMeter`` and ``CoderMeter`` tell it what this run reaches, so that the choice follows the link.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Effort = Literal["raw", "fast", "dense"]

#: Plain bytes a second that one core brings on its way, and coded bytes for one plain byte: of bf16 weights, measured
#: on one machine. They hold until a run has measured its own.
USUAL_RATES: dict[Effort, float] = {"raw": 0.7e9, "fast": 0.35e9, "dense": 0.1e9}
USUAL_RATIOS: dict[Effort, float] = {"raw": 1.0, "fast": 0.67, "dense": 0.66}
UPLOADS_USUAL = 3
READS_USUAL = 4

_RAW_TIMES_QUICKER = 3.0
#: The effort in force may be slower than another by this share, so that a choice does not swing.
_STAYS_TO = 1.15
_UPLOADS_MIN, _UPLOADS_MAX = 2, 6  # a pack of 32 MiB each, in memory
_READS_MAX = 8
#: A meter says nothing before so many bytes have passed, and forgets half of what is older than so many busy seconds.
_METERED_BYTES_MIN = 8 << 20
_MEMORY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Choice:
    """How a run sends.

    Attributes:
        effort: raw (as it is), fast, or dense (fewest bytes).
        uploads: packs on their way at once.
        reads: ranges of the source read at once.
        reason: for the report: what was chosen, and from which figures.
    """

    effort: Effort
    uploads: int
    reads: int
    reason: str


def choose(
    *,
    link_bytes_per_second: float | None,
    cores: float,
    coder_rates: Mapping[Effort, float] | None = None,
    ratios: Mapping[Effort, float] | None = None,
    connection_bytes_per_second: float | None = None,
    current: Effort | None = None,
) -> Choice:
    """Return the effort by which the run ends first; of those that end together, the one that sends fewest. Pure.

    An effort takes, for a plain byte, the longer of what the cores need to code it and of what the link needs to carry
    what is left of it. A byte that crosses is paid for, so bytes as they are are sent only where that is much quicker.

    Args:
        link_bytes_per_second: what uploads reach, or may reach; None before anything is known: then it is fast.
        cores: that are free to code.
        coder_rates: plain bytes a second of one core, by effort; what is absent is the usual.
        ratios: coded bytes for one plain byte, by effort; what is absent is the usual.
        connection_bytes_per_second: what one upload reaches, None when that is not known.
        current: the effort in force, which stays unless another is clearly quicker.
    """
    rates = {**USUAL_RATES, **(coder_rates or {})}
    shares = {**USUAL_RATIOS, **(ratios or {})}
    cores = max(cores, 0.25)
    reads = max(READS_USUAL, min(_READS_MAX, math.ceil(cores)))
    if link_bytes_per_second is None:
        effort: Effort = current or "fast"
        return Choice(effort, UPLOADS_USUAL, reads, f"{effort}: the link is not measured yet")
    link = max(link_bytes_per_second, 1.0)
    seconds: dict[Effort, float] = {
        effort: max(1 / (cores * rates[effort]), shares[effort] / link) for effort in USUAL_RATES
    }
    stays: dict[Effort, float] = {effort: _STAYS_TO if effort == current else 1.0 for effort in USUAL_RATES}
    # Where its coders keep up, dense costs nothing but CPU, however little it saves.
    keeps_up = 1 / (cores * rates["dense"]) <= shares["dense"] / link * stays["dense"] / stays["fast"]
    quicker = seconds["dense"] <= seconds["fast"] * stays["dense"] / stays["fast"]
    effort = "dense" if keeps_up or quicker else "fast"
    if seconds["raw"] * _RAW_TIMES_QUICKER < seconds[effort] * stays["raw"] / stays[effort]:
        effort = "raw"
    uploads = UPLOADS_USUAL
    if connection_bytes_per_second:
        wanted = cores * rates[effort] * shares[effort] / max(connection_bytes_per_second, 1.0)
        uploads = max(_UPLOADS_MIN, min(_UPLOADS_MAX, math.ceil(wanted)))
    whole = f"{cores:.0f} cores" if round(cores) != 1 else "1 core"
    reason = f"{effort}: link {_rate(link)}, coders {_rate(cores * rates[effort])} on {whole}"
    return Choice(effort, uploads, reads, reason)


class LinkMeter:
    """Measures what uploads reach together, and each of them. Safe to use from many threads.

    Time in which nothing is on its way does not count, so a run whose coders are slow does not make the link slow.
    What a bandwidth limit holds back does count, for the link is no quicker then.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing known; ``clock`` is in seconds, of any beginning."""
        self._clock = clock
        self._lock = threading.Lock()
        self._active = 0
        self._since = clock()
        self._bytes = 0.0
        self._busy = 0.0
        self._connected = 0.0

    @contextlib.contextmanager
    def passing(self, count: int) -> Iterator[None]:
        """Measure an upload of ``count`` bytes; one that fails leaves its time, and no bytes."""
        with self._lock:
            self._advance()
            self._active += 1
        passed = 0
        try:
            yield
            passed = count
        finally:
            with self._lock:
                self._advance()
                self._active -= 1
                self._bytes += passed
                if self._busy > _MEMORY_SECONDS:
                    self._bytes, self._busy, self._connected = self._bytes / 2, self._busy / 2, self._connected / 2

    @property
    def bytes_per_second(self) -> float | None:
        """What all uploads reach together; None before enough has passed."""
        with self._lock:
            known = self._bytes >= _METERED_BYTES_MIN and self._busy > 0
            return self._bytes / self._busy if known else None

    @property
    def connection_bytes_per_second(self) -> float | None:
        """What one upload reaches beside the others; None before enough has passed."""
        with self._lock:
            known = self._bytes >= _METERED_BYTES_MIN and self._connected > 0
            return self._bytes / self._connected if known else None

    def _advance(self) -> None:
        now = self._clock()
        if self._active:
            self._busy += now - self._since
            self._connected += self._active * (now - self._since)
        self._since = now


class CoderMeter:
    """Measures what the coders reach on one core, by effort. Safe to use from many threads."""

    def __init__(self) -> None:
        """Begin with nothing known."""
        self._lock = threading.Lock()
        self._sums: dict[Effort, tuple[int, int, float]] = {}

    def coded(self, effort: Effort, plain_bytes: int, coded_bytes: int, cpu_seconds: float) -> None:
        """Count one run of bytes: its CPU-seconds are those of its own thread (``time.thread_time``)."""
        with self._lock:
            plain, coded, seconds = self._sums.get(effort, (0, 0, 0.0))
            self._sums[effort] = (plain + plain_bytes, coded + coded_bytes, seconds + cpu_seconds)

    @property
    def rates(self) -> dict[Effort, float]:
        """Plain bytes for a CPU-second, of the efforts that enough has passed of."""
        with self._lock:
            return {
                effort: plain / seconds
                for effort, (plain, _, seconds) in self._sums.items()
                if plain >= _METERED_BYTES_MIN and seconds > 0
            }

    @property
    def ratios(self) -> dict[Effort, float]:
        """Coded bytes for a plain byte, likewise."""
        with self._lock:
            return {
                effort: coded / plain for effort, (plain, coded, _) in self._sums.items() if plain >= _METERED_BYTES_MIN
            }


def free_cores(*, quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> float:
    """Return how many cores this process may use: those it may run on, or fewer where a container's quota says so."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        quota, period = quota_file.read_text(encoding="ascii").split()
        return min(cores, int(quota) / int(period)) if quota != "max" else cores
    except (OSError, ValueError, ZeroDivisionError):
        return cores


def _rate(bytes_per_second: float) -> str:
    if bytes_per_second >= 1e9:
        return f"{bytes_per_second / 1e9:.1f} GB/s"
    return f"{bytes_per_second / 1e6:.0f} MB/s" if bytes_per_second >= 1e6 else f"{bytes_per_second / 1e3:.0f} kB/s"
