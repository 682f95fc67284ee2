"""The parts of a stream on their way into a store, and the pieces of an object on their way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blake3 import blake3

from understudy.errors import Conflict, Corrupt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from understudy.objects.interface import ObjectInfo, ObjectStore

#: What ``pieces`` holds in memory at once.
PIECE_BYTES = 8 << 20


def exactly(parts: Iterable[bytes], size: int, key: str) -> Iterator[bytes]:
    """Yield the parts; raise Corrupt as soon as they are more than ``size`` bytes, or at their end when fewer."""
    seen = 0
    hint = "the source changed while it was read; run again"
    for part in parts:
        seen += len(part)
        if seen > size:
            raise Corrupt(f"{key} was to have {size} bytes and more came", hint=hint)
        yield part
    if seen != size:
        raise Corrupt(f"{key} was to have {size} bytes and {seen} came", hint=hint)


class Passing:
    """The parts of a stream on their way into a store, and their digest: by it they are known again afterwards.

    Attributes:
        whole: whether all of them have passed; before that, no object can hold them.
    """

    def __init__(self, parts: Iterable[bytes], size: int, key: str) -> None:
        """See ``exactly``."""
        self.whole = False
        self._parts = exactly(parts, size, key)
        self._size = size
        self._hasher = blake3()

    def __iter__(self) -> Iterator[bytes]:
        """Yield the parts, once. Raises Corrupt."""
        for part in self._parts:
            self._hasher.update(part)
            yield part
        self.whole = True

    def found_in(self, store: ObjectStore, key: str) -> ObjectInfo:
        """Describe the object if it holds these very bytes; it is read again with bounded memory.

        Raises:
            NotFound: there is none.
            Conflict: it holds others.
        """
        found = store.head(key)
        if found.size == self._size:
            hasher = blake3()
            for piece in pieces(store, key, found.size, version=found.version):
                hasher.update(piece)
            if hasher.digest() == self._hasher.digest():
                return found
        message = f"{key} in {store.url} holds what another wrote"
        raise Conflict(message)


def regroup(parts: Iterable[bytes], count: int) -> Iterator[bytes]:
    """Yield the same bytes in chunks of ``count``, copied once; the last one has up to that many, and may be empty.

    The last chunk comes only after the parts are exhausted: sending it may be what makes an object visible.
    """
    held: list[memoryview] = []
    size = 0
    for part in parts:
        held.append(memoryview(part))
        size += len(part)
        while size > count:
            chunk: list[memoryview] = []
            missing = count
            while missing:
                chunk.append(held[0][:missing])
                held[0] = held[0][missing:]
                missing -= len(chunk[-1])
                if not held[0]:
                    del held[0]
            yield b"".join(chunk)
            size -= count
    yield b"".join(held)


def pieces(store: ObjectStore, key: str, size: int, *, version: str | None = None) -> Iterator[bytes]:
    """Yield the ``size`` bytes of an object, read by ranges of up to 8 MiB. Raises what ``get_range`` raises."""
    for start in range(0, size, PIECE_BYTES):
        yield store.get_range(key, start, min(PIECE_BYTES, size - start), version=version)
