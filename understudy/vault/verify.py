"""Whether everything that the vault promises can be read: quickly by listings, or deeply by decoding every byte."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from understudy.artifacts.catalog import DAMAGE, read_manifest, revisions
from understudy.errors import Corrupt, NotFound
from understudy.objects.parts import pieces
from understudy.report import human_bytes, human_seconds, quiet
from understudy.threads import ThreadPool
from understudy.vault.chunks import Chunk, chunk_id
from understudy.vault.index import INDEX_PREFIX, ChunkIndex, load_index, prove_shard
from understudy.vault.lanes import each
from understudy.vault.packs import PACKS_PREFIX, pack_key, pack_name
from understudy.vault.reading import ChunkReader, decode_proven
from understudy.vault.seal import is_sealed
from understudy.vault.sets import set_of
from understudy.vault.signing import is_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from understudy.artifacts.manifest import ArtifactFile, ArtifactManifest
    from understudy.objects.interface import ObjectInfo
    from understudy.report import Progress
    from understudy.vault.chunks import Location
    from understudy.vault.store import Vault

_PACKS_AT_ONCE = 3
_FILES_AT_ONCE = 2
_READERS = 8
#: So many files are named in one sentence; the others are counted.
_NAMED_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyResult:
    """What a verification found.

    Attributes:
        deep: whether every byte was decoded, or only the listing was compared.
        problems: a sentence for each object that is wrong; empty when all is well.
        manifests: manifests of models, indexes, features and sets looked at.
        signed: of these, how many bear the signature of a trusted key; None where the config trusts none.
        files: distinct files that they name.
        chunks: distinct chunks that model files are made of.
        packs: packs in the index.
        orphans: packs that no index names: what a killed run had sent; the next push adopts them.
        unsealed: deep: JSON objects and shards of the index from before they carried a digest of themselves: a flipped
            byte in one of them is found only where it contradicts something else.
        bytes_stored: bytes of all objects below the vault.
        bytes_read: of these, how many were read.
        seconds: wall time.
    """

    deep: bool
    problems: tuple[str, ...]
    manifests: int
    signed: int | None = None
    files: int
    chunks: int
    packs: int
    orphans: int
    unsealed: int = 0
    bytes_stored: int
    bytes_read: int
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    @property
    def sentence(self) -> str:
        """What was looked at and what came of it, as a person reads it."""
        how = f"deep, {human_bytes(self.bytes_read)} read" if self.deep else "quick"
        verdict = "all well" if self.ok else f"{len(self.problems)} bad"
        waiting = f", {self.orphans} packs to be adopted" if self.orphans else ""
        signed = "" if self.signed is None else f"; {self.signed} of {self.manifests} manifests signed by trusted keys"
        unsealed = f"; {self.unsealed} small objects of an earlier version carry no digest" if self.unsealed else ""
        return (
            f"vault: {self.manifests} manifests, {self.files} files, {self.chunks} chunks in {self.packs} packs"
            f"{waiting}, {human_bytes(self.bytes_stored)}: {verdict} ({how}, {human_seconds(self.seconds)})"
            f"{signed}{unsealed}"
        )

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self) | {"ok": self.ok, "sentence": self.sentence, "problems": list(self.problems)}

    def require(self) -> None:
        """Raise Corrupt when anything is wrong, with the first of the sentences."""
        if self.problems:
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            message = self.problems[0] + more
            raise Corrupt(message, next_command="understudy vault verify --deep")


def verify(vault: Vault, *, deep: bool, progress: Progress = quiet) -> VerifyResult:
    """Check the vault; what is wrong is listed, nothing is changed.

    Quick compares the listing with what the index and the manifests recorded: every chunk of every manifest lies in a
    pack that is there with its length and, where the store keeps one, its CRC32C; every Parquet file of indexes and
    features is there with its size. Deep also reads all of it: each pack gives its name, each chunk its id, each
    model file its SHA-256, each Parquet file its digest.

    Raises:
        Transient, Denied, InvalidConfig: the store does not answer, or not to this config's identity and keys; what is
            wrong in it is never raised.
    """
    return _Check(vault, deep=deep, progress=progress).run()


@dataclass(frozen=True, slots=True)
class _DataFile:
    """A Parquet file as a manifest of an index or of features names it."""

    key: str
    size: int | None
    blake3: str | None
    sha256: str | None
    owner: str


class _Check:
    def __init__(self, vault: Vault, *, deep: bool, progress: Progress) -> None:
        self._vault = vault
        self._deep = deep
        self._progress = progress
        self._problems: list[str] = []
        self._bytes_read = 0
        self._listed: dict[str, ObjectInfo] = {}
        self._bytes_stored = 0
        self._unsealed = 0

    def run(self) -> VerifyResult:
        started = time.monotonic()
        packs: dict[str, ObjectInfo] = {}
        for info in self._vault.store.list():
            self._bytes_stored += info.size
            if name := pack_name(info.key):
                packs[name] = info
            elif not info.key.startswith(PACKS_PREFIX):
                self._listed[info.key] = info
        index = self._load()
        manifests = self._manifests()
        damaged = self._damaged(index, packs)
        chunks, files = self._check_files(index, manifests, damaged)
        data_files = self._data_files()
        self._check_listed(data_files)
        if self._deep:
            self._deep_packs(index, packs, damaged, chunks)
            self._deep_orphans(index, packs)
            self._deep_files(index, files)
            self._deep_data(data_files)
            self._deep_small()
        return VerifyResult(
            deep=self._deep,
            problems=tuple(dict.fromkeys(self._problems)),
            manifests=len([key for key in self._listed if is_manifest(key)]),
            signed=self._signed(),
            files=len(files) + len(data_files),
            chunks=len(chunks),
            packs=len(index.packs),
            orphans=len(set(packs) - set(index.packs)),
            unsealed=self._unsealed,
            bytes_stored=self._bytes_stored,
            bytes_read=self._bytes_read,
            seconds=time.monotonic() - started,
        )

    def _load(self) -> ChunkIndex:
        try:
            return load_index(self._vault)
        except DAMAGE as error:
            self._problems.append(error.message)
            return ChunkIndex()

    def _manifests(self) -> list[ArtifactManifest]:
        wanted = [(*names, number) for names, numbers in revisions(self._vault).items() for number in numbers]
        found: list[ArtifactManifest] = []
        with ThreadPool(_READERS, thread_name_prefix="manifest") as pool:
            for result in pool.map(partial(_tried, self._vault), wanted):
                if isinstance(result, str):
                    self._problems.append(result)
                else:
                    found.append(result)
        return found

    def _damaged(self, index: ChunkIndex, packs: dict[str, ObjectInfo]) -> dict[str, str]:
        """Return what the listing shows to be wrong with a pack, by name."""
        damaged: dict[str, str] = {}
        named = set(index.packs) | {pack for segment in index.segments for pack in segment.packs}
        for name in named:
            record, info = index.packs.get(name), packs.get(name)
            if info is None:
                damaged[name] = f"pack {name} is missing"
            elif record and info.size != record.length:
                damaged[name] = f"pack {name} has {info.size} bytes, {record.length} were written"
            elif record and record.crc32c and info.crc32c and record.crc32c != info.crc32c:
                damaged[name] = f"pack {name} has CRC32C {info.crc32c}, {record.crc32c} was written"
        return damaged

    def _check_files(
        self, index: ChunkIndex, manifests: list[ArtifactManifest], damaged: dict[str, str]
    ) -> tuple[set[bytes], dict[str, tuple[str, ArtifactFile]]]:
        """Find chunks that no sound pack has; return all chunks, and each distinct file whose chunks are all there."""
        state: dict[bytes, str | None] = {}
        files: dict[str, tuple[str, ArtifactFile]] = {}
        hurt: dict[str, tuple[set[bytes], list[str]]] = {}
        for manifest in manifests:
            for file in manifest.files:
                what = f"{manifest.model}/{manifest.version}/{file.path} (revision {manifest.revision})"
                sound = True
                for name, length in file.chunks:
                    chunk = bytes.fromhex(name)
                    if chunk not in state:
                        state[chunk] = _problem(index, chunk, length, damaged)
                    if problem := state[chunk]:
                        sound = False
                        lost, users = hurt.setdefault(problem, (set(), []))
                        lost.add(chunk)
                        if what not in users[-1:]:
                            users.append(what)
                if sound:
                    files.setdefault(f"{file.sha256} {hash(file.chunks)}", (what, file))
        for problem, (lost, users) in hurt.items():
            self._problems.append(f"{problem}: {_count(len(lost), 'chunk')} of {_some(users)}")
        return set(state), files

    def _deep_packs(
        self, index: ChunkIndex, packs: dict[str, ObjectInfo], damaged: dict[str, str], needed: set[bytes]
    ) -> None:
        total = sum(info.size for info in packs.values())
        with ThreadPool(_PACKS_AT_ONCE, thread_name_prefix="verify") as pool:
            jobs = (
                partial(_read_pack, self._vault, name, rows, needed)
                for name, rows in index.by_pack()
                if name not in damaged
            )
            for count, problem in each(pool, jobs, ahead=_PACKS_AT_ONCE + 1):
                self._bytes_read += count
                self._progress("verify packs", self._bytes_read, total, "bytes")
                if problem:
                    self._problems.append(problem)

    def _deep_orphans(self, index: ChunkIndex, packs: dict[str, ObjectInfo]) -> None:
        """Prove the packs that no row of the index names: the next push may adopt them."""
        named = {pack for segment in index.segments for pack in segment.packs}
        with ThreadPool(_PACKS_AT_ONCE, thread_name_prefix="verify") as pool:
            jobs = (partial(_read_pack, self._vault, name, [], set()) for name in sorted(set(packs) - named))
            for count, problem in each(pool, jobs, ahead=_PACKS_AT_ONCE + 1):
                self._bytes_read += count
                if problem:
                    self._problems.append(f"{problem}; no index names it")

    def _deep_small(self) -> None:
        """Prove every JSON object and every shard of the index by its seal; count those that have none."""
        with ThreadPool(_READERS, thread_name_prefix="verify") as pool:
            jobs = (partial(_prove, self._vault, info) for info in self._listed.values())
            for count, sealed, problem in each(pool, jobs, ahead=2 * _READERS):
                self._bytes_read += count
                self._unsealed += sealed is False
                if problem:
                    self._problems.append(problem)

    def _deep_files(self, index: ChunkIndex, files: dict[str, tuple[str, ArtifactFile]]) -> None:
        total, done = sum(file.size for _, file in files.values()), 0
        with ChunkReader(self._vault, index) as reader:
            with ThreadPool(_FILES_AT_ONCE, thread_name_prefix="verify") as pool:
                jobs = (partial(_read_file, reader, what, file) for what, file in files.values())
                for size, problem in each(pool, jobs, ahead=_FILES_AT_ONCE + 1):
                    done += size
                    self._progress("verify files", done, total, "bytes")
                    if problem:
                        self._problems.append(problem)
            self._bytes_read += reader.bytes_read

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

    def _deep_data(self, files: list[_DataFile]) -> None:
        with ThreadPool(_READERS, thread_name_prefix="verify") as pool:
            jobs = (
                partial(_read_data, self._vault, self._listed[file.key], file)
                for file in files
                if file.key in self._listed
            )
            for count, problem in each(pool, jobs, ahead=_READERS + 1):
                self._bytes_read += count
                if problem:
                    self._problems.append(problem)


def _tried(vault: Vault, names: tuple[str, str, int]) -> ArtifactManifest | str:
    try:
        return read_manifest(vault, *names)
    except DAMAGE as error:
        return error.message


def _problem(index: ChunkIndex, chunk: bytes, length: int, damaged: dict[str, str]) -> str | None:
    sound = index.find_in(chunk, lambda pack: pack not in damaged)
    if sound is None:
        found = index.find(chunk)
        return damaged[found.pack] if found else "no index names any pack for it"
    if sound.raw_length != length:
        return f"the index gives another length than the manifest, in pack {sound.pack}"
    return None


def _read_pack(vault: Vault, name: str, rows: list[Location], needed: set[bytes]) -> tuple[int, str | None]:
    """Return (bytes read, what is wrong with a pack): its name, and every chunk that the index says is in it."""
    try:
        data = vault.store.get(pack_key(name))
    except (NotFound, Corrupt) as error:
        return 0, f"pack {name} cannot be read: {error.message}"
    wrong: list[str] = []
    users = 0
    for row in rows:
        try:
            decode_proven(memoryview(data)[row.offset : row.offset + row.length], row, "the index")
        except DAMAGE as error:
            wrong.append(error.message)
            users += row.id in needed
    if chunk_id(data).hex() == name and not wrong:
        return len(data), None
    if not rows:
        return len(data), f"pack {name} holds other bytes than its name says"
    where = (
        f"{_count(len(wrong), 'chunk')} in it cannot be decoded, {users} of them needed"
        if wrong
        else "its chunks are whole"
    )
    first = f" (first: {wrong[0]})" if wrong else ""
    kind = (
        "holds other bytes than its name says" if chunk_id(data).hex() != name else "does not hold what the index says"
    )
    return len(data), f"pack {name} {kind}: {where}{first}"


def _prove(vault: Vault, info: ObjectInfo) -> tuple[int, bool | None, str | None]:
    """Return (bytes read, whether it is sealed, what is wrong) of a JSON object or a shard of the index."""
    try:
        if is_sealed(info.key):
            return info.size, vault.prove(info.key), None
        if info.key.startswith(INDEX_PREFIX) and info.key.endswith(".parquet"):
            return info.size, prove_shard(vault, info.key), None
    except DAMAGE as error:
        return info.size, None, error.message
    return 0, None, None


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


def _read_data(vault: Vault, info: ObjectInfo, file: _DataFile) -> tuple[int, str | None]:
    known, sha = blake3(), hashlib.sha256()
    try:
        for piece in pieces(vault.store, info.key, info.size):
            known.update(piece)
            sha.update(piece)
    except (NotFound, Corrupt) as error:
        return 0, f"{file.key} cannot be read: {error.message}"
    if file.blake3 is not None and known.hexdigest() != file.blake3:
        return info.size, f"{file.key} holds other bytes than {file.owner} says (BLAKE3)"
    if file.sha256 is not None and sha.hexdigest() != file.sha256:
        return info.size, f"{file.key} holds other bytes than {file.owner} says (SHA-256)"
    return info.size, None


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
