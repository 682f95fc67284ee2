"""A file in the vault, read from any place: only the chunks that hold what is asked for, each proven by its id."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING

from understudy.errors import Corrupt
from understudy.vault.chunks import Chunk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from understudy.artifacts.manifest import ArtifactFile
    from understudy.vault.reading import ChunkReader

#: Plain bytes of chunks that are kept for the next read: what a parser asks for lies near what it asked for before.
_KEPT_BYTES_MAX = 8 << 20


class VaultFile:
    """One file of a model in the vault. For one thread at a time."""

    def __init__(self, reader: ChunkReader, file: ArtifactFile, what: str) -> None:
        """Take the reader of its vault; ``what`` names the file in errors. Nothing is read yet."""
        self._reader, self._what = reader, what
        self._chunks = [Chunk(bytes.fromhex(name), length) for name, length in file.chunks]
        self._starts = [0, *accumulate(chunk.length for chunk in self._chunks)]
        self._kept: dict[int, bytes] = {}

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._starts[-1]

    def read(self, start: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``start``. Raises Corrupt, also when the file has fewer."""
        if length == 0:
            return b""
        first, last = self._within(start, start + length)
        missing = [number for number in range(first, last) if number not in self._kept]
        plain = zip(missing, self._reader.stream([self._chunks[number] for number in missing], self._what), strict=True)
        read = dict(plain)
        found = b"".join(self._kept[number] if number in self._kept else read[number] for number in range(first, last))
        for number, data in read.items():
            self._kept[number] = data
            while len(self._kept) > 1 and sum(map(len, self._kept.values())) > _KEPT_BYTES_MAX:
                del self._kept[next(iter(self._kept))]
        return found[start - self._starts[first] :][:length]

    def pieces(self, start: int, end: int) -> Iterator[tuple[Chunk, slice]]:
        """Yield the chunks of a range in order, and what of each is in it. Raises Corrupt."""
        if start == end:
            return
        first, last = self._within(start, end)
        for chunk, place in zip(self._chunks[first:last], self._starts[first:last], strict=True):
            yield chunk, slice(max(0, start - place), min(chunk.length, end - place))

    def _within(self, start: int, end: int) -> tuple[int, int]:
        """Return the first chunk of a range, and the one after its last. Raises Corrupt."""
        if not 0 <= start < end <= self.size:
            message = f"{self._what} has {self.size} bytes, and names bytes {start} to {end}"
            raise Corrupt(message)
        return bisect_right(self._starts, start) - 1, bisect_right(self._starts, end - 1)
