"""Reads a version's files from the source once, in parallel and in order, and sends the chunks that the vault lacks.

Three stages, each bounded: ranged reads ahead of the hash, SHA-256 in file order, and BLAKE3 and the coders in threads.
A piece of a tensor that changed is coded as the difference to the same piece of the version's parent where that pays.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Self

from understudy.artifacts.bases import Bases
from understudy.artifacts.cut import CONTENT_BYTES_MIN, ContentCutter, Cut, cut_tensors
from understudy.artifacts.headers import Headers
from understudy.artifacts.layouts import external_layouts, holds_when_lying, look_into
from understudy.artifacts.layouts.safetensors import LENGTH_BYTES, header_length, read_layout
from understudy.artifacts.manifest import ArtifactFile, SourceObject
from understudy.artifacts.pinning import Changed, pin, require_unmoved
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
from understudy.report import Counts
from understudy.threads import ThreadPool
from understudy.transfer.link import READS_USUAL
from understudy.transfer.pace import Pace
from understudy.vault.chunks import CodedChunk, chunk_id
from understudy.vault.coders import PLAIN, Grain, encode, encode_delta
from understudy.vault.documents import quoted
from understudy.vault.lanes import in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType

    from understudy.artifacts.bases import Base
    from understudy.artifacts.cut import Described, Layout
    from understudy.artifacts.manifest import Kind
    from understudy.artifacts.plan import Planned, SourceFile, SourceVersion
    from understudy.coding.transforms import Buffer
    from understudy.objects.interface import ObjectInfo, ObjectStore
    from understudy.vault.coders import Effort
    from understudy.vault.writing import ChunkWriter

_READ_BYTES = 8 << 20
_HEADS_MAX = 16
_CODERS_MAX = 6
#: Threads beyond one a core, for coders that wait for a base.
_BASE_READS_MAX = 3
logger = logging.getLogger("understudy.artifacts")

#: The beginning of a file that is looked into, read at once.
_LOOKED_BYTES = 64 << 10
#: Bytes of checked files that are kept until they are sent; beyond, they are read a second time.
_KEPT_BYTES_MAX = 64 << 20
#: What is longer is parsed by one thread at a time: objects take many times the room of their JSON.
_PARSED_ALONE_BYTES = 1 << 20


class Incomplete(Exception):
    """The version is no whole model yet; the text says why."""


class Refusal(Exception):
    """The version contradicts itself, or its parent, and nobody accepted that; the text says how."""


@dataclass(slots=True)
class _Entry:
    """One file on its way: what is known before it is read, and what comes of reading it."""

    file: SourceFile
    info: ObjectInfo
    kind: Kind = "opaque"
    cuts: list[Cut] | None = None  # where it is cut, when that is known beforehand
    held: dict[int, bytes] = field(default_factory=dict)  # bytes that the check has read already, by their offset
    sha256: hashlib._Hash = field(default_factory=hashlib.sha256)
    chunks: list[tuple[str, int]] = field(default_factory=list)
    new_chunks: int = 0
    cutter: ContentCutter | None = None
    document: Document | None = None
    layout: Layout | None = None


@dataclass(slots=True)
class _Piece:
    """A run of bytes of one file: its chunks are ``cuts``, or cut by content when there are none."""

    entry: _Entry
    offset: int
    length: int
    cuts: list[Cut] | None
    last: bool
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Coded:
    """What one coder made: so many chunks, of so many plain bytes, in so many."""

    chunks: int
    bytes_plain: int
    bytes_coded: int


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of sending one version's files.

    Attributes:
        files: every file, in path order.
        new: the paths of those that had a new chunk.
        accepted: the complaints that a person accepted beforehand; the manifest keeps them.
        bytes_known: plain bytes that were read and found in the vault.
        coded: by coder, what it made of the rest.
        pace: how hard it was coded, and from which figures; empty where the link was not measured.
    """

    files: tuple[ArtifactFile, ...]
    new: frozenset[str]
    accepted: tuple[str, ...] = ()
    bytes_known: int = 0
    coded: dict[str, Coded] = field(default_factory=dict)
    pace: str = ""


