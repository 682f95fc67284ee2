"""The tensors of safetensors files that the vault has: read from the first chunks, which hold the header alone."""

from __future__ import annotations

import logging
import threading
from itertools import chain
from typing import TYPE_CHECKING

from understudy.artifacts.cut import HEADER_CHECKED_MAX, LENGTH_BYTES, blocks, header_length, read_layout
from understudy.errors import Corrupt, Permanent
from understudy.vault.chunks import Chunk, chunk_id
from understudy.vault.reading import ChunkReader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from understudy.artifacts.cut import Described, Layout
    from understudy.artifacts.manifest import ArtifactFile
    from understudy.vault.writing import ChunkWriter

logger = logging.getLogger("understudy.artifacts")

#: Files whose headers are remembered: those of the newest version or two of a model.
_REMEMBERED_MAX = 2000


class Headers:
    """Reads headers of files in the vault, and remembers those of files that this run has sent."""

    def __init__(self, source: ChunkWriter) -> None:
        """Take the run's writer, which has the vault and its index; nothing is read yet."""
        self._source = source
        self._known: dict[tuple[str, ...], dict[str, Described]] = {}
        self._lock = threading.Lock()

    def remember(self, layout: Layout, whole: bytes) -> None:
        """Keep what a file's header says until it is asked for as a parent's; the file may not be in the index yet.

        Args:
            layout: of the file.
            whole: its first ``layout.data_start`` bytes.
        """
        view, found, start = memoryview(whole), [], 0
        for length in blocks(layout.data_start):
            found.append(chunk_id(view[start : start + length]).hex())
            start += length
        with self._lock:
            self._known[tuple(found)] = layout.described
            if len(self._known) > _REMEMBERED_MAX:
                del self._known[next(iter(self._known))]

    def of(self, file: ArtifactFile, what: str) -> Mapping[str, Described] | None:
        """Return the tensors of a file in the vault, None (and a warning) when they cannot be read."""
        for count in range(1, min(len(file.chunks), header_blocks_max()) + 1):
            if (known := self._known.get(tuple(name for name, _ in file.chunks[:count]))) is not None:
                return known
        try:
            with ChunkReader(self._source.vault, self._source.index) as reader:
                return _read(reader, file, what).described
        except Permanent as error:
            logger.warning("%s is not compared with its child: %s", what, error)
            return None


def header_blocks_max() -> int:
    """Return into how many chunks the longest header that is looked into can be cut."""
    return sum(1 for _ in blocks(HEADER_CHECKED_MAX + LENGTH_BYTES))


def _read(reader: ChunkReader, file: ArtifactFile, what: str) -> Layout:
    """Return a file's layout by decoding as few chunks as its header has. Raises Corrupt."""
    chunks = [Chunk(bytes.fromhex(name), length) for name, length in file.chunks]
    first = b"".join(reader.stream(chunks[:1], what))
    length = header_length(first[:LENGTH_BYTES], file.size)
    taken, count = len(first), 1
    while taken < LENGTH_BYTES + length and count < len(chunks):
        taken += chunks[count].length
        count += 1
    whole = b"".join(chain([first], reader.stream(chunks[1:count], what)))
    if len(whole) < LENGTH_BYTES + length:
        message = f"{what} is shorter than its header"
        raise Corrupt(message)
    return read_layout(whole[LENGTH_BYTES : LENGTH_BYTES + length], file.size)
