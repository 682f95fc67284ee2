"""A store that only pretends to be written: what a dry run works on.

The very code of a real run runs over it, reads what it would read and returns the figures that it would return; nothing
is changed. What was written is seen again by later reads; of big objects only the length is kept.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from understudy.errors import Conflict, NotFound, Unsupported
from understudy.objects.interface import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from understudy.objects.interface import Abilities, ObjectStore

#: Objects up to this size can be read again in a dry run; packs of chunks are bigger and never are.
KEPT_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class _Pretended:
    info: ObjectInfo
    data: bytes | None


class DryStore:
    """An ObjectStore whose writes stay in this process."""

    def __init__(self, store: ObjectStore) -> None:
        """Read from ``store``, and never write to it."""
        self.url = store.url
        self._store = store
        self._written: dict[str, _Pretended | None] = {}
        self._lock = threading.Lock()
        self.bytes_written = 0

    @property
    def abilities(self) -> Abilities:
        """See ObjectStore."""
        return self._store.abilities

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        return self._merged(self._store.list(prefix), prefix)

    def list_versions(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        return self._merged(self._store.list_versions(prefix), prefix)

    def head(self, key: str) -> ObjectInfo:
        """See ObjectStore."""
        found = self._found(key)
        return found.info if found else self._store.head(key)

    def get(self, key: str, *, version: str | None = None) -> bytes:
        """See ObjectStore. Raises Unsupported for a big object that this dry run wrote."""
        found = self._found(key)
        return self._data(key, found) if found else self._store.get(key, version=version)

    def get_range(self, key: str, start: int, length: int, *, version: str | None = None) -> bytes:
        """See ObjectStore. Raises Unsupported for a big object that this dry run wrote."""
        found = self._found(key)
        if found is None:
            return self._store.get_range(key, start, length, version=version)
        return self._data(key, found)[start : start + length]

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """See ObjectStore."""
        return self.replace(key, data, expected=None)

    def replace(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
        """See ObjectStore."""
        try:
            stood: str | None = self.head(key).token
        except NotFound:
            stood = None
        if stood != expected:
            raise Conflict(f"{key} in {self.url} is not as expected", hint="read it again")
        return self.put(key, data)

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """See ObjectStore."""
        return self._pretend(key, len(data), bytes(data) if len(data) <= KEPT_BYTES_MAX else None)

    def put_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """See ObjectStore."""
        kept = bytearray()
        for part in parts:
            if size <= KEPT_BYTES_MAX:
                kept += part
        return self._pretend(key, size, bytes(kept) if size <= KEPT_BYTES_MAX else None)

    def create_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """See ObjectStore."""
        try:
            self.head(key)
        except NotFound:
            return self.put_stream(key, parts, size)
        raise Conflict(f"{key} in {self.url} is there already")

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        with self._lock:
            self._written[key] = None

    def set_tier(self, key: str, tier: Literal["standard", "cold"]) -> ObjectInfo:
        """See ObjectStore. Says what is there: a dry run moves nothing."""
        del tier
        return self.head(key)

    def now(self) -> datetime:
        """See ObjectStore."""
        return self._store.now()

    def _pretend(self, key: str, size: int, data: bytes | None) -> ObjectInfo:
        token = "dry-" + hashlib.sha256(data if data is not None else f"{key} {size}".encode()).hexdigest()[:16]
        info = ObjectInfo(key, size, token, None, self._store.now())
        with self._lock:
            self._written[key] = _Pretended(info, data)
            self.bytes_written += size
        return info

    def _found(self, key: str) -> _Pretended | None:
        with self._lock:
            if key not in self._written:
                return None
            found = self._written[key]
        if found is None:
            raise NotFound(f"{key} is not in {self.url}", hint="this dry run has removed it")
        return found

    def _data(self, key: str, found: _Pretended) -> bytes:
        if found.data is None:
            raise Unsupported(f"a dry run does not keep {key}, so it cannot read it", hint="run it without --dry-run")
        return found.data

    def _merged(self, listed: Iterator[ObjectInfo], prefix: str) -> Iterator[ObjectInfo]:
        with self._lock:
            written = {key: found for key, found in self._written.items() if key.startswith(prefix)}
        if not written:
            yield from listed
            return
        stored = {info.key: info for info in listed}
        for key, found in written.items():
            if found is None:
                stored.pop(key, None)
            else:
                stored[key] = found.info
        yield from (stored[key] for key in sorted(stored, key=str.encode))
