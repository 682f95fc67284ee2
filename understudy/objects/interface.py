"""The object store in our words. ``memory.py`` is its executable description; every adapter passes one contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from datetime import datetime


#: What keeping and reading an object costs: ``standard``; ``cold``, less to keep, more to read, and read at once all
#: the same; ``frozen``: it has to be brought back before it can be read, which takes hours.
Tier: TypeAlias = Literal["standard", "cold", "frozen"]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object as the store's listing or answer describes it.

    Attributes:
        key: the name below the store's prefix, never starting with ``/``.
        size: bytes.
        token: changes with every write of this key; what compare-and-set compares (S3 ETag, GCS generation).
        version: names these very bytes for a later read (S3 versionId, GCS generation); None where there is none.
        modified: the store's clock when it was written.
        crc32c: base64 of the big-endian CRC32C where the store reports one, else None.
        storage_class: as the vendor calls it; empty where it says none.
        tier: which kind of class that is; None where that is not known, or the vendor moves the object by itself.
    """

    key: str
    size: int
    token: str
    version: str | None
    modified: datetime
    crc32c: str | None = None
    storage_class: str = ""
    tier: Tier | None = None


#: What every adapter says of itself in ``ABILITIES``, in words; "no" begins what it cannot.
ABILITIES = ("create once", "compare-and-set", "versions", "checksums in listings", "colder storage")


@dataclass(frozen=True, slots=True)
class Abilities:
    """What this store can do; a claimed ability is tested, one that is not claimed raises Unsupported.

    Attributes:
        versions: old bytes of a key can be read by their version.
        lists_crc32c: listings carry a CRC32C of the content computed by the store.
        tiers: an object can be moved to a colder storage class and back, and listings say which it has.
    """

    versions: bool
    lists_crc32c: bool
    tiers: bool = False


@dataclass(frozen=True, slots=True)
class Replica:
    """Another bucket that a bucket keeps as a copy of itself.

    Attributes:
        target: its URL.
        rule: what its owner calls the rule; may be empty.
        enabled: whether the rule is in force.
        timed: whether the vendor promises a time (S3 Replication Time Control).
        deletes: whether deletions are copied too.
    """

    target: str
    rule: str
    enabled: bool
    timed: bool
    deletes: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Safeguards:
    """What a bucket does for its objects by itself, as far as it may be asked.

    Attributes:
        versions: ``on``, ``off`` or ``suspended``; None when that may not be asked.
        replicas: the buckets that it is copied to, by rules that cover this store or a part of it.
        soft_delete_seconds: how long what was deleted can be brought back; None where there is no such thing, or it
            may not be asked.
        regions: of one that stands in several (``dual-region NAM4, turbo replication``); empty for one in a single
            region, and where it may not be asked.
        unasked: what may not be asked, in words.
    """

    versions: str | None
    replicas: tuple[Replica, ...] = ()
    soft_delete_seconds: int | None = None
    regions: str = ""
    unasked: tuple[str, ...] = ()


@runtime_checkable
class Safeguarded(Protocol):
    """A store that can say what its bucket does by itself; not every one can."""

    def safeguards(self) -> Safeguards:
        """Ask the bucket. What the credentials may not ask is named, not raised. Raises Unreachable, NotFound."""


class Partial(Protocol):
    """An object that is written from its beginning on, and that a later run goes on with. For one thread."""

    @property
    def size(self) -> int:
        """Bytes that are there; nothing says that they are right."""

    def read(self, start: int, length: int) -> bytes:
        """Return up to ``length`` bytes from ``start``: fewer at the end."""

    def keep(self, size: int) -> None:
        """Forget what lies behind the first ``size`` bytes; the next are written there."""

    def append(self, data: bytes) -> None:
        """Write the next bytes."""

    def publish(self, key: str) -> ObjectInfo:
        """Let it appear under a key, as ``put`` does: the caller has proven all of it."""


@runtime_checkable
class KeepsPartial(Protocol):
    """A store in which what was left half written can be gone on with; not every one is."""

    def partial(self, name: str) -> AbstractContextManager[Partial | None]:
        """Open what an earlier run left half written under a name, or begin it; None while another process has it."""


class ObjectStore(Protocol):
    """A bucket, or a prefix of one. Safe to use from many threads. Keys are below the prefix.

    Errors of every method: Unreachable, Throttled, Denied; NotFound when the bucket is missing. Adapters retry
    transient faults a few times themselves, so a caller sees Transient only when that was in vain.
    """

    url: str

    @property
    def abilities(self) -> Abilities:
        """What this store can do; may ask the server the first time."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with prefix, sorted by the UTF-8 bytes of the key.

        What was committed before the call starts is seen. Never partial: an error is raised, not a short listing.
        """

    def list_versions(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Like ``list``, with ``version`` set on every row where the store keeps versions; may cost more calls."""

    def head(self, key: str) -> ObjectInfo:
        """Describe one object, with its version. Raises NotFound."""

    def get(self, key: str, *, version: str | None = None) -> bytes:
        """Return all bytes, of that version if given. Raises NotFound; Unreachable when it is always cut short."""

    def get_range(self, key: str, start: int, length: int, *, version: str | None = None) -> bytes:
        """Return exactly ``length`` bytes from ``start``. Raises NotFound; Corrupt when there are fewer."""

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """Write all bytes in one conditional step, only if nothing is there. Raises Conflict when something is.

        One request, or (GCS above 8 MiB) one upload session that carries the condition and shows nothing before it
        ends.

        After a lost answer the store is asked what is there: equal bytes are success, others are a Conflict.
        """

    def replace(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
        """Compare-and-set: write only if the key's token is ``expected`` (None: only if absent). Raises Conflict.

        After a lost answer the same rule as ``create``: if the object now holds these very bytes, it is success.
        """

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write without a condition; for files that only a pointer makes visible."""

    def put_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """Write ``size`` bytes from parts of any length with bounded memory; visible whole or not at all.

        Raises Corrupt when the parts do not add up to ``size``; nothing is visible then.
        """

    def create_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """Do what ``put_stream`` does, only if nothing is there. Raises Conflict when something is, and Corrupt.

        The condition holds at the moment when it becomes visible, so of many at once exactly one wins. How many of the
        parts were read before a Conflict is not promised. After a lost answer the same rule as ``create``: if the
        object now holds these very bytes, it is success.
        """

    def delete(self, key: str) -> None:
        """Remove the object; not an error when it is not there."""

    def set_tier(self, key: str, tier: Literal["standard", "cold"]) -> ObjectInfo:
        """Move an object to the storage class of a tier; its bytes stay, its token, version and time may change.

        Nothing is written when it has that tier already. Raises NotFound; Conflict when it was changed meanwhile;
        Unsupported where there is no such class.
        """

    def now(self) -> datetime:
        """Return the store's own clock (aware, UTC), to about a second."""
