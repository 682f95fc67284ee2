"""Whether two vaults hold the same, told by what is small in them: listings, manifests and indexes. No pack is read.

A chunk's id is the digest of its plain bytes in every vault, whoever packed it, coded it or encrypted it; so what one
vault would have to be sent to restore what the other one can is known without a byte of it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.artifacts.manifest import decode_manifest
from understudy.errors import Corrupt, NotFound, Unsupported
from understudy.report import human_bytes
from understudy.threads import ThreadPool
from understudy.vault.chunks import ID_BYTES
from understudy.vault.documents import DOCUMENT_BYTES_MAX, parse_json
from understudy.vault.dry import DryStore
from understudy.vault.index import load_index
from understudy.vault.lanes import weighed
from understudy.vault.packs import pack_name
from understudy.vault.seal import Damaged, unseal
from understudy.vault.signing import is_manifest, key_id, split
from understudy.vault.store import Vault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from understudy.objects.interface import ObjectInfo
    from understudy.report import Progress
    from understudy.vault.index import ChunkIndex

#: What a manifest's key begins with, as a table calls it.
KINDS = {"artifacts": "models", "vectors": "indexes", "features": "features", "sets": "sets"}
_READERS = 8
_AHEAD_BYTES_MAX = 32 << 20
_IDS = f"S{ID_BYTES}"
_DATA_FILE = re.compile(r"vectors/[^/]+/data/[^/]+\.parquet|offline/.+")
_DAMAGE = (Corrupt, NotFound, Unsupported, Damaged)


@dataclass(frozen=True, slots=True)
class Tally:
    """How the manifests of one kind compare: how many each vault has, and how many are the same in both."""

    first: int
    second: int
    equal: int
    differing: int


@dataclass(frozen=True, slots=True)
class Lacking:
    """What one vault lacks to restore all that the manifests of either name.

    Attributes:
        chunks: of models' files.
        bytes: of these chunks, as the other vault has them coded; those that it lacks as well count nothing.
        files: Parquet files of indexes and features.
        file_bytes: of these.
    """

    chunks: int
    bytes: int
    files: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Difference:
    """One manifest that is not the same in both, or whose signatures are not of one key, and in what way."""

    key: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was compared, and what came of it.

    Attributes:
        first, second: where the vaults are.
        kinds: models, indexes, features and sets.
        first_lacks: what the first vault lacks.
        second_lacks: what the second vault lacks.
        differences: of manifests, by key.
        signatures: manifests equal in both that other keys, or only one, signed.
        objects_read: how many were read in both together; none of them a pack or a file of rows.
        bytes_read: of these objects.
        bytes_stored: of all objects in both together.
    """

    first: str
    second: str
    kinds: dict[str, Tally]
    first_lacks: Lacking
    second_lacks: Lacking
    differences: tuple[Difference, ...]
    signatures: tuple[Difference, ...]
    objects_read: int
    bytes_read: int
    bytes_stored: int

    @property
    def equal(self) -> bool:
        """Whether both can restore the same, and nothing of it differs."""
        nothing = Lacking(0, 0, 0, 0)
        return not self.differences and not self.signatures and self.first_lacks == self.second_lacks == nothing

    @property
    def sentence(self) -> str:
        """What came of it, as a person reads it."""
        read = f"{self.objects_read:,} small objects read, {human_bytes(self.bytes_read)} of "
        read += f"{human_bytes(self.bytes_stored)}"
        if self.equal:
            return f"both hold the same ({read})"
        words = [
            f"{where} lacks {human_bytes(lacks.bytes + lacks.file_bytes)} in {lacks.chunks:,} chunks and "
            f"{lacks.files:,} files"
            for where, lacks in (("the first", self.first_lacks), ("the second", self.second_lacks))
            if lacks.chunks or lacks.files
        ]
        words += [f"{len(self.differences):,} manifests differ"] if self.differences else []
        words += [f"{len(self.signatures):,} are signed otherwise"] if self.signatures else []
        return f"{'; '.join(words)} ({read})"

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self) | {"equal": self.equal, "sentence": self.sentence}


