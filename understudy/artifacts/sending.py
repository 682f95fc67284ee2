"""Reads a version's files from the source once, in parallel and in order, and sends the chunks that the vault lacks.

Three stages, each bounded: ranged reads ahead of the hash, SHA-256 in file order, and BLAKE3 and zstd in threads.
"""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Self

from understudy.artifacts.cut import LENGTH_BYTES, ContentCutter, cut_safetensors, header_length, read_layout
from understudy.artifacts.headers import Headers
from understudy.artifacts.manifest import ArtifactFile, SourceObject
from understudy.artifacts.validate import (
    Document,
    complaint_about_files,
    complaints_about_config,
    complaints_about_names,
    complaints_about_shards,
    differences,
    group_of,
    is_checked_json,
    is_list_of_shards,
    lost_files,
    read_document,
)
from understudy.errors import Corrupt, NotFound
from understudy.threads import ThreadPool
from understudy.vault.chunks import CodedChunk, chunk_id
from understudy.vault.coders import encode
from understudy.vault.documents import quoted
from understudy.vault.lanes import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from understudy.artifacts.cut import Described, Layout
    from understudy.artifacts.manifest import Kind
    from understudy.artifacts.plan import Planned, SourceFile
    from understudy.objects.interface import ObjectInfo, ObjectStore
    from understudy.vault.writing import ChunkWriter

_READ_BYTES = 8 << 20
_READS_MAX = 4
_HEADS_MAX = 16
_CODERS_MAX = 8
#: Bytes of checked files that are kept until they are sent; beyond, they are read a second time.
_KEPT_BYTES_MAX = 64 << 20
#: What is longer is parsed by one thread at a time: objects take many times the room of their JSON.
_PARSED_ALONE_BYTES = 1 << 20


class Incomplete(Exception):
    """The version is no whole model yet; the text says why."""


class Refusal(Exception):
    """The version contradicts itself, or its parent, and nobody accepted that; the text says how."""


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
    document: Document | None = None
    layout: Layout | None = None


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
    """What came of sending one version's files: every file in path order, and which of them had a new chunk.

    ``accepted`` are the complaints that a person accepted beforehand; the manifest keeps them.
    """

    files: tuple[ArtifactFile, ...]
    new: frozenset[str]
    accepted: tuple[str, ...] = ()


class Sender:
    """Sends versions one after another with the same threads."""

    def __init__(self, source: ObjectStore, writer: ChunkWriter) -> None:
        """Take the store that is read and the vault's writer."""
        self._source = source
        self._writer = writer
        threads = max(2, min(_CODERS_MAX, os.cpu_count() or 2))
        self._readers = ThreadPool(_HEADS_MAX, thread_name_prefix="read")
        self._coders = ThreadPool(threads, thread_name_prefix="code")
        self._read_room = threading.Semaphore(_READS_MAX)
        self._code_room = threading.Semaphore(threads + 1)
        self._lock = threading.Lock()
        self._alone = threading.Lock()
        self._kept = 0
        self._headers = Headers(writer)
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

    def send(self, planned: Planned, advance: Callable[[int], None], *, accept: bool = False) -> Sent:
        """Read the version's fresh files and add their chunks to the writer; nothing is committed.

        Args:
            planned: what to read, and what is known.
            advance: called with the number of bytes that were read and added.
            accept: take the version although there are complaints about it; a file that lies about what it holds is
                kept as plain bytes.

        Raises:
            Incomplete: the files are no whole model yet.
            Refusal: they contradict each other, or the version's parent.
            Changed: the source changed since it was listed.
        """
        self._kept = 0
        entries, accepted = self._checked(planned, accept=accept)
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
        return Sent(tuple(files[path] for path in sorted(files)), new, accepted)

    def _checked(self, planned: Planned, *, accept: bool) -> tuple[list[_Entry], tuple[str, ...]]:
        """Pin every fresh file to its version, look at what says whether the model is whole; return what was accepted.

        Raises Incomplete, Refusal.
        """
        incomplete: list[str] = []
        if reason := complaint_about_files({file.path: file.info.size for file in planned.source.files}):
            if not accept:
                raise Incomplete(reason)
            incomplete.append(reason)
        entries = [
            _Entry(file, info)
            for file, info in zip(planned.fresh, self._readers.map(self._pin, planned.fresh), strict=True)
        ]
        fresh = {file.path for file in planned.fresh}
        # A list of shards must be looked at again when a shard went, although the list itself stayed.
        lists = [
            _Entry(file, file.info)
            for file in planned.source.files
            if file.path not in fresh and is_list_of_shards(file.path) and is_checked_json(file.path, file.info.size)
        ]
        incomplete += [complaint for complaint in self._readers.map(self._look, [*entries, *lists]) if complaint]
        checked = _Checked(self._headers, planned, entries, lists)
        incomplete += checked.incomplete()
        refused = checked.refused() if accept or not incomplete else []
        if incomplete and not accept:
            raise Incomplete(_first(incomplete))
        if refused and not accept:
            raise Refusal(_first(refused))
        return entries, (*incomplete, *refused)

    def _pin(self, file: SourceFile) -> ObjectInfo:
        try:
            info = self._source.head(file.info.key)
        except NotFound as error:
            raise Changed(file.path) from error
        if (info.token, info.size) != (file.info.token, file.info.size):
            raise Changed(file.path)
        return info

    def _look(self, entry: _Entry) -> str | None:
        """Read what says whether a file is whole, and return why it is not."""
        path, size = entry.file.path, entry.info.size
        if is_checked_json(path, size):
            with self._alone if size > _PARSED_ALONE_BYTES else nullcontext():
                data = self._read(entry, 0, size)
                document = read_document(path, data)
                if self._keep(size):
                    entry.held[0] = data
            if isinstance(document, str):
                return document
            entry.document = document
            return None
        if not path.endswith(".safetensors"):
            return None
        try:
            start = self._read(entry, 0, min(size, LENGTH_BYTES))
            length = header_length(start, size)
            with self._alone if length > _PARSED_ALONE_BYTES else nullcontext():
                header = self._read(entry, LENGTH_BYTES, length)
                entry.layout = read_layout(header, size)
        except Corrupt as error:
            return f"{path} {error.message}"
        entry.lengths = list(cut_safetensors(entry.layout, size))
        self._headers.remember(entry.layout, start + header)
        entry.kind = "safetensors"
        return None

    def _keep(self, size: int) -> bool:
        """Return whether there is room to keep the bytes of a checked file until it is sent."""
        with self._lock:
            room = self._kept + size <= _KEPT_BYTES_MAX
            self._kept += size if room else 0
            return room

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


