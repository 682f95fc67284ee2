"""Whether everything that the vault promises can be read: by listings, by decoding a share, or by decoding all of it.

Manifests are read one after another and not kept: what stays in memory is a name for each chunk and each file.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from understudy.artifacts.catalog import DAMAGE, Unreadable, in_order, read_each, revisions
from understudy.errors import Corrupt, NotFound
from understudy.objects.parts import pieces
from understudy.report import Report, human_bytes, human_seconds, quiet
from understudy.threads import ThreadPool
from understudy.vault.chunks import CHAIN_MAX, Chunk, chunk_id
from understudy.vault.index import INDEX_PREFIX, ChunkIndex, load_index, prove_shard
from understudy.vault.lanes import each
from understudy.vault.packs import PACKS_PREFIX, pack_key, pack_name
from understudy.vault.reading import ChunkReader, DamagedPack, decode_proven
from understudy.vault.rounds import choose
from understudy.vault.seal import is_sealed
from understudy.vault.sets import set_of
from understudy.vault.signing import is_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from understudy.artifacts.catalog import Damage
    from understudy.artifacts.manifest import ArtifactFile
    from understudy.objects.interface import ObjectInfo
    from understudy.report import Progress
    from understudy.vault.chunks import Location
    from understudy.vault.rounds import Sample
    from understudy.vault.store import Vault
    from understudy.vault.verified import Kind

_PACKS_AT_ONCE = 3
_FILES_AT_ONCE = 2
_READERS = 8
#: So many files are named in one sentence; the others are counted.
_NAMED_MAX = 3
_NOWHERE = "no index names any pack for it"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """What a verification found.

    Attributes:
        kind: quick (the listing was compared), sampled (and a share of all objects was read) or deep (and all of them).
        deep: whether every byte was decoded.
        problems: a sentence for each object that is wrong; empty when all is well.
        damaged: keys of the objects that were read and found wrong, first those that something needs.
        mended: of these, how many are packs of which all that is needed lies in other packs by now.
        reread: sampled: keys that were read, if they are still there, because they had been found damaged before.
        manifests: manifests of models, indexes, features and sets looked at.
        signed: of these, how many bear the signature of a trusted key; None where the config trusts none.
        files: distinct files that they name.
        chunks: distinct chunks that model files are made of.
        packs: packs in the index.
        orphans: packs that no index names: what a killed run had sent; the next push adopts them.
        unsealed: JSON objects and shards of the index that were read and are from before they carried a digest of
            themselves: a flipped byte in one of them is found only where it contradicts something else.
        objects: how many objects were read for themselves: all, a share of them, or none.
        bytes_stored: bytes of all objects below the vault.
        bytes_read: of these, how many were read.
        cursor: sampled: where the next sample goes on, 16 hex digits; empty when the round is done.
        seconds: wall time.
    """

    kind: Kind
    deep: bool
    problems: tuple[str, ...]
    damaged: tuple[str, ...] = ()
    mended: int = 0
    reread: tuple[str, ...] = ()
    manifests: int
    signed: int | None = None
    files: int
    chunks: int
    packs: int
    orphans: int
    unsealed: int = 0
    objects: int = 0
    bytes_stored: int
    bytes_read: int
    cursor: str = ""
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def sentence(self) -> str:
        """What was looked at and what came of it, as a person reads it."""
        read = f"{human_bytes(self.bytes_read)} read"
        sample = f"sample of {_count(self.objects, 'object')}, {read}"
        how = {"quick": "quick", "sampled": sample, "deep": f"deep, {read}"}[self.kind]
        verdict = "all well" if self.ok else f"{len(self.problems)} bad"
        waiting = f", {self.orphans} packs to be adopted" if self.orphans else ""
        signed = "" if self.signed is None else f"; {self.signed} of {self.manifests} manifests signed by trusted keys"
        unsealed = f"; {self.unsealed} small objects of an earlier version carry no digest" if self.unsealed else ""
        mended = (
            f"; {_count(self.mended, 'damaged pack')} of which other packs have all that is needed, until a prune"
            if self.mended
            else ""
        )
        return (
            f"vault: {self.manifests} manifests, {self.files} files, {self.chunks} chunks in {self.packs} packs"
            f"{waiting}, {human_bytes(self.bytes_stored)}: {verdict} ({how}, {human_seconds(self.seconds)})"
            f"{mended}{signed}{unsealed}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        lists = {name: list(getattr(self, name)) for name in ("problems", "damaged", "reread")}
        return asdict(self) | lists | {"ok": self.ok, "sentence": self.sentence}

    def as_report(self, service: str) -> Report:
        """Return what a scheduled verification reports: nothing was changed, so the verdict is ``unchanged``."""
        return Report(
            noun="vault",
            name=service,
            verdict="unchanged",
            sentence=self.sentence,
            items_total=self.objects,
            bytes_total=self.bytes_stored,
            bytes_read=self.bytes_read,
            seconds=self.seconds,
            proven=self.kind if self.ok else "",
            details={"kind": self.kind, "problems": list(self.problems)},
        )

    def require(self) -> None:
        """Raise Corrupt when anything is wrong, with the first of the sentences."""
        if self.problems:
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            message = self.problems[0] + more
            raise Corrupt(message, next_command="understudy vault verify --deep")


def verify(
    vault: Vault, *, deep: bool = False, sample: Sample | None = None, progress: Progress = quiet
) -> VerifyResult:
    """Check the vault; what is wrong is listed, nothing is changed.

    Quick compares the listing with what the index and the manifests recorded: every chunk of every manifest, and every
    chunk that one is decoded from, lies in a pack that is there with its length and, where the store keeps one, its
    CRC32C; every Parquet file of indexes and features is there with its size. A sample does that, and reads a share of
    the objects: a pack gives its name and each of its chunks its id, a Parquet file its digest, a small object its
    seal. Deep does so with every object, and restores each distinct model file to compare its SHA-256.

    Args:
        vault: whose.
        deep: read everything.
        sample: read a share; ignored when ``deep``.
        progress: told the bytes read.

    Raises:
        Transient, Denied, InvalidConfig: the store does not answer, or not to this config's identity and keys; what is
            wrong in it is never raised.
    """
    return _Check(vault, deep=deep, sample=sample, progress=progress).run()


@dataclass(frozen=True, slots=True)
class _DataFile:
    """A Parquet file as a manifest of an index or of features names it."""

    key: str
    size: int | None
    blake3: str | None
    sha256: str | None
    owner: str


class _Check:
    def __init__(self, vault: Vault, *, deep: bool, sample: Sample | None, progress: Progress) -> None:
        self._vault = vault
        self._deep = deep
        self._sample = None if deep else sample
        self._progress = progress
        self._problems: list[str] = []
        self._bad: set[str] = set()
        self._mended: set[str] = set()
        self._bytes_read = 0
        self._bytes_wanted = 0
        self._objects = 0
        self._listed: dict[str, ObjectInfo] = {}
        self._packs: dict[str, ObjectInfo] = {}
        self._index = ChunkIndex()
        self._damaged: dict[str, str] = {}
        self._of_base: dict[bytes, str | None] = {}
        self._lost: set[bytes] = set()
        self._bytes_stored = 0
        self._unsealed = 0

    def run(self) -> VerifyResult:
        started = time.monotonic()
        for info in self._vault.store.list():
            self._bytes_stored += info.size
            if name := pack_name(info.key):
                self._packs[name] = info
            elif not info.key.startswith(PACKS_PREFIX):
                self._listed[info.key] = info
        self._load()
        self._damaged = self._find_damaged()
        chunks, files = self._check_files()
        data_files = self._data_files()
        self._check_listed(data_files)
        cursor = self._read(chunks, data_files) if self._deep or self._sample else ""
        return VerifyResult(
            kind="deep" if self._deep else "sampled" if self._sample else "quick",
            deep=self._deep,
            problems=tuple(dict.fromkeys(self._problems)),
            damaged=(*sorted(self._bad - self._mended), *sorted(self._bad & self._mended)),
            mended=len(self._mended),
            reread=tuple(sorted(self._sample.again)) if self._sample else (),
            manifests=len([key for key in self._listed if is_manifest(key)]),
            signed=self._signed(),
            files=files + len(data_files),
            chunks=len(chunks),
            packs=len(self._index.packs),
            orphans=len(set(self._packs) - set(self._index.packs)),
            unsealed=self._unsealed,
            objects=self._objects,
            bytes_stored=self._bytes_stored,
            bytes_read=self._bytes_read,
            cursor=cursor,
            seconds=time.monotonic() - started,
        )

    def _load(self) -> None:
        try:
            self._index = load_index(self._vault)
        except DAMAGE as error:
            self._problems.append(error.message)

    def _files(self, problems: list[str]) -> Iterator[tuple[str, ArtifactFile]]:
        """Yield (how sentences name it, file) for every file of every manifest, one manifest after another."""
        for found in read_each(self._vault, in_order(revisions(self._vault))):
            if isinstance(found, Unreadable):
                problems.append(found.damage.message)
                continue
            for file in found.files:
                yield f"{found.model}/{found.version}/{file.path} (revision {found.revision})", file

    def _find_damaged(self) -> dict[str, str]:
        """Return what the listing shows to be wrong with a pack, by name."""
        damaged: dict[str, str] = {}
        named = set(self._index.packs) | {pack for segment in self._index.segments for pack in segment.packs}
        for name in named:
            record, info = self._index.packs.get(name), self._packs.get(name)
            if info is None:
                damaged[name] = f"pack {name} is missing"
            elif record and info.size != record.length:
                damaged[name] = f"pack {name} has {info.size} bytes, {record.length} were written"
            elif record and record.crc32c and info.crc32c and record.crc32c != info.crc32c:
                damaged[name] = f"pack {name} has CRC32C {info.crc32c}, {record.crc32c} was written"
        return damaged

    def _check_files(self) -> tuple[set[bytes], int]:
        """Find chunks that no sound pack has; return all chunks, and how many distinct files there are."""
        chunks: set[bytes] = set()
        files: set[bytes] = set()
        why: dict[bytes, str] = {}
        hurt: dict[str, tuple[set[bytes], list[str]]] = {}
        for what, file in self._files(self._problems):
            files.add(_name_of(file))
            for name, length in file.chunks:
                chunk = bytes.fromhex(name)
                if chunk not in chunks:
                    chunks.add(chunk)
                    if problem := self._problem(chunk, length):
                        why[chunk] = problem
                if chunk in why:
                    lost, users = hurt.setdefault(why[chunk], (set(), []))
                    lost.add(chunk)
                    if what not in users[-1:]:
                        users.append(what)
        for problem, (lost, users) in hurt.items():
            self._problems.append(f"{problem}: {_count(len(lost), 'chunk')} of {_some(users)}")
        self._lost = set(why)
        return chunks, len(files)

    def _problem(self, chunk: bytes, length: int, depth: int = 0) -> str | None:
        """Return why no sound pack gives a chunk; None when one does."""
        first: str | None = None
        for place in self._index.find_all(chunk):
            problem = self._problem_at(place, length, depth)
            if problem is None:
                return None
            first = first or problem
        return first or _NOWHERE

    def _problem_at(self, place: Location, length: int, depth: int) -> str | None:
        if place.pack in self._damaged:
            return self._damaged[place.pack]
        if place.raw_length != length:
            return f"the index gives another length than the manifest, in pack {place.pack}"
        if place.base is None:
            return None
        if depth >= CHAIN_MAX:
            return f"what it is decoded from stands on more than {CHAIN_MAX} others, in pack {place.pack}"
        if place.base not in self._of_base:
            self._of_base[place.base] = self._problem(place.base, length, depth + 1)
        problem = self._of_base[place.base]
        if problem == _NOWHERE:
            return f"no index names any pack for chunk {place.base.hex()}, from which it is decoded"
        return problem

    def _read(self, chunks: set[bytes], data_files: list[_DataFile]) -> str:
        """Read all objects, or tonight's share of them; return where the next share begins."""
        data = {file.key: file for file in data_files if file.key in self._listed}
        small = [info for info in self._listed.values() if _is_provable(info.key)]
        sizes = {info.key: info.size for info in (*self._packs.values(), *small)}
        sizes |= {key: self._listed[key].size for key in data}
        keys, cursor = frozenset(sizes), ""
        if self._sample is not None:
            chosen = choose(sizes.items(), self._sample)
            keys, cursor = chosen.keys, chosen.cursor
        self._objects = len(keys)
        self._bytes_wanted = sum(sizes[key] for key in keys)
        needed = chunks | set(self._of_base)
        with ChunkReader(self._vault, self._index) as reader:
            self._read_packs(reader, {name for name, info in self._packs.items() if info.key in keys}, needed)
            if self._deep:
                self._restore_files(reader)
            self._read_data([data[key] for key in sorted(keys & set(data))])
            self._read_small([info for info in small if info.key in keys])
            self._bytes_read += reader.bytes_read
        return cursor

    def _done(self, key: str, count: int, problem: str | None) -> None:
        self._bytes_read += count
        self._progress("verify", min(self._bytes_read, self._bytes_wanted), self._bytes_wanted, "bytes")
        if problem:
            self._problems.append(problem)
            self._bad.add(key)

    def _read_packs(self, reader: ChunkReader, names: set[str], needed: set[bytes]) -> None:
        """Prove packs: those of the index with all that it says is in them, others by their name alone.

        The next push may adopt a pack that no index names.
        """
        known = {pack for segment in self._index.segments for pack in segment.packs}
        wrong: list[_PackRead] = []
        with ThreadPool(_PACKS_AT_ONCE, thread_name_prefix="verify") as pool:
            jobs = (
                partial(_read_pack, self._vault, reader, name, rows, needed)
                for name, rows in self._index.by_pack(names - set(self._damaged))
            )
            for read in each(pool, jobs, ahead=_PACKS_AT_ONCE + 1):
                self._done(pack_key(read.name), read.bytes_read, None)
                if read.problem is not None:
                    wrong.append(read)
            others = (partial(_read_pack, self._vault, reader, name, [], set()) for name in sorted(names - known))
            for read in each(pool, others, ahead=_PACKS_AT_ONCE + 1):
                # The index knows it and takes no chunk from it any more: all was sent again, and a merge left it out.
                merged = read.name in self._index.packs
                problem = f"{read.problem}; no index names it" if read.problem and not merged else None
                self._done(pack_key(read.name), read.bytes_read, problem)
                wrong += [read] if read.problem and merged else []
        self._judge_packs(wrong)

    def _judge_packs(self, wrong: list[_PackRead]) -> None:
        """Tell of packs that were read and found wrong, unless all that is needed of one lies in another, sound one.

        So it is after a push has sent again what a damaged pack had held; a prune takes the pack away.
        """
        lost = {(read.name, chunk) for read in wrong for chunk in read.lost}

        def is_sound(place: Location) -> bool:
            return (place.pack, place.id) not in lost and self._problem_at(place, place.raw_length, 0) is None

        for read in wrong:
            self._bad.update(map(pack_key, read.damaged))
            if not all(any(map(is_sound, self._index.find_all(chunk))) for chunk in read.lost):
                self._problems.append(read.problem or "")
            elif read.name in read.damaged:
                self._mended.add(pack_key(read.name))

    def _restore_files(self, reader: ChunkReader) -> None:
        """Read each distinct file whose chunks are all there as a restore would, and compare its SHA-256."""
        seen: set[bytes] = set()
        done = 0

        def jobs() -> Iterator[partial[tuple[int, str | None]]]:
            for what, file in self._files([]):  # what is wrong with a manifest is said already
                if (name := _name_of(file)) not in seen:
                    seen.add(name)
                    if self._lost.isdisjoint(bytes.fromhex(chunk) for chunk, _ in file.chunks):
                        yield partial(_read_file, reader, what, file)

        with ThreadPool(_FILES_AT_ONCE, thread_name_prefix="verify") as pool:
            for size, problem in each(pool, jobs(), ahead=_FILES_AT_ONCE + 1):
                done += size
                self._progress("verify files", done, None, "bytes")
                if problem:
                    self._problems.append(problem)

    def _read_data(self, files: list[_DataFile]) -> None:
        with ThreadPool(_READERS, thread_name_prefix="verify") as pool:
            jobs = (partial(_read_data, self._vault, self._listed[file.key], file) for file in files)
            for key, count, problem in each(pool, jobs, ahead=_READERS + 1):
                self._done(key, count, problem)

    def _read_small(self, infos: list[ObjectInfo]) -> None:
        """Prove JSON objects and shards of the index by their seal; count those that have none."""
        with ThreadPool(_READERS, thread_name_prefix="verify") as pool:
            jobs = (partial(_prove, self._vault, info) for info in infos)
            for key, count, sealed, problem in each(pool, jobs, ahead=2 * _READERS):
                self._unsealed += sealed is False
                self._done(key, count, problem)

    def _signed(self) -> int | None:
        signing = self._vault.signing
        return len(signing.verified.intersection(self._listed)) if signing is not None and signing.trust else None

    def _data_files(self) -> list[_DataFile]:
        """Return every Parquet file that manifests of indexes and features name, each once; read the sets too."""
        found: dict[str, _DataFile] = {}
        for key in self._listed:
            parts = key.split("/")
            if parts[0] == "vectors" and parts[-1] == "manifest.json":
                read = _vector_files
            elif parts[0] == "features" and key.endswith(".json"):
                read = _feature_files
            elif parts[0] == "sets" and is_manifest(key):
                read = _set_files
            else:
                continue
            try:
                for file in read(key, self._vault.read_json(key)):
                    found.setdefault(file.key, file)
            except DAMAGE as error:
                self._problems.append(error.message)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self._problems.append(f"{key} is not a manifest: {error!r}")
        return list(found.values())

    def _check_listed(self, files: list[_DataFile]) -> None:
        for file in files:
            info = self._listed.get(file.key)
            if info is None:
                self._problems.append(f"{file.key} is missing: {file.owner} names it")
            elif file.size is not None and info.size != file.size:
                self._problems.append(f"{file.key} has {info.size} bytes, {file.owner} says {file.size}")


