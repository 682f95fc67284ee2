"""What keeps copies and failovers apart: the register is asked when a copy begins, and again before it shows anything.

A copy that began before a claim may still be running after it. What it sends in bulk is seen by nobody; the manifest,
the set or the pointer that would show it is written only while the register is what it was at the beginning.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from understudy.errors import NotFound, Refused, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from understudy.failover.register import Register, State
    from understudy.objects.interface import Abilities, ObjectInfo, ObjectStore

#: Keys that show nothing by themselves: a manifest, a set or a pointer names them. All others are checked.
_BULK = re.compile(r"packs/|index/|offline/|vectors/[^/]+/data/")


def read_register(register: Register) -> State:
    """Return the register for a copy.

    Raises:
        Refused: it cannot be read, or was never written; without it nobody may say which way to copy.
    """
    try:
        return register.read()
    except NotFound as error:
        raise Refused(
            f"{error.message}, so nothing is copied", hint=error.hint, next_command=error.next_command
        ) from error
    except Unreachable as error:
        raise Refused(
            f"the register {register.url} cannot be read, so nothing is copied",
            hint=f"bring it back, then run this again ({error.message})",
        ) from error


def read_unheld(register: Register) -> State:
    """Return the register for a copy, which waits while a commander holds the epoch. Raises Refused."""
    state = read_register(register)
    if state.holder is not None:
        since = f"{state.holder.since:%H:%M:%S}Z"
        raise Refused(
            f"{state.holder} holds epoch {state.epoch} since {since}; copies wait",
            hint="run it again when the failover is finished",
            next_command="understudy failover status",
        )
    return state


class GuardedStore:
    """A vault's store for a copy: refuses to show anything once the register is not what it was.

    Between the last look and the write lies one request, no more.
    """

    def __init__(self, store: ObjectStore, register: Register, begun: State) -> None:
        """Wrap a store.

        Args:
            store: of the vault.
            register: asked before each write that shows something.
            begun: the register when the copy began.
        """
        self.url = store.url
        self._store = store
        self._register = register
        self._begun = begun

    @property
    def abilities(self) -> Abilities:
        """See ObjectStore."""
        return self._store.abilities

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        return self._store.list(prefix)

    def list_versions(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ObjectStore."""
        return self._store.list_versions(prefix)

    def head(self, key: str) -> ObjectInfo:
        """See ObjectStore."""
        return self._store.head(key)

    def get(self, key: str, *, version: str | None = None) -> bytes:
        """See ObjectStore."""
        return self._store.get(key, version=version)

    def get_range(self, key: str, start: int, length: int, *, version: str | None = None) -> bytes:
        """See ObjectStore."""
        return self._store.get_range(key, start, length, version=version)

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """See ObjectStore. Raises Refused when the register has changed."""
        self._check(key)
        return self._store.create(key, data)

    def replace(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
        """See ObjectStore. Raises Refused when the register has changed."""
        self._check(key)
        return self._store.replace(key, data, expected=expected)

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """See ObjectStore. Raises Refused when the register has changed."""
        self._check(key)
        return self._store.put(key, data)

    def put_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """See ObjectStore. Raises Refused when the register has changed."""
        self._check(key)
        return self._store.put_stream(key, parts, size)

    def create_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """See ObjectStore. Raises Refused when the register has changed."""
        self._check(key)
        return self._store.create_stream(key, parts, size)

    def delete(self, key: str) -> None:
        """See ObjectStore. Raises Refused when the register has changed."""
        self._check(key)
        self._store.delete(key)

    def set_tier(self, key: str, tier: Literal["standard", "cold"]) -> ObjectInfo:
        """See ObjectStore. Raises Refused when the register has changed."""
        self._check(key)
        return self._store.set_tier(key, tier)

    def now(self) -> datetime:
        """See ObjectStore."""
        return self._store.now()

    def _check(self, key: str) -> None:
        if _BULK.match(key):
            return
        begun, state = self._begun, read_unheld(self._register)
        if (state.id, state.epoch, state.active) != (begun.id, begun.epoch, begun.active):
            raise Refused(
                f"the register moved from epoch {begun.epoch} ({begun.active} active) to epoch {state.epoch} "
                f"({state.active} active) while this copy ran, so {key} was not written",
                hint="run it again; the register says which way to copy now",
                next_command="understudy status",
            )