def compare(first: Vault, second: Vault, *, progress: Progress) -> Comparison:
    """Compare two vaults; nothing is changed in either, and of packs and files of rows only the listing is asked.

    Manifests are the same when their digests are (of sets, what they pin): tags, the times they were written, and who
    signed them may differ, the last is told apart. Where the config trusts keys, one without such a signature differs.

    Raises:
        Corrupt: an index cannot be read. A manifest that cannot is told as a difference.
    """
    return _Comparing(_Side(first), _Side(second), progress).run()


class _Watched(DryStore):
    """Counts what is read; writes nothing."""

    def __init__(self, vault: Vault) -> None:
        super().__init__(vault.store)
        self.objects: Counter[str] = Counter()

    def get(self, key: str, *, version: str | None = None) -> bytes:
        data = super().get(key, version=version)
        with self._lock:
            self.objects[key] += len(data)
        return data


class _Side:
    """One of the two vaults."""

    def __init__(self, vault: Vault) -> None:
        self.store = _Watched(vault)
        self.vault = Vault(self.store, vault.signing, encryption=vault.encryption)
        self.listed: dict[str, ObjectInfo] = {}
        self.manifests: dict[str, ObjectInfo] = {}
        self.bytes_stored = 0
        sound: dict[str, int] = {}
        for info in self.store.list():
            self.bytes_stored += info.size
            if name := pack_name(info.key):
                sound[name] = info.size
            elif is_manifest(info.key):
                self.manifests[info.key] = info
            elif _DATA_FILE.fullmatch(info.key):
                self.listed[info.key] = info
        index = load_index(self.vault)
        usable = {name for name, record in index.packs.items() if sound.get(name) == record.length}
        # Of a sequence that is not whole yet, packs have no record.
        usable |= sound.keys() - index.packs.keys()
        self.ids, self.lengths = _covered(index, usable)
        self.lacking: list[NDArray[np.bytes_]] = []
        self.missing: dict[str, int] = {}

    def has(self, ids: NDArray[np.bytes_]) -> NDArray[np.bool_]:
        """Return of each id whether its chunk can be read here."""
        at = np.minimum(np.searchsorted(self.ids, ids), max(len(self.ids) - 1, 0))
        return self.ids[at] == ids if len(self.ids) else np.zeros(len(ids), dtype=bool)

    def bytes_of(self, ids: NDArray[np.bytes_]) -> int:
        """Return the coded bytes of those of these chunks that are here."""
        here = ids[self.has(ids)]
        return int(self.lengths[np.searchsorted(self.ids, here)].sum()) if len(here) else 0

    def note_lacking(self, ids: NDArray[np.bytes_]) -> None:
        """Remember which of these chunks are not here."""
        gone = ids[~self.has(ids)]
        if len(gone):
            self.lacking.append(gone)

    def note_missing(self, files: dict[str, int]) -> None:
        """Remember which of these files (key to bytes) are not here, or have another length."""
        for key, size in files.items():
            info = self.listed.get(key)
            if info is None or info.size != size:
                self.missing[key] = size

    def lacks(self, other: _Side) -> Lacking:
        ids = np.unique(np.concatenate(self.lacking)) if self.lacking else np.empty(0, _IDS)
        return Lacking(len(ids), other.bytes_of(ids), len(self.missing), sum(self.missing.values()))


@dataclass(frozen=True, slots=True)
class _Read:
    """One manifest as it was found: by what it is the same as another, who signed it, and what it needs."""

    same_by: object
    signer: bytes | None
    ids: NDArray[np.bytes_] = field(default_factory=lambda: np.empty(0, _IDS))
    files: dict[str, int] = field(default_factory=dict)


