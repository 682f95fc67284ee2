"""What every replication returns: counts, bytes, watermark, verdict, and one sentence that says it all."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from datetime import datetime

Verdict = Literal["changed", "unchanged", "held"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of one replication or rebuild of one thing.

    Attributes:
        noun: artifacts, vectors, offline or features.
        name: the model, index or view.
        verdict: ``changed``, ``unchanged`` (nothing had to be done) or ``held`` (kept, and not yet served).
        sentence: what was done, with its figures, as a person reads it.
        items_total: files, rows or cells looked at.
        items_new: of these, how many were sent or written.
        bytes_total: plain bytes of all items.
        bytes_read: bytes read from the source's data (listings excluded).
        bytes_sent: bytes written to the target.
        seconds: wall time.
        watermark: before this moment on the source's clock every committed change is in; None where there is none yet.
        version: what the target has now (a version, or a sequence number).
        proven: by what the result was proven ("sha256 12/12", "digest").
        details: more figures, JSON values only.
    """

    noun: str
    name: str
    verdict: Verdict
    sentence: str
    items_total: int = 0
    items_new: int = 0
    bytes_total: int = 0
    bytes_read: int = 0
    bytes_sent: int = 0
    seconds: float = 0.0
    watermark: datetime | None = None
    version: str = ""
    proven: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values, the watermark in ISO 8601 with its zone."""
        values = asdict(self)
        values["watermark"] = self.watermark.isoformat() if self.watermark else None
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of the bytes that a push has done so far; all are totals of the version under way, never parts.

    Attributes:
        known: plain bytes that the vault had already: read and hashed, and not sent.
        coded: plain bytes that were not known, and were coded.
        sent: bytes of packs that the vault has taken; what is coded waits for its pack to be full.
    """

    known: int = 0
    coded: int = 0
    sent: int = 0


class Progress(Protocol):
    """Called now and then during long work, from any thread; must return at once."""

    def __call__(self, what: str, done: int, total: int | None, unit: str, counts: Counts | None = None) -> None:
        """Say that ``done`` of ``total`` ``unit`` (bytes, rows) of ``what`` are finished.

        Args:
            what: names the work, the same from its first call to its last.
            done: so much is finished; never less than the call before said.
            total: None is unknown.
            unit: ``bytes``, ``rows``, ``files`` and the like.
            counts: of a push, what became of the ``done`` bytes; None where nothing is deduplicated.
        """


def quiet(what: str, done: int, total: int | None, unit: str, counts: Counts | None = None) -> None:
    """Show nothing: the progress of tests and of machines."""


_SIZE_STEP = 1000


def human_bytes(count: float) -> str:
    """Return a size as people read it: ``820 B``, ``3.1 MB``, ``1.00 GB`` (powers of 1000)."""
    if count < _SIZE_STEP:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= _SIZE_STEP
        if count < _SIZE_STEP:
            return f"{count:.3g} {unit}" if unit != "GB" else f"{count:.2f} GB"
    return f"{count / _SIZE_STEP:.2f} TB"


def human_seconds(seconds: float) -> str:
    """Return a duration as people read it: ``8s``, ``1m10s``, ``1h12m``, ``4d02h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f}s" if seconds < 10 and seconds != whole else f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"