class Sender:
    """Sends versions one after another with the same threads.

    ``counts`` is what became of the bytes of the version under way, so far.
    """

    def __init__(self, source: ObjectStore, writer: ChunkWriter, *, effort: Effort | None = None) -> None:
        """Take the store that is read and the vault's writer.

        Args:
            source: where the versions are.
            writer: of the vault; its uploads are what is measured of the link.
            effort: of the coders; None follows the link.
        """
        self._source = source
        self._writer = writer
        threads = max(2, min(_CODERS_MAX, os.cpu_count() or 2)) + _BASE_READS_MAX
        self._readers = ThreadPool(_HEADS_MAX, thread_name_prefix="read")
        self._coders = ThreadPool(threads, thread_name_prefix="code")
        self._read_room = threading.Semaphore(READS_USUAL)
        self._code_room = threading.Semaphore(threads + 1)
        self._lock = threading.Lock()
        self._alone = threading.Lock()
        self._kept = 0
        self._headers = Headers(writer)
        self._bases = Bases(source, writer, self._headers)
        self._pace = Pace(writer.link, effort=effort)
        self._reads = READS_USUAL
        self.counts = Counts()
        self._bytes_read = 0

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
        self._bases.close()

    @property
    def bytes_read(self) -> int:
        """Bytes that were read: of the versions' files, and of what their deltas are taken against."""
        return self._bytes_read + self._bases.bytes_read

    def check(self, planned: Planned, *, accept: bool = False) -> tuple[str, ...]:
        """Look at a version as ``send`` does before it sends, and return the complaints that were accepted.

        Raises Incomplete, Refusal, Changed.
        """
        self._kept = 0
        return self._checked(planned, accept=accept)[1]

    def send(
        self, planned: Planned, advance: Callable[[int], None], *, accept: bool = False, checked: bool = False
    ) -> Sent:
        """Read the version's fresh files and add their chunks to the writer; nothing is committed.

        Args:
            planned: what to read, and what is known.
            advance: called with the number of bytes that were read and added.
            accept: take the version although there are complaints about it; a file that lies about what it holds is
                kept as plain bytes.
            checked: the version was checked as a whole already; the fresh files may be a part of it.

        Raises:
            Incomplete: the files are no whole model yet.
            Refusal: they contradict each other, or the version's parent.
            Changed: the source changed since it was listed.
        """
        self._kept = 0
        accepted: tuple[str, ...] = ()
        if checked:
            entries = self._pinned(planned)
            for _ in self._looked_at(entries):
                pass
            self._look_beside(planned, entries)
        else:
            entries, accepted = self._checked(planned, accept=accept)
        self._bases.of_version(
            planned.parent, {entry.file.path: entry.layout for entry in entries if entry.layout and entry.cuts}
        )
        self.counts, coded_by = Counts(), dict[str, Coded]()
        sent_before = self._writer.bytes_sent
        pieces = self._pieces(entries)
        reads = (partial(self._filled, piece) for piece in pieces)
        with closing(in_order(self._readers, reads, self._read_room)) as filled:
            codes = (partial(self._code, piece, views) for piece, views in self._hashed(filled))
            with closing(in_order(self._coders, codes, self._code_room)) as coded:
                for entry, chunks in coded:
                    known, fresh = self.counts.known, self.counts.coded
                    for chunk, frame in chunks:
                        entry.chunks.append((chunk[0].hex(), chunk[1]))
                        if frame is not None and self._writer.add(frame):
                            entry.new_chunks += 1
                            fresh += chunk[1]
                            _count(coded_by, frame)
                        else:
                            known += chunk[1]
                    self.counts = Counts(known=known, coded=fresh, sent=self._writer.bytes_sent - sent_before)
                    self._widen()
                    advance(sum(chunk[1] for chunk, _ in chunks))
        self._check_unversioned(planned.source, entries)
        files = {file.path: file for file in planned.known}
        for entry in entries:
            files[entry.file.path] = file = _finished(entry)
            if entry.layout and file.layout:
                self._headers.remember_file(file, entry.layout)
        new = frozenset(entry.file.path for entry in entries if entry.new_chunks)
        return Sent(
            tuple(files[path] for path in sorted(files)), new, accepted, self.counts.known, coded_by, self._pace.reason
        )

    def _checked(self, planned: Planned, *, accept: bool) -> tuple[list[_Entry], tuple[str, ...]]:
        """Pin every fresh file to its version, look at what says whether the model is whole; return what was accepted.

        Raises Incomplete, Refusal.
        """
        incomplete: list[str] = []
        if reason := complaint_about_files({file.path: file.info.size for file in planned.source.files}):
            if not accept:
                raise Incomplete(reason)
            incomplete.append(reason)
        entries = self._pinned(planned)
        fresh = {file.path for file in planned.fresh}
        # A list of shards must be looked at again when a shard went, although the list itself stayed.
        lists = [
            _Entry(file, file.info)
            for file in planned.source.files
            if file.path not in fresh and is_list_of_shards(file.path) and is_checked_json(file.path, file.info.size)
        ]
        incomplete += [complaint for complaint in self._looked_at([*entries, *lists]) if complaint]
        self._look_beside(planned, entries)
        checked = _Checked(self._headers, planned, entries, lists)
        incomplete += checked.incomplete()
        refused = checked.refused() if accept or not incomplete else []
        if incomplete and not accept:
            raise Incomplete(_first(incomplete))
        if refused and not accept:
            raise Refusal(_first(refused))
        return entries, (*incomplete, *refused)

    def _pinned(self, planned: Planned) -> list[_Entry]:
        pinned = pin(self._source, planned.source, planned.fresh, self._readers)
        return [_Entry(file, info) for file, info in zip(planned.fresh, pinned, strict=True)]

    def _looked_at(self, entries: list[_Entry]) -> Iterator[str | None]:
        """Look at files in parallel; of very many, only a few wait for it at once."""
        looks = (partial(self._look, entry) for entry in entries)
        return in_order(self._readers, looks, threading.Semaphore(2 * _HEADS_MAX))

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
        if not holds_when_lying(path):
            self._look_for_tensors(entry)
            return None
        try:
            read = self._looking(entry)
            start = read(0, min(size, LENGTH_BYTES))
            length = header_length(start, size)
            with self._alone if length > _PARSED_ALONE_BYTES else nullcontext():
                header = read(LENGTH_BYTES, length)
                entry.layout = read_layout(header, size)
        except Corrupt as error:
            return f"{path} {error.message}"
        entry.cuts = list(cut_tensors(entry.layout, size))
        self._headers.remember(entry.layout, start + header)
        entry.kind = "safetensors"
        return None

    def _look_for_tensors(self, entry: _Entry) -> None:
        """Find where the tensors of PyTorch, GGUF or ONNX begin; a file that lies about them is cut by content."""
        try:
            with self._alone if entry.info.size > _PARSED_ALONE_BYTES else nullcontext():
                layout = look_into(entry.file.path, entry.info.size, self._looking(entry))
        except Corrupt as error:
            logger.info("%s %s; it is kept as opaque bytes", entry.file.path, error.message)
            return
        if layout is not None:
            _cut_at(entry, layout)

    def _look_beside(self, planned: Planned, entries: list[_Entry]) -> None:
        """Find where tensors begin in the files beside ONNX models: the models say, also one that did not change."""
        fresh = {entry.file.path: entry for entry in entries if not holds_when_lying(entry.file.path)}
        sizes = {path: entry.info.size for path, entry in fresh.items()}
        known = {file.path: file for file in planned.known}
        for path in sorted(file.path for file in planned.source.files if file.path.endswith(".onnx")):
            layout = fresh[path].layout if path in fresh else None
            if path in known:
                layout = self._headers.layout_of(known[path], path)
            for other, found in (external_layouts(path, layout, sizes) if layout else {}).items():
                if fresh[other].layout is None:
                    _cut_at(fresh[other], found)

    def _looking(self, entry: _Entry) -> Callable[[int, int], bytes]:
        """Return what reads ranges of a file for whoever looks into it; its beginning is asked for once.

        It is kept, if there is room, and not read again when the file is sent.
        """
        begun = b""
        known = min(entry.info.size, _LOOKED_BYTES)

        def read(start: int, length: int) -> bytes:
            nonlocal begun
            if start + length > known:
                return self._read(entry, start, length)
            if not begun:
                begun = self._read(entry, 0, known)
                if self._keep(known):
                    entry.held[0] = begun
            return begun[start : start + length]

        return read

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
            self._bytes_read += length
        return data

    def _pieces(self, entries: list[_Entry]) -> Iterator[_Piece]:
        for entry in entries:
            size = entry.info.size
            if entry.cuts is None and 0 < size <= CONTENT_BYTES_MIN:
                # No shorter chunk is cut from the middle of a file: a cutter, of some kilobytes, is spared.
                yield _Piece(entry, 0, size, [Cut(size, -1, 0)], last=True)
                continue
            if entry.cuts is None:
                entry.cutter = ContentCutter()
                for offset in range(0, size, _READ_BYTES):
                    length = min(_READ_BYTES, size - offset)
                    yield _Piece(entry, offset, length, None, last=offset + length == size)
                continue
            offset = 0
            for cuts in _runs(entry.cuts):
                length = sum(cut.length for cut in cuts)
                yield _Piece(entry, offset, length, cuts, last=offset + length == size)
                offset += length

    def _filled(self, piece: _Piece) -> _Piece:
        begun = piece.entry.held.get(0, b"")[piece.offset : piece.offset + piece.length]
        rest = piece.length - len(begun)
        piece.data = begun + self._read(piece.entry, piece.offset + len(begun), rest) if rest else begun
        return piece

    def _hashed(self, filled: Iterator[_Piece]) -> Iterator[tuple[_Piece, list[memoryview]]]:
        """Hash each file from end to end, and cut it, in this thread: both must see the bytes in order."""
        for piece in filled:
            piece.entry.sha256.update(piece.data)
            if piece.cuts is None:
                cutter = piece.entry.cutter or ContentCutter()
                yield piece, cutter.feed(piece.data, last=piece.last)
                if piece.last:
                    piece.entry.cutter = None
            else:
                view = memoryview(piece.data)
                ends = accumulate(cut.length for cut in piece.cuts)
                yield piece, [view[end - cut.length : end] for end, cut in zip(ends, piece.cuts, strict=True)]
            piece.data = b""

    def _code(
        self, piece: _Piece, views: list[memoryview]
    ) -> tuple[_Entry, list[tuple[tuple[bytes, int], CodedChunk | None]]]:
        names = [chunk_id(view) for view in views]
        fresh = [place for place, name in enumerate(names) if not self._writer.knows(name)]
        effort = self._pace.effort()
        grains = {place: _grain(piece, place) for place in fresh}
        based = {place: base for place in fresh if effort != "raw" and (base := self._base(piece, place))}
        against = dict(zip(based, zip(based.values(), self._bases.read([*based.values()]), strict=True), strict=True))
        frames = {
            place: self._coded(names[place], views[place], grains[place], effort, against.get(place)) for place in fresh
        }
        return piece.entry, [((name, views[place].nbytes), frames.get(place)) for place, name in enumerate(names)]

    def _base(self, piece: _Piece, place: int) -> Base | None:
        """Return what a chunk may be told as the difference to, if it lies in a tensor."""
        cut = piece.cuts[place] if piece.cuts else None
        if cut is None or cut.tensor < 0 or piece.entry.layout is None:
            return None
        tensor = piece.entry.layout.tensors[cut.tensor]
        return self._bases.find(piece.entry.file.path, tensor.name, cut.offset, cut.length) if tensor.dtype else None

    def _coded(
        self,
        name: bytes,
        view: memoryview,
        grain: Grain,
        effort: Effort,
        against: tuple[Base, Buffer | None] | None,
    ) -> CodedChunk:
        base, plain = against or (None, None)
        with self._pace.coding(effort, view.nbytes) as done:
            chunk = None
            if base and plain is not None:
                frame = encode_delta(view, plain, grain, effort=effort)
                if frame is not None and self._bases.is_worth(base, len(frame)):
                    chunk = CodedChunk(name, view.nbytes, "delta", frame, base.chunk.id)
            if chunk is None:
                coder, data = encode(view, grain, effort=effort)
                chunk = CodedChunk(name, view.nbytes, coder, data)
            done(len(chunk.frame))
        return chunk

    def _widen(self) -> None:
        """Let more packs and ranges be on their way where one connection is far slower than the coders."""
        choice = self._pace.choice
        self._writer.widen(choice.uploads)
        while self._reads < choice.reads:
            self._reads += 1
            self._read_room.release()

    def _check_unversioned(self, version: SourceVersion, entries: list[_Entry]) -> None:
        """Where the store keeps no versions, bytes may have changed between two reads: the token tells."""
        loose = [entry.file for entry in entries if entry.info.version is None]
        require_unmoved(self._source, version, loose, self._readers)


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
            return entry.layout.described if entry.layout and entry.kind == "safetensors" else None
        file = self._known.get(path)
        if file is None or file.kind != "safetensors":
            return None
        return self._headers.of(file, f"{self._name}/{path}")


