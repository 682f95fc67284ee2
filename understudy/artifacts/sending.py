"""Reads a version's files from the source once, in parallel and in order, and sends the chunks that the vault lacks.

Three stages, each bounded: ranged reads ahead of the hash, SHA-256 in file order, and BLAKE3 and zstd in threads.
"""

from __future__ import annotations

import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Self

from understudy.artifacts.cut import LENGTH_BYTES, ContentCutter, cut_safetensors, header_length, read_layout
from understudy.artifacts.manifest import ArtifactFile, SourceObject
from understudy.artifacts.validate import complaint_about_files, complaint_about_json, is_checked_json
from understudy.errors import Corrupt, NotFound
from understudy.vault.chunks import CodedChunk, chunk_id
from understudy.vault.coders import encode
from understudy.vault.lanes import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from understudy.artifacts.manifest import Kind
    from understudy.artifacts.plan import Planned, SourceFile
    from understudy.objects.interface import ObjectInfo, ObjectStore
    from understudy.vault.writing import ChunkWriter

_READ_BYTES = 8 << 20
_READS_MAX = 4
_HEADS_MAX = 16
_CODERS_MAX = 8


class Incomplete(Exception):
    """The version is no whole model yet; the text says why."""


class Changed(Exception):
    """An object at the source is no longer what the listing showed; the text names it."""


@dataclass(slots=True)
class _Entry:
    """One file on its way: what is known before it is read, and what comes of reading it."""

    file: SourceFile
    info: ObjectInfo
    kind: Kind = "opaque"
    lengths: list[int] | None = None  # the chunks' lengths, where they are known beforehand
    held: dict[int, bytes] = field(default_factory=dict)  # bytes that the check has read already, by their offset
    sha256: hashlib._Hash = field(default_factory=hashlib.sha256)
    chunks: list[tuple[str, int]] = field(default_factory=list)
    new_chunks: int = 0
    cutter: ContentCutter | None = None


@dataclass(slots=True)
class _Piece:
    """A run of bytes of one file: its chunks are cut at ``lengths``, or by content when there are none."""

    entry: _Entry
    offset: int
    length: int
    lengths: list[int] | None
    last: bool
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of sending one version's files: every file in path order, and which of them had a new chunk."""

    files: tuple[ArtifactFile, ...]
    new: frozenset[str]


