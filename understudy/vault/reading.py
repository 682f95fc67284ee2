"""Takes chunks out of a vault: parallel ranged reads, each chunk proven by its id, handed on in order.

The threads that read do nothing else, so that their connections never rest while frames are decoded.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import closing
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Self, TypeAlias

from understudy.errors import Corrupt, NotFound, Permanent
from understudy.threads import ThreadPool
from understudy.vault.chunks import CHAIN_MAX, chunk_id
from understudy.vault.coders import decode
from understudy.vault.index import load_index
from understudy.vault.lanes import in_order
from understudy.vault.packs import pack_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from types import TracebackType

    from understudy.vault.chunks import Chunk, Location
    from understudy.vault.index import ChunkIndex
    from understudy.vault.store import Vault

#: Neighbouring frames are fetched by one request up to this many coded, and this many plain bytes: six tensor blocks.
_RANGE_BYTES_MAX = 24 << 20
#: Toward the end of a file the ranges grow shorter, down to this, so that all connections end at about the same time.
_RANGE_BYTES_MIN = 4 << 20
#: Bytes of no interest between two frames that are worth less than another request.
_GAP_BYTES_MAX = 64 << 10
_FETCHES_MAX = 8
#: Ranges under way, and some that wait for their turn, for those under way often end together.
_RANGES_MAX = _FETCHES_MAX + 4
#: A push heeds what a verification found: without one it does not look at packs of versions that did not change.
_GONE_HINT = (
    "run understudy vault verify, then understudy artifacts push, which sends again what is lost; or restore the pack "
    "from the bucket's versions"
)
_DAMAGED_HINT = _GONE_HINT.replace("vault verify", "vault verify --deep", 1)


#: A chunk's place, then those of what it is decoded from.
Chain: TypeAlias = "tuple[Location, ...]"

logger = logging.getLogger("understudy.vault")


class DamagedPack(Corrupt):
    """A pack is gone, or does not give a chunk that the index says is in it."""

    def __init__(self, message: str, *, hint: str = "", pack: str = "") -> None:
        """Say it, and of which pack."""
        super().__init__(message, hint=hint)
        self.pack = pack


class ChunkReader:
    """Reads chunks of one vault for any number of files at once, in bounded memory. Safe to use from many threads."""

    def __init__(self, vault: Vault, index: ChunkIndex | None = None) -> None:
        """Load the vault's index, unless the caller has it."""
        self._vault = vault
        self.index = load_index(vault) if index is None else index
        self._pool = ThreadPool(_FETCHES_MAX, thread_name_prefix="fetch")
        self._decoders = ThreadPool(os.cpu_count() or 1, thread_name_prefix="decode")
        # A place is one range and those of its bases, first coded, then plain: up to 24 MiB, and both while decoded.
        self._room = threading.Semaphore(_RANGES_MAX)
        self._lock = threading.Lock()
        self._told: set[str] = set()
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
            raise Corrupt(message, hint=_GONE_HINT)
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
        chains = (chain_of(self.index, self.locate(chunk, what), what) for chunk in wanted)
        groups = _groups(chains, left=sum(chunk.length for chunk in wanted))
        jobs = (partial(self._fetch, group, what) for group in groups)
        with closing(in_order(self._pool, jobs, self._room)) as fetched:
            for decoding in fetched:
                yield from decoding.result()

    def _fetch(self, group: Sequence[Chain], what: str) -> Future[list[bytes]]:
        """Read the ranges of a run of chunks and of their bases, and hand them to the decoders."""
        frames: dict[tuple[str, int], memoryview] = {}
        damage: Corrupt | None = None
        try:
            for level in zip_longest(*group):
                for run in _runs(location for location in level if location is not None):
                    data = self._read(run, what)
                    for place in run:
                        frames[place.pack, place.offset] = data[place.offset - run[0].offset :][: place.length]
        except Corrupt as error:
            damage = error
        return self._decoders.submit(self._decode, group, frames, damage, what)

    def _decode(
        self, group: Sequence[Chain], frames: dict[tuple[str, int], memoryview], damage: Corrupt | None, what: str
    ) -> list[bytes]:
        try:
            if damage is not None:
                raise damage
            return [_plain(chain, frames, what) for chain in group]
        except Corrupt as error:
            self._tell(error)
        return [self._found_elsewhere(chain[0], what) for chain in group]

    def _tell(self, damage: Corrupt) -> None:
        """Say once of each pack that it is damaged: a restore may still find everything elsewhere."""
        pack = damage.pack if isinstance(damage, DamagedPack) else damage.message
        with self._lock:
            told, self._told = pack in self._told, self._told | {pack}
        if not told:
            logger.warning("%s", damage.message)

    def _found_elsewhere(self, place: Location, what: str, depth: int = 0) -> bytes:
        """Take one chunk from any pack that has it, last from this one once more, whose error then stands."""
        others = [
            other
            for other in self.index.find_all(place.id)
            if other.pack != place.pack and other.raw_length == place.raw_length
        ]
        for other in others:
            try:
                return self._alone(other, what, depth)
            except Corrupt as error:
                self._tell(error)
        return self._alone(place, what, depth)

    def _alone(self, place: Location, what: str, depth: int) -> bytes:
        if place.base is None:
            return decode_proven(self._read([place], what), place, what)
        base = chain_of(self.index, place, what)[1]
        if depth > CHAIN_MAX:
            raise _too_deep(place, what)
        return decode_proven(self._read([place], what), place, what, base=self._found_elsewhere(base, what, depth + 1))

    def _read(self, group: Sequence[Location], what: str) -> memoryview:
        """Return the bytes of one pack from the start of the first place to the end of the last. Raises Corrupt."""
        pack = group[0].pack
        start, end = _span(group)
        try:
            data = memoryview(self._vault.store.get_range(pack_key(pack), start, end - start))
        except NotFound as error:
            message = f"pack {pack} is missing from {self._vault.url}; chunk {group[0].id.hex()} of {what} is in it"
            raise DamagedPack(message, hint=_GONE_HINT, pack=pack) from error
        except Corrupt as error:
            # Plain bytes are too few, as a listing shows; encrypted ones also fail where one of them is another.
            wrong, hint = "is cut short", _GONE_HINT
            if self._vault.encryption:
                wrong, hint = f"cannot be read ({error.message})", _DAMAGED_HINT
            message = f"pack {pack} {wrong}; chunk {group[-1].id.hex()} of {what} is in it"
            raise DamagedPack(message, hint=hint, pack=pack) from error
        if len(data) != end - start:
            message = (
                f"pack {pack} gave {len(data)} bytes of {end - start}; chunk {group[-1].id.hex()} of {what} is in it"
            )
            raise DamagedPack(message, hint=_GONE_HINT, pack=pack)
        with self._lock:
            self.bytes_read += len(data)
        return data


