"""How many bytes pass between the sites in a month, and the stop before they are more than the config allows.

The count stands in the vault, ``pointers/transfer/<year>-<month>.json``, and every run adds to it by compare-and-set:
runs on many machines share one budget. The month is that of the store's clock, in UTC.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from understudy.errors import Corrupt, Refused
from understudy.report import human_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from understudy.vault.store import Vault

PREFIX = "pointers/transfer/"
#: What a run that is killed has sent without writing it down is less than this, and what it sent in so many seconds.
_UNWRITTEN_BYTES_MAX = 64 << 20
_UNWRITTEN_SECONDS = 2.0  # a store takes about one write a second of one object
#: Less than this is not worth a request of its own: it waits for more, and the end of the run forgets it.
_WORTH_WRITING_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Transferred:
    """What passed in one month.

    Attributes:
        month: such as ``2026-11``.
        bytes: between the sites, either way.
        budget: how many may; None without a limit.
    """

    month: str
    bytes: int
    budget: int | None

    @property
    def sentence(self) -> str:
        """For people: ``14.20 TB of 20.00 TB in 2026-11 (71 %)``."""
        if self.budget is None:
            return f"{human_bytes(self.bytes)} in {self.month}"
        share = f"{100 * self.bytes / self.budget:.0f} %"
        return f"{human_bytes(self.bytes)} of {human_bytes(self.budget)} in {self.month} ({share})"

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"month": self.month, "bytes": self.bytes, "budget": self.budget}


def key_of(month: str) -> str:
    """Return where a month's count stands in the vault."""
    return f"{PREFIX}{month}.json"


def month_of(moment: datetime) -> str:
    """Return the month of a moment (aware, UTC)."""
    return f"{moment:%Y-%m}"


def read_transferred(vault: Vault, budget: int | None, now: datetime) -> Transferred:
    """Return what passed in the month of ``now``, by the vault's clock. Raises Corrupt."""
    month = month_of(now)
    return Transferred(month, _count(vault.pointer(key_of(month)), vault, month), budget)


class TransferBudget:
    """Counts what passes in a run, and refuses what would be too much. Safe to use from many threads."""

    def __init__(
        self, vault: Vault, bytes_max: int, *, file: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take a limit; nothing is asked yet.

        Args:
            vault: where the count stands.
            bytes_max: of one month.
            file: where the limit is written, for the refusal.
            clock: in seconds, of any beginning.
        """
        self._vault = vault
        self._bytes_max = bytes_max
        self._file = file
        self._clock = clock
        self._lock = threading.Lock()
        self._known: int | None = None
        self._month = ""
        self._pending = 0
        self._written_at = clock()

    def spend(self, count: int) -> None:
        """Count bytes that are about to be sent.

        Raises:
            Refused: the month's budget does not allow them; they are not counted.
            Denied: the count may not be kept.
        """
        with self._lock:
            if self._known is None:
                self._read()
            if self._total() + count > self._bytes_max:
                self._write()  # others' bytes are seen too, or a new month
                if self._total() + count > self._bytes_max:
                    raise self._refusal(count)
            self._pending += count
            self._write_in_time()

    def note(self, count: int) -> None:
        """Count bytes that were read from the other site; they are never refused. Raises Denied."""
        with self._lock:
            self._pending += count
            self._write_in_time()

    def flush(self) -> None:
        """Write down what was counted, but for a few bytes."""
        with self._lock:
            if self._pending >= _WORTH_WRITING_BYTES:
                self._write()

    def _total(self) -> int:
        return (self._known or 0) + self._pending

    def _read(self) -> None:
        found = read_transferred(self._vault, self._bytes_max, self._vault.store.now())
        self._month, self._known = found.month, found.bytes

    def _write_in_time(self) -> None:
        long_ago = self._clock() - self._written_at >= _UNWRITTEN_SECONDS
        if self._pending >= _UNWRITTEN_BYTES_MAX and long_ago:
            self._write()

    def _write(self) -> None:
        month = month_of(self._vault.store.now())
        adding = self._pending

        def add(found: Any) -> dict[str, int]:  # noqa: ANN401 - any JSON value
            return {"bytes": _count(found, self._vault, month) + adding}

        # Adding nothing writes nothing, and tells what others added.
        moved = self._vault.move_pointer(key_of(month), add) if adding else self._vault.pointer(key_of(month))
        self._month, self._known = month, _count(moved, self._vault, month)
        self._pending -= adding
        self._written_at = self._clock()

    def _refusal(self, count: int) -> Refused:
        found = Transferred(self._month, self._total(), self._bytes_max)
        return Refused(
            f"limits.transfer_month is used up: {found.sentence}, and {human_bytes(count)} more would be sent",
            hint=f"raise limits.transfer_month{f' in {self._file}' if self._file else ''}, or wait for the next month; "
            "what was sent is kept, and the next run goes on from there",
        )


def _count(found: Any, vault: Vault, month: str) -> int:  # noqa: ANN401 - any JSON value
    """Return the bytes that a pointer tells; it is a stranger's until it is proven. Raises Corrupt."""
    if found is None:
        return 0
    count = found.get("bytes") if isinstance(found, dict) else None
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count < 1 << 63:
        raise Corrupt(
            f"{key_of(month)} in {vault.url} tells no count of bytes", hint="remove it; the count begins anew"
        )
    return count
