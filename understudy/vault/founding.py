"""A store that nobody has made a vault yet: its first write does, whoever only looks leaves it as it is."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from understudy.objects.interface import Abilities, ObjectInfo, ObjectStore


class FoundingStore:
    """An ObjectStore that is marked as a vault, and as whose, before anything else is written to it."""

    def __init__(self, store: ObjectStore, found: Callable[[], None]) -> None:
        """Wrap a store.

        Args:
            store: without a ``format.json`` when it was opened.
            found: writes that; raises Refused when another service was quicker. Called again until it has returned.
        """
        self.url = store.url
        self.bare = store
        self._found = found
        self._founded = False
        self._lock = threading.Lock()

    @property
    def abilities(self) -> Abilities:
        """See ObjectStore."""
        return self.bare.abilities

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        return self.bare.list(prefix)

    def list_versions(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        return self.bare.list_versions(prefix)

    def head(self, key: str) -> ObjectInfo:
        """See ObjectStore."""
        return self.bare.head(key)

    def get(self, key: str, *, version: str | None = None) -> bytes:
        """See ObjectStore."""
        return self.bare.get(key, version=version)

    def get_range(self, key: str, start: int, length: int, *, version: str | None = None) -> bytes:
        """See ObjectStore."""
        return self.bare.get_range(key, start, length, version=version)

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """See ObjectStore. Raises Refused when it became another service's vault."""
        return self._made().create(key, data)

    def replace(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
        """See ObjectStore. Raises Refused when it became another service's vault."""
        return self._made().replace(key, data, expected=expected)

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """See ObjectStore. Raises Refused when it became another service's vault."""
        return self._made().put(key, data)

    def put_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """See ObjectStore. Raises Refused when it became another service's vault."""
        return self._made().put_stream(key, parts, size)

    def create_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """See ObjectStore. Raises Refused when it became another service's vault."""
        return self._made().create_stream(key, parts, size)

    def delete(self, key: str) -> None:
        """See ObjectStore. What is taken away makes no vault."""
        self.bare.delete(key)

    def set_tier(self, key: str, tier: Literal["standard", "cold"]) -> ObjectInfo:
        """See ObjectStore."""
        return self.bare.set_tier(key, tier)

    def now(self) -> datetime:
        """See ObjectStore."""
        return self.bare.now()

    def _made(self) -> ObjectStore:
        with self._lock:
            if not self._founded:
                self._found()
                self._founded = True
        return self.bare