def chain_of(index: ChunkIndex, location: Location, what: str) -> Chain:
    """Return a chunk's place, then its base's, and so on to one that is decodable alone.

    Raises:
        Corrupt: a base is in no pack, has another length, or the chain is longer than any that is written.
    """
    chain = [location]
    while (wanted := chain[-1].base) is not None:
        found = index.find(wanted)
        if found is None:
            message = f"chunk {location.id.hex()} of {what} needs the chunk {wanted.hex()}, which is in no pack"
            raise Corrupt(message, hint=_GONE_HINT)
        if found.raw_length != location.raw_length:
            message = (
                f"chunk {location.id.hex()} of {what} has {location.raw_length} bytes, its base {found.raw_length}"
            )
            raise Corrupt(message, hint="run: understudy vault verify --deep")
        chain.append(found)
        if len(chain) > CHAIN_MAX:
            raise _too_deep(location, what)
    return tuple(chain)


def _too_deep(location: Location, what: str) -> Corrupt:
    message = f"chunk {location.id.hex()} of {what} stands on more than {CHAIN_MAX} others"
    return Corrupt(message, hint="run: understudy vault verify --deep")


def _plain(chain: Chain, frames: Mapping[tuple[str, int], memoryview], what: str) -> bytes:
    plain: bytes | None = None
    for place in reversed(chain):
        plain = decode_proven(frames[place.pack, place.offset], place, what, base=plain)
    return plain or b""


def decode_proven(frame: memoryview, location: Location, what: str, *, base: bytes | None = None) -> bytes:
    """Return a chunk's plain bytes, proven by its id.

    Args:
        frame: as it lies in the pack.
        location: of the chunk.
        what: the file, as errors name it.
        base: the plain bytes of the chunk that ``location.base`` names.

    Raises:
        Corrupt: the frame gives other bytes; the sentence names pack, chunk and ``what``.
        Unsupported: a later version's coder.
    """
    try:
        plain = decode(location.coder, frame, location.raw_length, base)
    except Permanent as error:
        message = f"chunk {location.id.hex()} of {what} in pack {location.pack}: {error.message}"
        if isinstance(error, Corrupt):
            raise DamagedPack(message, hint=_DAMAGED_HINT, pack=location.pack) from error
        raise type(error)(message, hint=error.hint) from error
    if chunk_id(plain) != location.id:
        message = f"chunk {location.id.hex()} of {what} in pack {location.pack} holds other bytes than its id says"
        raise DamagedPack(message, hint=_DAMAGED_HINT, pack=location.pack)
    return plain


def _span(group: Sequence[Location]) -> tuple[int, int]:
    return group[0].offset, max(location.offset + location.length for location in group)


def _near(last: Location, following: Location) -> bool:
    gap = following.offset - (last.offset + last.length)
    return following == last or (following.pack == last.pack and 0 <= gap <= _GAP_BYTES_MAX)


def _runs(locations: Iterable[Location]) -> Iterator[list[Location]]:
    """Yield runs of places that one ranged read fetches."""
    run: list[Location] = []
    for location in locations:
        if run and not _near(run[-1], location):
            yield run
            run = []
        run.append(location)
    if run:
        yield run


def _groups(chains: Iterable[Chain], *, left: int) -> Iterator[list[Chain]]:
    """Yield runs of chunks that one ranged read fetches: one pack, in order, near each other, bounded plain size.

    What a chunk is decoded from counts as its own. A chunk that alone is longer than the bound is a run of its own.
    ``left`` is how many plain bytes all of them have.
    """
    group: list[Chain] = []
    plain = 0
    for chain in chains:
        location = chain[0]
        weight = sum(place.raw_length for place in chain)
        if group:
            span = location.offset + location.length - group[0][0].offset
            bound = max(_RANGE_BYTES_MIN, min(_RANGE_BYTES_MAX, left // _RANGES_MAX))
            if not _near(group[-1][0], location) or span > bound or plain + weight > bound:
                yield group
                left -= sum(chain[0].raw_length for chain in group)
                group, plain = [], 0
        group.append(chain)
        plain += weight
    if group:
        yield group