class _Comparing:
    def __init__(self, first: _Side, second: _Side, progress: Progress) -> None:
        self._sides = first, second
        self._progress = progress
        self._differences: list[Difference] = []
        self._signatures: list[Difference] = []
        self._equal: Counter[str] = Counter()
        self._differing: Counter[str] = Counter()

    def run(self) -> Comparison:
        first, second = self._sides
        keys = sorted(first.manifests.keys() | second.manifests.keys())
        with ThreadPool(_READERS, thread_name_prefix="compare") as pool:
            found = weighed(pool, self._jobs(keys), ahead=2 * _READERS, weight_max=_AHEAD_BYTES_MAX)
            for number, (key, pair) in enumerate(zip(keys, found, strict=True)):
                self._progress("compare", number, len(keys), "manifests")
                self._look(key, pair)
        return Comparison(
            first=first.vault.url,
            second=second.vault.url,
            kinds={
                name: Tally(_count(first, kind), _count(second, kind), self._equal[kind], self._differing[kind])
                for kind, name in KINDS.items()
            },
            first_lacks=first.lacks(second),
            second_lacks=second.lacks(first),
            differences=tuple(self._differences),
            signatures=tuple(self._signatures),
            objects_read=sum(len(side.store.objects) for side in self._sides),
            bytes_read=sum(side.store.objects.total() for side in self._sides),
            bytes_stored=sum(side.bytes_stored for side in self._sides),
        )

    def _jobs(self, keys: list[str]) -> Iterator[tuple[int, Callable[[], list[bytes | str | None]]]]:
        for key in keys:
            weight = sum(side.manifests[key].size for side in self._sides if key in side.manifests)
            yield weight, partial(self._fetch, key)

    def _fetch(self, key: str) -> list[bytes | str | None]:
        """Return an object's bytes of each side; None where it is not, a sentence where it cannot be had."""
        return [_fetched(side, key) if key in side.manifests else None for side in self._sides]

    def _look(self, key: str, pair: list[bytes | str | None]) -> None:
        kind = key.partition("/")[0]
        read = [_known(side.vault, key, data) for side, data in zip(self._sides, pair, strict=True)]
        for known in read:
            if isinstance(known, _Read):
                for side in self._sides:
                    side.note_lacking(known.ids)
                    side.note_missing(known.files)
        words = _words(*read)
        if words:
            self._differences.append(Difference(key, words))
            self._differing[kind] += None not in pair
            return
        self._equal[kind] += 1
        one, other = (known.signer for known in read if isinstance(known, _Read))
        if one != other:
            self._signatures.append(Difference(key, f"first: {_signed_by(one)}, second: {_signed_by(other)}"))


def _words(one: _Read | str | None, other: _Read | str | None) -> str:
    """Return in what two manifests under one key differ; nothing when they are the same."""
    if one is None or other is None:
        return f"only the {'first' if other is None else 'second'} has it"
    wrong = [
        f"in the {where}: {known}" for where, known in (("first", one), ("second", other)) if isinstance(known, str)
    ]
    if wrong or isinstance(one, str) or isinstance(other, str):
        return "; ".join(wrong)
    return "" if one.same_by == other.same_by else "says something else in each"


def _count(side: _Side, kind: str) -> int:
    return sum(key.startswith(f"{kind}/") for key in side.manifests)


def _fetched(side: _Side, key: str) -> bytes | str:
    size = side.manifests[key].size
    if size > DOCUMENT_BYTES_MAX:
        return f"it has {size} bytes, which no manifest has"
    try:
        return side.store.get(key)
    except _DAMAGE as error:
        return str(getattr(error, "message", error))


def _known(vault: Vault, key: str, data: bytes | str | None) -> _Read | str | None:
    """Return what a manifest is, proven as its readers prove it, or what is wrong with it; None where it is not."""
    if data is None or isinstance(data, str):
        return data
    try:
        unsealed = unseal(data)
        signer = split(unsealed)[1]
        plain = vault.signing.check(key, unsealed) if vault.signing is not None else split(unsealed)[0]
        return _READERS_OF[key.partition("/")[0]](key, plain, signer)
    except _DAMAGE as error:
        return str(getattr(error, "message", error))
    except (AttributeError, KeyError, TypeError, ValueError):
        return "it is not a manifest"


