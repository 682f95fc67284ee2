"""The online feature store in our words. ``memory.py`` is its executable description; adapters pass one contract.

A store has **generations**: data tables (``<name>__<generation>`` where the vendor has tables), of which the
**pointer** names the live one. A rebuild fills a fresh generation, proves it and moves the pointer by the vendor's own
compare-and-set.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from understudy.errors import Corrupt, Unsupported
from understudy.report import Progress, quiet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

#: Digits of a time in a version text; microseconds since 1970 need 16 until the year 2286.
_DIGITS = 17
_TIE_DIGITS = 16
_MICROS_MAX = 10**_DIGITS - 1

#: What every adapter says of itself in ``ABILITIES``, in words; "no" begins what it cannot.
ABILITIES = ("newest wins", "pointer", "bulk", "limits")

Key = tuple[str, str]


class Cell(NamedTuple):
    """The value of one feature of one entity.

    Attributes:
        entity: whose feature it is; not empty.
        feature: which one; not empty.
        value: canonical JSON text (``canonical_json``); None is a tombstone: the feature was deleted.
        event_us: event time, microseconds since 1970 UTC.
        created_us: when it was written, microseconds since 1970 UTC.
    """

    entity: str
    feature: str
    value: str | None
    event_us: int
    created_us: int

    @property
    def key(self) -> Key:
        """What newest-wins compares within."""
        return self.entity, self.feature


def version_of(cell: Cell) -> str:
    """Return a text that sorts as newest-wins does: event time, created time, tombstones last, then the value's MD5.

    Every store, the log and the offline truth decide by this one order, so that equal times end equal everywhere.
    Raises Unsupported for times before 1970 or beyond the year 5138.
    """
    if not (0 <= cell.event_us <= _MICROS_MAX and 0 <= cell.created_us <= _MICROS_MAX):
        message = f"{cell.entity}/{cell.feature} has an event or created time outside the years 1970 to 5138"
        raise Unsupported(message, hint="correct the row in the offline store")
    if cell.value is None:
        tie = "1" + "0" * _TIE_DIGITS
    else:
        digest = hashlib.md5(cell.value.encode("utf-8", "surrogatepass"), usedforsecurity=False)
        tie = "0" + digest.hexdigest()[:_TIE_DIGITS]
    return f"{cell.event_us:0{_DIGITS}d} {cell.created_us:0{_DIGITS}d} {tie}"


def times_of(version: str) -> tuple[int, int, bool]:
    """Return (event_us, created_us, whether it is a tombstone) of a version text. Raises Corrupt."""
    try:
        event, created, tie = version.split(" ")
        return int(event), int(created), tie[0] == "1"
    except (ValueError, IndexError) as error:
        message = f"{version!r} is no version of a feature"
        raise Corrupt(message, hint="something else writes into this table") from error


def canonical_json(value: Any) -> str:  # noqa: ANN401 - what a Parquet cell can hold
    """Return the one JSON text of a value: sorted keys, no spaces, floats as their shortest exact text, ISO times.

    Not-a-number and infinities are ``NaN``, ``Infinity``, ``-Infinity``, as Python's json reads and writes them.
    Decimals are strings. Raises Unsupported for bytes and other types without a JSON form.
    """
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError) as error:
        message = f"a feature's value of type {type(value).__name__} has no JSON form"
        raise Unsupported(message, hint="write numbers, strings, booleans, times, lists or maps of them") from error


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            return value.isoformat(timespec="microseconds")
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    message = f"{type(value).__name__} has no JSON form"
    raise TypeError(message)


def micros(moment: datetime) -> int:
    """Return microseconds since 1970 of an aware time, exactly."""
    delta = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointer:
    """What is live, kept in the store itself and moved by compare-and-set.

    Attributes:
        revision: grows by one with every move, so that no two pointers are equal.
        generation: the live data table.
        sequence: of ``features/<view>/<sequence>.json``, from which it was filled; 0 when it began empty.
        manifest: the digest of that manifest's files, because another vault numbers its own.
        as_of: ISO time of an explicit ``as_of``; None when it holds all that the sequence has.
        watermark: ISO time of the offline store's watermark when it was filled.
        digest: hex BLAKE3 over the truth that was read back; after a catch-up chained with what that wrote.
        cells: values (tombstones not counted) in the truth of the last full rebuild.
        set_aside: rows that were left out because their event time lay far in the future.
        set_aside_from_us: the least event time of these (microseconds); they count when the limit reaches it.
        carry_from: the generation whose late live writes are still to be carried over; None when done.
        carry_since_us: created time from which on they count.
    """

    revision: int
    generation: int
    sequence: int
    manifest: str = ""
    as_of: str | None = None
    watermark: str | None = None
    digest: str = ""
    cells: int = 0
    set_aside: int = 0
    set_aside_from_us: int = 0
    carry_from: int | None = None
    carry_since_us: int = 0

    def to_text(self) -> str:
        """Return it as the store keeps it: JSON, sorted keys."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Pointer:
        """Read it back. Raises Corrupt."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            message = f"the pointer of the feature store cannot be read: {text[:80]!r}"
            raise Corrupt(message, hint="rebuild the features after removing the item #pointer") from error

    def moved(self, **changes: Any) -> Pointer:  # noqa: ANN401 - the fields of this class
        """Return the next revision with these fields changed."""
        return replace(self, revision=self.revision + 1, **changes)


class OnlineStore(Protocol):
    """Features by entity, ready for inference. Safe to use from many threads.

    Errors of every method: Unreachable, Throttled, Denied. Adapters retry transient faults a few times themselves.

    Attributes:
        vendor: as reports name it: ``dynamodb``, ``bigtable``, ``redis``.
        name: of the control table, and the stem of the data tables.
    """

    vendor: str
    name: str

    def generations(self) -> list[int]:
        """Return the numbers of all data tables in order, live or not, half filled ones included."""

    def create_generation(self, generation: int) -> None:
        """Make an empty data table, ready to be written. Raises Conflict when it is there already."""

    def drop_generation(self, generation: int) -> None:
        """Remove a data table with all that it holds; not an error when it is not there."""

    def fill(self, generation: int, cells: Iterable[Cell], *, progress: Progress = quiet) -> int:
        """Write cells in bulk and return how many. Only for a generation that is not live.

        Twice is the same as once; stopped half way, some cells are written. No key may come twice. A store may do it
        unconditionally, where that is quicker.
        """

    def write_newer(self, generation: int, cells: Sequence[Cell]) -> int:
        """Write each cell if it is newer (``version_of``) than what its key holds; return how many were.

        Each cell is decided atomically by the store. A tombstone hides the value and keeps older writes out.
        Idempotent. Raises NotFound when the generation is gone.
        """

    def scan(self, generation: int) -> Iterator[Cell]:
        """Yield every cell, tombstones included, in any order. Raises NotFound, also when it is dropped meanwhile.

        A store that reorganises itself, or is written to, may yield a cell again: the newest counts.
        """

    def read(self, generation: int, entity: str) -> dict[str, Cell]:
        """Return an entity's cells by feature, tombstones included; empty when it has none. Raises NotFound."""

    def read_keys(self, generation: int, keys: Sequence[Key]) -> dict[Key, Cell]:
        """Return the cells of these keys, tombstones included; absent keys are left out. Raises NotFound."""

    def pointer(self) -> Pointer | None:
        """Return what is live, strongly consistent; None before the first rebuild."""

    def move_pointer(self, pointer: Pointer, *, expected: Pointer | None) -> None:
        """Compare-and-set. Raises Conflict when the pointer is not ``expected`` (None: when there is one).

        After a lost answer the store is asked: if it now holds ``pointer``, that is success.
        """