def _name_of(file: ArtifactFile) -> bytes:
    """Return what tells distinct contents apart, in 32 bytes: what a file should hash to, and what it is made of."""
    made_of = blake3(file.sha256.encode())
    for name, length in file.chunks:
        made_of.update(f"{name}{length}".encode())
    return made_of.digest()


def _is_provable(key: str) -> bool:
    return is_sealed(key) or (key.startswith(INDEX_PREFIX) and key.endswith(".parquet"))


@dataclass(frozen=True, slots=True)
class _PackRead:
    """A pack that was read: its name, and every chunk that the index says is in it.

    Attributes:
        name: of the pack.
        bytes_read: of it.
        problem: what is wrong; None when nothing is.
        damaged: the packs whose fault that is: its own name, or those with the chunks that it has the differences to.
        lost: needed chunks that it should give and does not.
    """

    name: str
    bytes_read: int
    problem: str | None = None
    damaged: frozenset[str] = frozenset()
    lost: tuple[bytes, ...] = ()


def _read_pack(vault: Vault, reader: ChunkReader, name: str, rows: list[Location], needed: set[bytes]) -> _PackRead:
    """Prove a pack; ``rows`` is what the index says is in it."""
    used = tuple(dict.fromkeys(row.id for row in rows if row.id in needed))
    try:
        data = vault.store.get(pack_key(name))
    except (NotFound, Corrupt) as error:
        return _PackRead(name, 0, f"pack {name} cannot be read: {error.message}", frozenset({name}), used)
    wrong: list[str] = []
    lost: list[bytes] = []
    damaged: set[str] = set()
    for row, problem in _decoded(memoryview(data), reader, rows, needed):
        if problem is not None:
            wrong.append(problem.message)
            if isinstance(problem, DamagedPack):  # a later version's coder, or a base in no pack, is no fault of a pack
                damaged.add(problem.pack)
            lost += [row.id] if row.id in needed else []
    named = chunk_id(data).hex() == name
    if named and not wrong:
        return _PackRead(name, len(data))
    if not rows:
        return _PackRead(name, len(data), f"pack {name} holds other bytes than its name says", frozenset({name}))
    where = (
        f"{_count(len(wrong), 'chunk')} in it cannot be decoded, {len(lost)} of them needed"
        if wrong
        else "its chunks are whole"
    )
    first = f" (first: {wrong[0]})" if wrong else ""
    kind = "does not hold what the index says" if named else "holds other bytes than its name says"
    # Where its own name is wrong, nothing new may come to count on any of it.
    damaged |= set() if named else {name}
    return _PackRead(
        name, len(data), f"pack {name} {kind}: {where}{first}", frozenset(damaged), tuple(lost) if named else used
    )