def _model(key: str, plain: bytes, signer: bytes | None) -> _Read:
    manifest = decode_manifest(plain, key)
    names = bytes.fromhex("".join(name for file in manifest.files for name, _ in file.chunks))
    return _Read(manifest.digest, signer, np.unique(np.frombuffer(names, _IDS)))


def _index(key: str, plain: bytes, signer: bytes | None) -> _Read:
    value, index = parse_json(plain), key.split("/")[1]
    files = {f"vectors/{index}/data/{row['digest']}.parquet": int(row["size"]) for row in value["parts"]}
    return _Read(str(value["digest"]), signer, files=files)


def _features(_key: str, plain: bytes, signer: bytes | None) -> _Read:
    value = parse_json(plain)
    files = {f"offline/{value['view']}/{row['stored']}": int(row["size"]) for row in value["files"]}
    return _Read(str(value["digest"]), signer, files=files)


def _set(_key: str, plain: bytes, signer: bytes | None) -> _Read:
    value = parse_json(plain)
    return _Read([value.get(name) for name in ("service", "model", "index", "features")], signer)


_READERS_OF: dict[str, Callable[[str, bytes, bytes | None], _Read]] = {
    "artifacts": _model,
    "vectors": _index,
    "features": _features,
    "sets": _set,
}


def _signed_by(signer: bytes | None) -> str:
    return key_id(signer) if signer else "not signed"


def _covered(index: ChunkIndex, usable: set[str]) -> tuple[NDArray[np.bytes_], NDArray[np.uint32]]:
    """Return the ids, sorted and each once, of the chunks that packs of a listing have, and their coded bytes.

    A chunk whose base is in no such pack is not among them, nor what is made from it.
    """
    ids: list[NDArray[np.bytes_]] = [np.empty(0, _IDS)]
    lengths: list[NDArray[np.uint32]] = [np.empty(0, np.uint32)]
    bases: list[tuple[bytes, bytes]] = []
    alone: list[NDArray[np.bool_]] = [np.empty(0, bool)]
    for segment in index.segments:
        sound = np.array([name in usable for name in segment.packs], dtype=bool)
        here = sound[segment.pack_of] if len(sound) else np.zeros(len(segment.keys), bool)
        free = np.ones(len(segment.keys), bool)
        free[list(segment.bases)] = False
        ids.append(np.ascontiguousarray(segment.ids).view(_IDS).ravel()[here])
        lengths.append(segment.lengths[here])
        alone.append(free[here])
        bases += [(segment.ids[row].tobytes(), base) for row, base in segment.bases.items() if here[row]]
    every, sizes, free = np.concatenate(ids), np.concatenate(lengths), np.concatenate(alone)
    whole = {*()} if not bases else _standing(np.unique(every[free]), bases)
    kept = free | np.isin(every, np.array(sorted(whole), _IDS)) if whole else free
    unique, at = np.unique(every[kept], return_index=True)
    return unique, sizes[kept][at]


def _standing(free: NDArray[np.bytes_], bases: list[tuple[bytes, bytes]]) -> set[bytes]:
    """Return which chunks that need a base have one that stands: one that needs none, or itself stands."""
    waiting: dict[bytes, list[bytes]] = {}
    wanted = np.array(sorted({base for _, base in bases}), _IDS)
    at = np.minimum(np.searchsorted(free, wanted), max(len(free) - 1, 0))
    grounded = {bytes(name) for name in wanted[free[at] == wanted]} if len(free) else set()
    for chunk, base in bases:
        waiting.setdefault(_stripped(base), []).append(chunk)
    standing: set[bytes] = set()
    ready = list(grounded)
    while ready:
        for chunk in waiting.pop(ready.pop(), ()):
            if chunk not in standing:
                standing.add(chunk)
                ready.append(_stripped(chunk))
    return standing


def _stripped(name: bytes) -> bytes:
    """Return an id as numpy hands it out: without zeros at its end."""
    return name.rstrip(b"\0")