class Sender:
    """Sends versions one after another with the same threads."""

    def __init__(self, source: ObjectStore, writer: ChunkWriter) -> None:
        """Take the store that is read and the vault's writer."""
        self._source = source
        self._writer = writer
        threads = max(2, min(_CODERS_MAX, os.cpu_count() or 2))
        self._readers = ThreadPoolExecutor(_HEADS_MAX, thread_name_prefix="read")
        self._coders = ThreadPoolExecutor(threads, thread_name_prefix="code")
        self._read_room = threading.Semaphore(_READS_MAX)
        self._code_room = threading.Semaphore(threads + 1)
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
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._coders.shutdown(wait=True, cancel_futures=True)

    def send(self, planned: Planned, advance: Callable[[int], None]) -> Sent:
        """Read the version's fresh files and add their chunks to the writer; nothing is committed.

        Args:
            planned: what to read, and what is known.
            advance: called with the number of bytes that were read and added.

        Raises:
            Incomplete: the files are no whole model yet.
            Changed: the source changed since it was listed.
        """
        entries = self._checked(planned)
        pieces = self._pieces(entries)
        reads = (partial(self._filled, piece) for piece in pieces)
        with closing(in_order(self._readers, reads, self._read_room)) as filled:
            codes = (partial(self._code, piece.entry, cuts) for piece, cuts in self._hashed(filled))
            with closing(in_order(self._coders, codes, self._code_room)) as coded:
                for entry, chunks in coded:
                    for chunk, frame in chunks:
                        entry.chunks.append((chunk[0].hex(), chunk[1]))
                        if frame is not None and self._writer.add(frame):
                            entry.new_chunks += 1
                    advance(sum(chunk[1] for chunk, _ in chunks))
        self._check_unversioned(entries)
        files = {file.path: file for file in planned.known}
        for entry in entries:
            files[entry.file.path] = _finished(entry)
        new = frozenset(entry.file.path for entry in entries if entry.new_chunks)
        return Sent(tuple(files[path] for path in sorted(files)), new)

    def _checked(self, planned: Planned) -> list[_Entry]:
        """Pin every fresh file to its version and look at what says whether the model is whole."""
        if reason := complaint_about_files({file.path: file.info.size for file in planned.source.files}):
            raise Incomplete(reason)
        entries = [
            _Entry(file, info)
            for file, info in zip(planned.fresh, self._readers.map(self._pin, planned.fresh), strict=True)
        ]
        paths = {file.path for file in planned.source.files}
        fresh = {file.path for file in planned.fresh}
        # A list of shards must be looked at again when a shard went, although the list itself stayed.
        lists = [
            _Entry(file, file.info)
            for file in planned.source.files
            if file.path not in fresh
            and file.path.endswith(".index.json")
            and is_checked_json(file.path, file.info.size)
        ]
        complaints = self._readers.map(partial(self._look, paths), [*entries, *lists])
        for complaint in list(complaints):
            if complaint:
                raise Incomplete(complaint)
        return entries

    def _pin(self, file: SourceFile) -> ObjectInfo:
        try:
            info = self._source.head(file.info.key)
        except NotFound as error:
            raise Changed(file.path) from error
        if (info.token, info.size) != (file.info.token, file.info.size):
            raise Changed(file.path)
        return info

    def _look(self, paths: set[str], entry: _Entry) -> str | None:
        path, size = entry.file.path, entry.info.size
        if is_checked_json(path, size):
            entry.held[0] = self._read(entry, 0, size)
            return complaint_about_json(path, entry.held[0], paths)
        if not path.endswith(".safetensors"):
            return None
        try:
            start = self._read(entry, 0, min(size, LENGTH_BYTES))
            header = self._read(entry, LENGTH_BYTES, header_length(start, size))
            entry.lengths = list(cut_safetensors(read_layout(header, size), size))
        except Corrupt as error:
            return f"{path} {error.message}"
        entry.kind = "safetensors"
        return None

    def _read(self, entry: _Entry, start: int, length: int) -> bytes:
        if not length:
            return b""
        try:
            data = self._source.get_range(entry.info.key, start, length, version=entry.info.version)
        except (NotFound, Corrupt) as error:
            # The pinned version is gone, or the object is shorter now.
            raise Changed(entry.file.path) from error
        with self._lock:
            self.bytes_read += length
        return data

    def _pieces(self, entries: list[_Entry]) -> Iterator[_Piece]:
        for entry in entries:
            size = entry.info.size
            if entry.lengths is None:
                entry.cutter = ContentCutter()
                for offset in range(0, size, _READ_BYTES):
                    length = min(_READ_BYTES, size - offset)
                    yield _Piece(entry, offset, length, None, last=offset + length == size)
                continue
            offset = 0
            for lengths in _runs(entry.lengths):
                yield _Piece(entry, offset, sum(lengths), lengths, last=offset + sum(lengths) == size)
                offset += sum(lengths)

    def _filled(self, piece: _Piece) -> _Piece:
        whole = piece.entry.held.get(0)
        if whole is not None:
            piece.data = whole[piece.offset : piece.offset + piece.length]
        else:
            piece.data = self._read(piece.entry, piece.offset, piece.length)
        return piece

    def _hashed(self, filled: Iterator[_Piece]) -> Iterator[tuple[_Piece, list[memoryview]]]:
        """Hash each file from end to end, and cut it, in this thread: both must see the bytes in order."""
        for piece in filled:
            piece.entry.sha256.update(piece.data)
            if piece.lengths is None:
                cutter = piece.entry.cutter or ContentCutter()
                yield piece, cutter.feed(piece.data, last=piece.last)
            else:
                view = memoryview(piece.data)
                ends = list(accumulate(piece.lengths))
                yield piece, [view[end - length : end] for end, length in zip(ends, piece.lengths, strict=True)]
            piece.data = b""

    def _code(
        self, entry: _Entry, cuts: list[memoryview]
    ) -> tuple[_Entry, list[tuple[tuple[bytes, int], CodedChunk | None]]]:
        coded: list[tuple[tuple[bytes, int], CodedChunk | None]] = []
        for cut in cuts:
            name = chunk_id(cut)
            frame = None
            if not self._writer.knows(name):
                coder, data = encode(cut)
                frame = CodedChunk(name, cut.nbytes, coder, data)
            coded.append(((name, cut.nbytes), frame))
        return entry, coded

    def _check_unversioned(self, entries: list[_Entry]) -> None:
        """Where the store keeps no versions, bytes may have changed between two reads: the token tells."""
        loose = [entry.file for entry in entries if entry.info.version is None]
        for _ in self._readers.map(self._pin, loose):
            pass


def _finished(entry: _Entry) -> ArtifactFile:
    info = entry.info
    return ArtifactFile(
        path=entry.file.path,
        size=info.size,
        sha256=entry.sha256.hexdigest(),
        kind=entry.kind,
        source=SourceObject(info.key, info.version, info.token, info.modified.isoformat()),
        chunks=tuple(entry.chunks),
    )


def _runs(lengths: list[int]) -> Iterator[list[int]]:
    """Yield runs of whole chunks that are read by one request."""
    run: list[int] = []
    total = 0
    for length in lengths:
        if run and total + length > _READ_BYTES:
            yield run
            run, total = [], 0
        run.append(length)
        total += length
    if run:
        yield run