def _decoded(
    data: memoryview, reader: ChunkReader, rows: list[Location], needed: set[bytes]
) -> Iterator[tuple[Location, Damage | None]]:
    """Yield (row, what is wrong with it, or with its base) for the rows of one pack.

    A chunk that is the difference to another is decoded with it where it is needed; where nothing needs it any more,
    the other may be gone, and the pack's name alone says that its bytes are those that were sent.
    """

    def tried(row: Location, base: bytes | None) -> Damage | None:
        try:
            decode_proven(data[row.offset : row.offset + row.length], row, "the index", base=base)
        except DAMAGE as error:
            return error
        return None

    for row in rows:
        if row.base is None:
            yield row, tried(row, None)
    left = [row for row in rows if row.base is not None and row.id in needed]
    while left:
        count = 0
        try:
            plain = reader.stream([Chunk(row.base or b"", row.raw_length) for row in left], "the index")
            for row, base in zip(left, plain, strict=True):
                yield row, tried(row, base)
                count += 1
            left = []
        except DAMAGE as error:
            # The base of this one is damaged, and the stream ends with it; those behind it are asked for anew.
            yield left[count], error
            left = left[count + 1 :]


def _prove(vault: Vault, info: ObjectInfo) -> tuple[str, int, bool | None, str | None]:
    """Return (key, bytes read, whether it is sealed, what is wrong) of a JSON object or a shard of the index."""
    try:
        sealed = vault.prove(info.key) if is_sealed(info.key) else prove_shard(vault, info.key)
    except DAMAGE as error:
        return info.key, info.size, None, error.message
    return info.key, info.size, sealed, None