class _Checked:
    """One version as it was looked at, beside its parent."""

    def __init__(self, headers: Headers, planned: Planned, entries: list[_Entry], lists: list[_Entry]) -> None:
        self._headers = headers
        self._planned = planned
        self._name = f"{planned.source.model}/{planned.source.version}"
        self._paths = {file.path for file in planned.source.files}
        self._fresh = {entry.file.path: entry for entry in entries}
        self._known = {file.path: file for file in planned.known}
        looked = [*entries, *lists]
        self._documents = {entry.file.path: entry.document for entry in looked if entry.document is not None}

    def incomplete(self) -> list[str]:
        """Return what may still be on its way."""
        return complaints_about_shards(self._paths, self._documents, self._described)

    def refused(self) -> list[str]:
        """Return what contradicts itself, or the parent."""
        holes = [
            f"{path} has bytes that belong to no tensor, before {quoted(entry.layout.hole)}"
            for path, entry in sorted(self._fresh.items())
            if entry.layout and entry.layout.hole is not None
        ]
        names = complaints_about_names(self._paths) if self._fresh else []
        config = complaints_about_config(self._documents, self._paths, self._described)
        return [*holes, *names, *config, *self._against_parent()]

    def _against_parent(self) -> list[str]:
        parent = self._planned.parent
        if parent is None:
            return []
        before: dict[str, dict[str, Described]] = {}
        after: dict[str, dict[str, Described]] = {}
        unknown: set[str] = set()
        tensors = [file for file in parent.files if file.path.endswith(".safetensors")]
        for file in tensors:
            if file.path in self._known:
                continue
            group = group_of(file.path)
            what = f"{parent.model}/{parent.version}/{file.path}"
            described = self._headers.of(file, what) if file.kind == "safetensors" else None
            if described is None:
                unknown.add(group)
            else:
                before.setdefault(group, {}).update(described)
        for path, entry in self._fresh.items():
            if path.endswith(".safetensors"):
                if entry.layout is None:
                    unknown.add(group_of(path))
                else:
                    after.setdefault(group_of(path), {}).update(entry.layout.described)
        found = lost_files([file.path for file in parent.files], self._paths)
        # A parent without any such file cannot be compared: its weights are in another form.
        groups = sorted((before.keys() | after.keys()) - unknown) if tensors else []
        for group in groups:
            found += [f"{group} {words}" for words in differences(before.get(group, {}), after.get(group, {}))]
        return found

    def _described(self, path: str) -> Mapping[str, Described] | None:
        if (entry := self._fresh.get(path)) is not None:
            return entry.layout.described if entry.layout else None
        file = self._known.get(path)
        if file is None or file.kind != "safetensors":
            return None
        return self._headers.of(file, f"{self._name}/{path}")


def _first(complaints: list[str]) -> str:
    more = f"; and {len(complaints) - 1} more" if len(complaints) > 1 else ""
    return complaints[0] + more


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
