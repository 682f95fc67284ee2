"""Which share of a vault is read tonight, so that after so many nights all of it was: pure.

Every object has a fixed place between 0 and 1, the BLAKE3 of its key, so neighbours have nothing to do with each
other: a night's share is a random sample of packs, tables and documents, and of old and new ones. The nights go
through the places in order and remember where they stopped. So what is in the vault when a round begins was read when
it ends, whatever is added meanwhile, and whichever nights were missed.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blake3 import blake3

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

#: Hex digits of a place: 64 bits.
PLACE_DIGITS = 16


def place(key: str) -> str:
    """Return where a key stands in a round: 16 hex digits, the beginning of its BLAKE3."""
    return blake3(key.encode()).hexdigest()[:PLACE_DIGITS]


def is_place(text: object) -> bool:
    """Return whether this is a place, or the beginning of a round (empty)."""
    digits = "0123456789abcdef"
    return isinstance(text, str) and len(text) in (0, PLACE_DIGITS) and all(digit in digits for digit in text)


def share_done(cursor: str) -> float:
    """Return how much of a round is done: 0 at its beginning, less than 1 before its end."""
    return int(cursor, 16) / 16**PLACE_DIGITS if cursor else 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """How much one night reads.

    Attributes:
        share: of the bytes of all objects, more than 0 and at most 1.
        bytes_max: no more than this, save for one object that is longer.
        cursor: where the night before stopped; empty begins a round.
        again: keys that were damaged when they were last read: they are read in any case.
    """

    share: float
    bytes_max: int
    cursor: str = ""
    again: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a night reads.

    Attributes:
        keys: of the objects.
        cursor: where the next night goes on; empty when the round is done.
    """

    keys: frozenset[str]
    cursor: str


def choose(objects: Iterable[tuple[str, int]], sample: Sample) -> Chosen:
    """Return which of a vault's objects (key, bytes) are read tonight: at least one, while there is one."""
    placed = sorted((place(key), key, size) for key, size in objects)
    total = sum(size for _, _, size in placed)
    wanted = min(sample.share * total, float(sample.bytes_max))
    start = bisect_right(placed, sample.cursor, key=lambda each: each[0]) if sample.cursor else 0
    taken, position = 0, start
    while position < len(placed):
        size = placed[position][2]
        if position > start and (taken >= wanted or taken + size > sample.bytes_max):
            break
        taken += size
        position += 1
    # Two keys of one place would be parted for ever: the second one is read with the first.
    while start < position < len(placed) and placed[position][0] == placed[position - 1][0]:
        position += 1
    keys = frozenset(key for _, key, _ in placed[start:position]) | _present(placed, sample.again)
    return Chosen(keys, "" if position == len(placed) else placed[position - 1][0])


def _present(placed: Iterable[tuple[str, str, int]], wanted: Collection[str]) -> frozenset[str]:
    return frozenset(key for _, key, _ in placed if key in wanted) if wanted else frozenset()