def _read_file(reader: ChunkReader, what: str, file: ArtifactFile) -> tuple[int, str | None]:
    digest = hashlib.sha256()
    try:
        for part in reader.stream((Chunk(bytes.fromhex(name), length) for name, length in file.chunks), what):
            digest.update(part)
    except DAMAGE as error:
        return file.size, f"{what} cannot be restored: {error.message}"
    if digest.hexdigest() != file.sha256:
        return file.size, f"{what} gives SHA-256 {digest.hexdigest()}, its manifest says {file.sha256}"
    return file.size, None


def _read_data(vault: Vault, info: ObjectInfo, file: _DataFile) -> tuple[str, int, str | None]:
    known, sha = blake3(), hashlib.sha256()
    try:
        for piece in pieces(vault.store, info.key, info.size):
            known.update(piece)
            sha.update(piece)
    except (NotFound, Corrupt) as error:
        return file.key, 0, f"{file.key} cannot be read: {error.message}"
    if file.blake3 is not None and known.hexdigest() != file.blake3:
        return file.key, info.size, f"{file.key} holds other bytes than {file.owner} says (BLAKE3)"
    if file.sha256 is not None and sha.hexdigest() != file.sha256:
        return file.key, info.size, f"{file.key} holds other bytes than {file.owner} says (SHA-256)"
    return file.key, info.size, None


def _feature_files(key: str, value: Any) -> Iterator[_DataFile]:  # noqa: ANN401 - any JSON value
    for row in value["files"]:
        yield _DataFile(f"offline/{value['view']}/{row['stored']}", int(row["size"]), str(row["blake3"]), None, key)


def _set_files(key: str, value: Any) -> Iterator[_DataFile]:  # noqa: ANN401 - any JSON value
    """Yield nothing: a set names manifests, not files. Raises Corrupt when it is none."""
    set_of(key, value)
    yield from ()


def _vector_files(key: str, value: Any) -> Iterator[_DataFile]:  # noqa: ANN401 - any JSON value
    index = key.split("/")[1]
    for row in value["parts"]:
        yield _DataFile(
            f"vectors/{index}/data/{row['digest']}.parquet", int(row["size"]), None, str(row["sha256"]), key
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED_MAX])
    return shown if len(names) <= _NAMED_MAX else f"{shown} and {len(names) - _NAMED_MAX} more files"
