"""Takes chunks out of a vault: parallel ranged reads, each chunk proven by its id, handed on in order."""

from __future__ import annotations

import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Self

from understudy.errors import Corrupt, NotFound, Permanent
from understudy.vault.chunks import chunk_id
from understudy.vault.coders import decode
from understudy.vault.index import load_index
from understudy.vault.lanes import in_order
from understudy.vault.packs import pack_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

    from understudy.vault.chunks import Chunk, Location
    from understudy.vault.index import ChunkIndex
    from understudy.vault.store import Vault

#: Neighbouring frames are fetched by one request up to this many coded, and this many plain bytes.
_RANGE_BYTES_MAX = 8 << 20
#: Bytes of no interest between two frames that are worth less than another request.
_GAP_BYTES_MAX = 64 << 10
_FETCHES_MAX = 8
_HINT = "restore the pack from the bucket's versions, or push again from the source"

logger = logging.getLogger("understudy.vault")


class ChunkReader:
    """Reads chunks of one vault for any number of files at once, in bounded memory. Safe to use from many threads."""

    def __init__(self, vault: Vault, index: ChunkIndex | None = None) -> None:
        """Load the vault's index, unless the caller has it."""
        self._vault = vault
        self.index = load_index(vault) if index is None else index
        self._pool = ThreadPoolExecutor(_FETCHES_MAX, thread_name_prefix="fetch")
        # A place is one range, coded and plain: up to 16 MiB each.
        self._room = threading.Semaphore(_FETCHES_MAX + (os.cpu_count() or 1).bit_length())
        self._lock = threading.Lock()
        self.bytes_read = 0

    def __enter__(self) -> Self:
        """Return itself; ``close`` follows."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the threads."""
        self.close()

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def locate(self, chunk: Chunk, what: str) -> Location:
        """Return where a chunk lies. Raises Corrupt, naming ``what``, when no pack has it or its length differs."""
        location = self.index.find(chunk.id)
        if location is None:
            message = f"chunk {chunk.id.hex()} of {what} is in no pack of {self._vault.url}"
            raise Corrupt(message, hint="push again from the source; run: understudy vault verify")
        if location.raw_length != chunk.length:
            message = f"chunk {chunk.id.hex()} of {what} has {chunk.length} bytes, {location.raw_length} in the index"
            raise Corrupt(message, hint="run: understudy vault verify --deep")
        return location

    def stream(self, chunks: Iterable[Chunk], what: str) -> Iterator[bytes]:
        """Yield the plain bytes of chunks in their order.

        Args:
            chunks: of one file, in its order.
            what: the file, as errors name it.

        Raises:
            Corrupt: a pack is missing or a byte is wrong; the sentence names pack, chunk and ``what``.
        """
        located = (self.locate(chunk, what) for chunk in chunks)
        jobs = (partial(self._fetch, group, what) for group in _groups(located))
        with closing(in_order(self._pool, jobs, self._room)) as fetched:
            for group in fetched:
                yield from group

    def _fetch(self, group: Sequence[Location], what: str) -> list[bytes]:
        try:
            return self._fetch_from(group, what)
        except Corrupt as error:
            logger.warning("%s", error.message)
            damaged = group[0].pack
        return [self._fetch_elsewhere(place, damaged, what) for place in group]

    def _fetch_elsewhere(self, place: Location, damaged: str, what: str) -> bytes:
        """Take one chunk from any other pack that has it, else once more from this one, whose error then stands."""
        for other in self.index.find_all(place.id):
            if other.pack != damaged and other.raw_length == place.raw_length:
                try:
                    return self._fetch_from([other], what)[0]
                except Corrupt as error:
                    logger.warning("%s", error.message)
        return self._fetch_from([place], what)[0]

    def _fetch_from(self, group: Sequence[Location], what: str) -> list[bytes]:
        pack = group[0].pack
        start = group[0].offset
        end = max(location.offset + location.length for location in group)
        try:
            data = memoryview(self._vault.store.get_range(pack_key(pack), start, end - start))
        except NotFound as error:
            message = f"pack {pack} is missing from {self._vault.url}; chunk {group[0].id.hex()} of {what} is in it"
            raise Corrupt(message, hint=_HINT) from error
        except Corrupt as error:
            message = f"pack {pack} is cut short; chunk {group[-1].id.hex()} of {what} is in it"
            raise Corrupt(message, hint=_HINT) from error
        if len(data) != end - start:
            message = (
                f"pack {pack} gave {len(data)} bytes of {end - start}; chunk {group[-1].id.hex()} of {what} is in it"
            )
            raise Corrupt(message, hint=_HINT)
        with self._lock:
            self.bytes_read += len(data)
        return [decode_proven(data[place.offset - start :][: place.length], place, what) for place in group]


def decode_proven(frame: memoryview, location: Location, what: str) -> bytes:
    """Return a chunk's plain bytes, proven by its id. Raises Corrupt naming pack, chunk and ``what``; Unsupported."""
    try:
        if location.base is not None and location.coder in ("raw", "zstd"):
            message = f"a {location.coder} chunk needs no base"
            raise Corrupt(message)
        plain = decode(location.coder, frame, location.raw_length)
    except Permanent as error:
        message = f"chunk {location.id.hex()} of {what} in pack {location.pack}: {error.message}"
        raise type(error)(message, hint=error.hint or _HINT) from error
    if chunk_id(plain) != location.id:
        message = f"chunk {location.id.hex()} of {what} in pack {location.pack} holds other bytes than its id says"
        raise Corrupt(message, hint=_HINT)
    return plain


def _groups(located: Iterable[Location]) -> Iterator[list[Location]]:
    """Yield runs of chunks that one ranged read fetches: one pack, in order, near each other, bounded plain size."""
    group: list[Location] = []
    plain = 0
    for location in located:
        if group:
            last = group[-1]
            gap = location.offset - (last.offset + last.length)
            near = location == last or (location.pack == last.pack and 0 <= gap <= _GAP_BYTES_MAX)
            span = location.offset + location.length - group[0].offset
            if not near or span > _RANGE_BYTES_MAX or plain + location.raw_length > _RANGE_BYTES_MAX:
                yield group
                group, plain = [], 0
        group.append(location)
        plain += location.raw_length
    if group:
        yield group
