"""Takes chunks out of a vault: parallel ranged reads, each chunk proven by its id, handed on in order.

The threads that read do nothing else, so that their connections never rest while frames are decoded.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Self

from understudy.errors import Corrupt, NotFound, Permanent
from understudy.threads import ThreadPool
from understudy.vault.chunks import chunk_id
from understudy.vault.coders import decode
from understudy.vault.index import load_index
from understudy.vault.lanes import in_order
from understudy.vault.packs import pack_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from concurrent.futures import Future
    from types import TracebackType

    from understudy.vault.chunks import Chunk, Location
    from understudy.vault.index import ChunkIndex
    from understudy.vault.store import Vault

#: Neighbouring frames are fetched by one request up to this many coded, and this many plain bytes: three tensor blocks.
_RANGE_BYTES_MAX = 12 << 20
#: Toward the end of a file the ranges grow shorter, down to this, so that all connections end at about the same time.
_RANGE_BYTES_MIN = 4 << 20
#: Bytes of no interest between two frames that are worth less than another request.
_GAP_BYTES_MAX = 64 << 10
_FETCHES_MAX = 8
#: Ranges under way, and ranges that wait for their turn: as many again, for those under way often end together.
_RANGES_MAX = 2 * _FETCHES_MAX
_HINT = "restore the pack from the bucket's versions, or push again from the source"

logger = logging.getLogger("understudy.vault")


class ChunkReader:
    """Reads chunks of one vault for any number of files at once, in bounded memory. Safe to use from many threads."""

    def __init__(self, vault: Vault, index: ChunkIndex | None = None) -> None:
        """Load the vault's index, unless the caller has it."""
        self._vault = vault
        self.index = load_index(vault) if index is None else index
        self._pool = ThreadPool(_FETCHES_MAX, thread_name_prefix="fetch")
        self._decoders = ThreadPool(os.cpu_count() or 1, thread_name_prefix="decode")
        # A place is one range, first coded, then plain: up to 12 MiB, and both while it is decoded.
        self._room = threading.Semaphore(_RANGES_MAX)
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
        self._decoders.shutdown(wait=True, cancel_futures=True)

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
        wanted = list(chunks)
        located = (self.locate(chunk, what) for chunk in wanted)
        groups = _groups(located, left=sum(chunk.length for chunk in wanted))
        jobs = (partial(self._fetch, group, what) for group in groups)
        with closing(in_order(self._pool, jobs, self._room)) as fetched:
            for decoding in fetched:
                yield from decoding.result()

    def _fetch(self, group: Sequence[Location], what: str) -> Future[list[bytes]]:
        """Read one range and hand it to the decoders."""
        data: memoryview | Corrupt
        try:
            data = self._read(group, what)
        except Corrupt as error:
            data = error
        return self._decoders.submit(self._decode, group, data, what)

    def _decode(self, group: Sequence[Location], data: memoryview | Corrupt, what: str) -> list[bytes]:
        try:
            if isinstance(data, Corrupt):
                raise data
            return _plain(group, data, what)
        except Corrupt as error:
            logger.warning("%s", error.message)
            damaged = group[0].pack
        return [self._fetch_elsewhere(place, damaged, what) for place in group]

    def _fetch_elsewhere(self, place: Location, damaged: str, what: str) -> bytes:
        """Take one chunk from any other pack that has it, else once more from this one, whose error then stands."""
        for other in self.index.find_all(place.id):
            if other.pack != damaged and other.raw_length == place.raw_length:
                try:
                    return _plain([other], self._read([other], what), what)[0]
                except Corrupt as error:
                    logger.warning("%s", error.message)
        return _plain([place], self._read([place], what), what)[0]

    def _read(self, group: Sequence[Location], what: str) -> memoryview:
        """Return the bytes of one pack from the start of the first place to the end of the last. Raises Corrupt."""
        pack = group[0].pack
        start, end = _span(group)
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
        return data


def _span(group: Sequence[Location]) -> tuple[int, int]:
    return group[0].offset, max(location.offset + location.length for location in group)


def _plain(group: Sequence[Location], data: memoryview, what: str) -> list[bytes]:
    start = group[0].offset
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


def _groups(located: Iterable[Location], *, left: int) -> Iterator[list[Location]]:
    """Yield runs of chunks that one ranged read fetches: one pack, in order, near each other, bounded plain size.

    A chunk that alone is longer than the bound is a run of its own. ``left`` is how many plain bytes all of them have.
    """
    group: list[Location] = []
    plain = 0
    for location in located:
        if group:
            last = group[-1]
            gap = location.offset - (last.offset + last.length)
            near = location == last or (location.pack == last.pack and 0 <= gap <= _GAP_BYTES_MAX)
            span = location.offset + location.length - group[0].offset
            bound = max(_RANGE_BYTES_MIN, min(_RANGE_BYTES_MAX, left // _RANGES_MAX))
            if not near or span > bound or plain + location.raw_length > bound:
                yield group
                left -= plain
                group, plain = [], 0
        group.append(location)
        plain += location.raw_length
    if group:
        yield group
