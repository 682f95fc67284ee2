"""An object store in memory: the executable description of ``interface.py``, and the store of quick tests."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, ClassVar, Literal

from understudy.errors import Conflict, Corrupt, NotFound
from understudy.objects.interface import Abilities, ObjectInfo
from understudy.objects.parts import exactly

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from understudy.objects.interface import Tier


def _system_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Object:
    info: ObjectInfo
    data: bytes


class MemoryStore:
    """Objects in a dictionary, every version kept.

    Args:
        name: what stands in ``url`` (``memory://name``).
        clock: returns the store's time, aware and in UTC; the system's clock by default.
    """

    ABILITIES: ClassVar[dict[str, str]] = {
        "create once": "under a lock",
        "compare-and-set": "under a lock",
        "versions": "all of them",
        "checksums in listings": "no",
        "colder storage": "named COLD",
    }

    def __init__(self, name: str = "store", *, clock: Callable[[], datetime] = _system_clock) -> None:
        """Start empty."""
        self.url = f"memory://{name}"
        self.abilities = Abilities(versions=True, lists_crc32c=False, tiers=True)
        self._clock = clock
        self._lock = threading.Lock()
        self._live: dict[str, _Object] = {}
        self._versions: dict[tuple[str, str], _Object] = {}
        self._last = 0

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key starts with prefix, sorted; a snapshot of the moment of the call."""
        with self._lock:
            found = [each.info for key, each in self._live.items() if key.startswith(prefix)]
        return iter(sorted(found, key=lambda info: info.key.encode()))

    def list_versions(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Do the same as ``list``, whose rows carry their version here."""
        return self.list(prefix)

    def head(self, key: str) -> ObjectInfo:
        """Describe one object. Raises NotFound."""
        return self._find(key, None).info

    def get(self, key: str, *, version: str | None = None) -> bytes:
        """Return all bytes. Raises NotFound."""
        return self._find(key, version).data

    def get_range(self, key: str, start: int, length: int, *, version: str | None = None) -> bytes:
        """Return exactly ``length`` bytes from ``start``. Raises NotFound, Corrupt."""
        part = self._find(key, version).data[start : start + length]
        if len(part) != length:
            message = f"{key} in {self.url} ends before byte {start + length}"
            raise Corrupt(message, hint="it is shorter than what refers to it says")
        return part

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """Write only if nothing is there. Raises Conflict."""
        return self.replace(key, data, expected=None)

    def replace(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
        """Write only if the key's token is ``expected``. Raises Conflict."""
        with self._lock:
            found = self._live.get(key)
            if (found.info.token if found else None) != expected:
                what = "was there already" if expected is None else "was changed"
                raise Conflict(f"{key} in {self.url} {what}")
            return self._write(key, data)

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """Write without a condition."""
        with self._lock:
            return self._write(key, data)

    def put_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """Write from parts; raises Corrupt and writes nothing when they do not add up to ``size``."""
        return self.put(key, b"".join(exactly(parts, size, key)))

    def create_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """Write from parts, only if nothing is there. Raises Conflict, Corrupt."""
        return self.create(key, b"".join(exactly(parts, size, key)))

    def delete(self, key: str) -> None:
        """Remove the object; its versions stay readable."""
        with self._lock:
            self._live.pop(key, None)

    def set_tier(self, key: str, tier: Literal["standard", "cold"]) -> ObjectInfo:
        """Call it of another tier; as a copy onto itself it is written anew. Raises NotFound."""
        with self._lock:
            found = self._live.get(key)
            if found is None:
                raise NotFound(f"{key} is not in {self.url}")
            return found.info if found.info.tier == tier else self._write(key, found.data, tier)

    def now(self) -> datetime:
        """Return the injected clock's time."""
        return self._clock()

    def _find(self, key: str, version: str | None) -> _Object:
        with self._lock:
            found = self._live.get(key) if version is None else self._versions.get((key, version))
        if found is None:
            what = key if version is None else f"version {version} of {key}"
            raise NotFound(f"{what} is not in {self.url}")
        return found

    def _write(self, key: str, data: bytes, tier: Tier = "standard") -> ObjectInfo:
        self._last += 1
        name = str(self._last)
        info = ObjectInfo(key, len(data), name, name, self._clock(), storage_class=tier.upper(), tier=tier)
        self._live[key] = self._versions[key, name] = _Object(info, bytes(data))
        return info
