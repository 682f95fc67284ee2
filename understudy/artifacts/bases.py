"""What a new version's tensors can be told as the difference to: the same tensors of the lineage parent.

A base is read where that costs least: at the source, in the version that the parent's manifest pins, else in the vault.
Its id proves it either way, so a wrong match or a changed object costs bytes, never truth.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from understudy.errors import Corrupt, Denied, NotFound, Permanent
from understudy.vault.chunks import Chunk, chunk_id
from understudy.vault.reading import ChunkReader, chain_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from understudy.artifacts.cut import Layout
    from understudy.artifacts.headers import Headers
    from understudy.artifacts.manifest import ArtifactFile, ArtifactManifest
    from understudy.coding.transforms import Buffer
    from understudy.objects.interface import ObjectStore
    from understudy.vault.chunks import Location
    from understudy.vault.writing import ChunkWriter

logger = logging.getLogger("understudy.artifacts")

#: A delta and all that it stands on are at most so many times what the tensor takes when it is coded alone: the
#: longest that a restore has to read.
RESTORE_READS_MAX = 2.0
#: A delta that saves less than this share of what the tensor takes alone is not worth its base.
_WORTH = 0.85
#: Deltas on deltas; far below what a reader follows.
_DEPTH_MAX = 8


@dataclass(frozen=True, slots=True)
class Base:
    """A chunk of the parent that covers the same words of the same tensor.

    Attributes:
        chunk: its id and length.
        place: where the vault has it.
        file: of the parent, in which it lies.
        offset: of its first byte in that file.
    """

    chunk: Chunk
    place: Location
    file: ArtifactFile
    offset: int


class Bases:
    """The parent of one version. Reads nothing before the first chunk asks for its base. Safe from many threads."""

    def __init__(self, source: ObjectStore, writer: ChunkWriter, headers: Headers) -> None:
        """Take the store that is read, the run's writer and the headers that it remembers."""
        self._source = source
        self._writer = writer
        self._headers = headers
        self._reader: ChunkReader | None = None
        self._lock = threading.Lock()
        self._parent: ArtifactManifest | None = None
        self._layouts: Mapping[str, Layout] = {}
        self._found: dict[tuple[str, str, int], tuple[ArtifactFile, int, str, int]] | None = None
        self._pinned: dict[str, bool] = {}
        self.bytes_read = 0

    def close(self) -> None:
        """Stop reading from the vault."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def of_version(self, parent: ArtifactManifest | None, layouts: Mapping[str, Layout]) -> None:
        """Turn to the next version.

        Args:
            parent: of it; None has no bases.
            layouts: of the version's own files, by path.
        """
        with self._lock:
            self._parent, self._layouts, self._found, self._pinned = parent, layouts, None, {}
            if self._reader is not None:
                self._reader.index = self._writer.index

    def find(self, path: str, tensor: str, offset: int, length: int) -> Base | None:
        """Return the base of a piece of a tensor, None when the parent has none that could be used.

        Args:
            path: of the version's file.
            tensor: its name there.
            offset: of the piece in the tensor.
            length: of the piece.
        """
        with self._lock:
            if self._found is None:
                self._found = self._pieces()
            found = self._found.get((path, tensor, offset))
        if found is None or found[3] != length:
            return None
        file, start, name, _ = found
        place = self._writer.find(bytes.fromhex(name))
        if place is None or place.raw_length != length or not self._affords(place):
            return None
        return Base(Chunk(place.id, length), place, file, start)

    def is_worth(self, base: Base, frame_length: int) -> bool:
        """Return whether a delta saves enough, and leaves a restore that reads no more than the limit."""
        chain = chain_of(self._writer.index, base.place, base.file.path)
        alone = chain[-1].length
        reads = frame_length + sum(place.length for place in chain)
        return frame_length <= alone * _WORTH and reads <= RESTORE_READS_MAX * alone

    def read(self, bases: Sequence[Base]) -> list[Buffer | None]:
        """Return the bases' plain bytes, each proven by its id; None where neither source nor vault has them any more.

        Neighbours in one file, as the bases of neighbours are, take one request.
        """
        found: list[Buffer | None] = []
        for run in _runs(bases):
            found += self._from_source(run)
        return [self._from_vault(base) if data is None else data for base, data in zip(bases, found, strict=True)]

    def _affords(self, place: Location) -> bool:
        try:
            chain = chain_of(self._writer.index, place, "a parent")
        except Corrupt as error:
            logger.warning("%s", error.message)
            return False
        usable = all(self._writer.find(each.id) is not None for each in chain[1:])
        return (
            usable
            and len(chain) <= _DEPTH_MAX
            and sum(each.length for each in chain) < (RESTORE_READS_MAX * chain[-1].length)
        )

    def _from_source(self, run: list[Base]) -> list[Buffer | None]:
        """Read neighbours at the source: None for those that are not there as they were."""
        file, nothing = run[0].file, [None] * len(run)
        if not self._is_pinned(file):
            return [*nothing]
        length = sum(base.chunk.length for base in run)
        try:
            data = self._source.get_range(file.source.key, run[0].offset, length, version=file.source.version)
        except (NotFound, Corrupt, Denied):
            self._pinned[file.path] = False
            return [*nothing]
        with self._lock:
            self.bytes_read += length
        view, start = memoryview(data), run[0].offset
        found: list[Buffer | None] = []
        for base in run:
            part = view[base.offset - start :][: base.chunk.length]
            found.append(part if chunk_id(part) == base.chunk.id else None)
        return found

    def _is_pinned(self, file: ArtifactFile) -> bool:
        """Return whether the source still has the very object that the parent was read from."""
        if (known := self._pinned.get(file.path)) is None:
            origin = file.source
            try:
                known = origin.version is not None or self._source.head(origin.key).token == origin.token
            except (NotFound, Denied):
                known = False
            self._pinned[file.path] = known
        return known

    def _from_vault(self, base: Base) -> bytes | None:
        with self._lock:
            if self._reader is None:
                self._reader = ChunkReader(self._writer.vault, self._writer.index)
            reader = self._reader
        before = reader.bytes_read
        try:
            data = b"".join(reader.stream([base.chunk], base.file.path))
        except Permanent as error:
            logger.warning("no delta against the parent: %s", error.message)
            return None
        with self._lock:
            self.bytes_read += reader.bytes_read - before
        return data

    def _pieces(self) -> dict[tuple[str, str, int], tuple[ArtifactFile, int, str, int]]:
        """Return, by (path, tensor, offset) of the new version, the parent's chunk: its file, place, id and length."""
        from understudy.artifacts.headers import match_tensors, tensor_chunks

        if self._parent is None or not self._layouts:
            return {}
        files = {file.path: file for file in self._parent.files}
        old = self._headers.layouts_of(self._parent)
        chunks = {path: tensor_chunks(layout, files[path]) for path, layout in old.items()}
        starts = {path: {tensor.name: tensor.start for tensor in layout.tensors} for path, layout in old.items()}
        found: dict[tuple[str, str, int], tuple[ArtifactFile, int, str, int]] = {}
        for (path, name), (old_path, old_name) in match_tensors(self._layouts, old).items():
            for offset, chunk, length in chunks[old_path].get(old_name, ()):
                start = starts[old_path][old_name] + offset
                found[path, name, offset] = files[old_path], start, chunk, length
        return found


def _runs(bases: Sequence[Base]) -> list[list[Base]]:
    """Return neighbours together: of one file, one behind the other."""
    runs: list[list[Base]] = []
    for base in bases:
        last = runs[-1][-1] if runs else None
        if last and last.file is base.file and last.offset + last.chunk.length == base.offset:
            runs[-1].append(base)
        else:
            runs.append([base])
    return runs