def _first(complaints: list[str]) -> str:
    more = f"; and {len(complaints) - 1} more" if len(complaints) > 1 else ""
    return complaints[0] + more


def _grain(piece: _Piece, place: int) -> Grain:
    """Return what a coder is told of the words of a chunk: those of its tensor, if it lies in one."""
    cut = piece.cuts[place] if piece.cuts else None
    if cut is None or cut.tensor < 0 or piece.entry.layout is None:
        return PLAIN
    tensor = piece.entry.layout.tensors[cut.tensor]
    return Grain(tensor.dtype, tensor.columns)


def _cut_at(entry: _Entry, layout: Layout) -> None:
    """Cut a file where its tensors begin; one that has none, but tells of those beside it, by content."""
    entry.layout = layout
    entry.cuts = list(cut_tensors(layout, entry.info.size)) if layout.tensors else None


def _finished(entry: _Entry) -> ArtifactFile:
    info = entry.info
    return ArtifactFile(
        path=entry.file.path,
        size=info.size,
        sha256=entry.sha256.hexdigest(),
        kind=entry.kind,
        source=SourceObject(info.key, info.version, info.token, info.modified.isoformat()),
        chunks=tuple(entry.chunks),
        layout=entry.layout.kind if entry.layout and entry.kind == "opaque" else "",
    )


def together(parts: Iterable[Mapping[str, Coded]]) -> dict[str, Coded]:
    """Add up what coders made of several parts of a version."""
    found: dict[str, Coded] = {}
    for part in parts:
        for name, each in part.items():
            before = found.get(name, Coded(0, 0, 0))
            found[name] = Coded(
                before.chunks + each.chunks,
                before.bytes_plain + each.bytes_plain,
                before.bytes_coded + each.bytes_coded,
            )
    return found


def _count(coded: dict[str, Coded], chunk: CodedChunk) -> None:
    before = coded.get(chunk.coder, Coded(0, 0, 0))
    coded[chunk.coder] = Coded(
        before.chunks + 1, before.bytes_plain + chunk.raw_length, before.bytes_coded + len(chunk.frame)
    )


def _runs(cuts: list[Cut]) -> Iterator[list[Cut]]:
    """Yield runs of whole chunks that are read by one request."""
    run: list[Cut] = []
    total = 0
    for cut in cuts:
        if run and total + cut.length > _READ_BYTES:
            yield run
            run, total = [], 0
        run.append(cut)
        total += cut.length
    if run:
        yield run
