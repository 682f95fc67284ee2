"""Proves chunks where they are to stay: each is read from its home alone, with all that it is decoded from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from understudy.errors import Corrupt, NotFound, NotReady, Unsupported
from understudy.report import quiet
from understudy.vault.chunks import Chunk
from understudy.vault.index import ChunkIndex
from understudy.vault.packs import pack_key
from understudy.vault.reading import ChunkReader, chain_of, decode_proven

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from understudy.report import Progress
    from understudy.vault.census import Census
    from understudy.vault.chunks import Location
    from understudy.vault.store import Vault

_WHAT = "what is needed"
_DAMAGE = (Corrupt, NotFound, NotReady, Unsupported)
#: Chunks between two looks at whether the run may go on.
_HOLD_EVERY = 1_000


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of it.

    Attributes:
        chunks: that were decoded, each to the bytes that its id names.
        bytes_read: from packs.
        problems: by pack, that it does not give what it is said to hold, as a sentence.
        unread: by pack, that it is archived and cannot be read now.
    """

    chunks: int
    bytes_read: int
    problems: dict[str, str]
    unread: dict[str, str]


class _Homes(ChunkIndex):
    """An index in which every chunk has one place, its home, so that a reader falls back to no other."""

    def __init__(self, census: Census) -> None:
        super().__init__()
        self._census = census

    def find_all(self, wanted: bytes) -> Iterator[Location]:
        """Yield the home."""
        place = self._census.home(int(self._census.positions(wanted)[0]))
        if place is not None:
            yield place


def prove_homes(
    vault: Vault,
    census: Census,
    chunks: NDArray[np.int64],
    *,
    skip: Container[str] = (),
    hold: Callable[[], object] = lambda: None,
    progress: Progress = quiet,
) -> Proof:
    """Decode chunks from their homes alone.

    A pack that failed once is not asked again: what else has its home there is left unproven, as it is with ``skip``.

    Args:
        vault: whose.
        census: says where each is at home, and what it is decoded from.
        chunks: their numbers in it.
        skip: packs that are known not to hold what is said of them.
        hold: called now and then; raises when the run has to stop.
        progress: told the chunks that are proven.

    Raises:
        Transient, Denied: the store does not answer.
    """
    left = [place for place in census.homes(chunks) if place.pack not in skip]
    total, done = len(left), 0
    problems: dict[str, str] = {}
    unread: dict[str, str] = {}
    with ChunkReader(vault, _Homes(census)) as reader:
        while left:
            wanted = [Chunk(place.id, place.raw_length) for place in left]
            count = 0
            try:
                for count, _ in enumerate(reader.stream(wanted, _WHAT), start=1):
                    if (done + count) % _HOLD_EVERY == 0:
                        hold()
                        progress("prove what stays", done + count, total, "chunks")
                left = []
            except _DAMAGE as error:
                failed = left[count]
                told = unread if isinstance(error, NotReady) else problems
                told |= dict.fromkeys(_culprits(vault, reader, failed), _sentence(failed, error))
                left = [place for place in left[count + 1 :] if place.pack not in problems | unread]
            done += count
        return Proof(done, reader.bytes_read, problems, unread)


def _culprits(vault: Vault, reader: ChunkReader, failed: Location) -> set[str]:
    """Return the pack of a chunk, and the one of what it is decoded from where that is what fails."""
    base: bytes | None = None
    found = failed.pack
    try:
        for place in reversed(chain_of(reader.index, failed, _WHAT)):
            found = place.pack
            frame = memoryview(vault.store.get_range(pack_key(place.pack), place.offset, place.length))
            base = decode_proven(frame, place, _WHAT, base=base)
    except _DAMAGE:
        return {failed.pack, found}
    return {failed.pack}


def _sentence(failed: Location, error: Corrupt | NotFound | NotReady | Unsupported) -> str:
    return f"pack {failed.pack} is not relied on, and what it was to replace stays: {error.message}"
