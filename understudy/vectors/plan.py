"""What to send and what to refuse, decided from figures alone. Pure: no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Rows that may vanish without being asked.
DELETES_MAX = 100
BUCKETS_MIN = 16
BUCKETS_MAX = 16_384
_ROWS_WANTED = 1024
_ROWS_TOLERATED = (128, 8192)


def bucket_count(rows: int, previous: int | None = None) -> int:
    """Return into how many buckets to cut ``rows``: a power of two, about 1,024 rows each.

    The previous count is kept as long as its buckets stay within 128 to 8,192 rows, because another count sends
    everything again.
    """
    wanted = BUCKETS_MIN
    while wanted * _ROWS_WANTED < rows and wanted < BUCKETS_MAX:
        wanted *= 2
    if previous is None:
        return wanted
    least, most = _ROWS_TOLERATED
    if rows > previous * most and previous < BUCKETS_MAX:
        return wanted
    if rows < previous * least and previous > BUCKETS_MIN:
        return wanted
    return previous


@dataclass(frozen=True, slots=True)
class Part:
    """One bucket as a manifest lists it: its number, rows, digest, and the object that holds it."""

    bucket: int
    rows: int
    digest: str
    size: int = 0
    sha256: str = ""


def changed_buckets(previous: Sequence[Part], current: Sequence[Part]) -> set[int]:
    """Return the buckets whose rows differ, appear or vanish between two cuts into the same number of buckets."""
    before = {part.bucket: part.digest for part in previous}
    after = {part.bucket: part.digest for part in current}
    return {bucket for bucket in before.keys() | after.keys() if before.get(bucket) != after.get(bucket)}


def hits_found(exact: Sequence[float], approximate: Sequence[float]) -> int:
    """Count approximate scores that belong among the exact ones; ties count, whichever row they name."""
    if not exact:
        return 0
    return min(len(exact), sum(score >= exact[-1] for score in approximate))


def recall(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """Return the mean share of exact hits that the approximate search found; 1.0 where there was nothing to find."""
    wanted = sum(len(exact) for exact, _ in pairs)
    return sum(hits_found(exact, approximate) for exact, approximate in pairs) / wanted if wanted else 1.0


def recall_queries(rows: int) -> int:
    """Return with how many queries to measure recall: each costs one scan of all rows."""
    return 50 if rows < 500_000 else 20 if rows < 5_000_000 else 10


def is_newer(candidate: tuple[int, str], current: Mapping[str, object] | None) -> bool:
    """Whether (sequence, ISO watermark in UTC) is ahead of what a pointer says."""
    if current is None:
        return True
    return candidate > (int(str(current.get("sequence", 0))), str(current.get("watermark", "")))
