"""A store whose traffic passes between the sites: counted, held to the bandwidth, and stopped by the month's budget."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from understudy.objects.interface import Abilities, ObjectInfo, ObjectStore
    from understudy.transfer.budget import TransferBudget
    from understudy.transfer.limit import Bandwidth

#: Small objects that say what happened or what is served; the budget counts them and refuses none.
_NEVER_REFUSED = re.compile(r"pointers/|journal/|format\.json|register\.json")
#: What is sent in bulk. Any other object follows what it names, so what was counted until then is written down with it.
_BULK = re.compile(r"packs/|index/|offline/|vectors/[^/]+/data/")


class MeteredStore:
    """An ObjectStore that another site's run works on.

    Attributes:
        bytes_sent: bodies of writes that were let through, also of those that failed.
        bytes_received: bodies of reads.
    """

    def __init__(
        self, store: ObjectStore, *, bandwidth: Bandwidth | None = None, budget: TransferBudget | None = None
    ) -> None:
        """Wrap a store.

        Args:
            store: of the other site.
            bandwidth: shared by all that a run reads and writes across; None: as fast as it goes.
            budget: asked before each write of bulk; reads are counted and not refused. None: no count is kept.
        """
        self.url = store.url
        self.bare = store
        self._bandwidth = bandwidth
        self._budget = budget
        self._lock = threading.Lock()
        self.bytes_sent = 0
        self.bytes_received = 0

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
        """See ObjectStore. How much it is shows when it is there: what follows waits for it."""
        data = self.bare.get(key, version=version)
        self._received(len(data))
        return data

    def get_range(self, key: str, start: int, length: int, *, version: str | None = None) -> bytes:
        """See ObjectStore."""
        self._received(length)
        return self.bare.get_range(key, start, length, version=version)

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """See ObjectStore. Raises Refused when the budget does not allow it."""
        self._sending(key, len(data))
        info = self.bare.create(key, data)
        self._sent(key)
        return info

    def replace(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
        """See ObjectStore. Raises Refused when the budget does not allow it."""
        self._sending(key, len(data))
        return self.bare.replace(key, data, expected=expected)

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """See ObjectStore. Raises Refused when the budget does not allow it."""
        self._sending(key, len(data))
        return self.bare.put(key, data)

    def put_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """See ObjectStore. Raises Refused when the budget does not allow it, before the first part is sent."""
        self._spend(key, size)
        return self.bare.put_stream(key, self._paced(parts), size)

    def create_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """See ObjectStore. Raises Refused when the budget does not allow it, before the first part is sent."""
        self._spend(key, size)
        return self.bare.create_stream(key, self._paced(parts), size)

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        self.bare.delete(key)

    def set_tier(self, key: str, tier: Literal["standard", "cold"]) -> ObjectInfo:
        """See ObjectStore."""
        return self.bare.set_tier(key, tier)

    def now(self) -> datetime:
        """See ObjectStore."""
        return self.bare.now()

    # -- private -------------------------------------------------------------------------------------------------------

    def _spend(self, key: str, count: int) -> None:
        if self._budget is not None:
            if _NEVER_REFUSED.match(key):
                self._budget.note(count)
            else:
                self._budget.spend(count)
        with self._lock:
            self.bytes_sent += count

    def _sending(self, key: str, count: int) -> None:
        self._spend(key, count)
        if self._bandwidth is not None:
            self._bandwidth.take(count)

    def _sent(self, key: str) -> None:
        if self._budget is not None and not _BULK.match(key):
            self._budget.flush()

    def _paced(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        for part in parts:
            if self._bandwidth is not None:
                self._bandwidth.take(len(part))
            yield part

    def _received(self, count: int) -> None:
        if self._bandwidth is not None:
            self._bandwidth.take(count)
        if self._budget is not None:
            self._budget.note(count)
        with self._lock:
            self.bytes_received += count
