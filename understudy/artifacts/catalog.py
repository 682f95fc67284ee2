"""Which models, versions and revisions a vault holds: its manifests, listed and read.

A manifest of 100,000 files is some 45 MB, and several times that once it is read. So whoever looks at many is handed
one after another, and keeps what it needs of each.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from understudy.artifacts.manifest import ARTIFACTS_PREFIX, complaint_about_path, decode_manifest, manifest_key
from understudy.artifacts.plan import earlier, natural
from understudy.errors import Corrupt, NotFound, Unsupported
from understudy.threads import ThreadPool
from understudy.vault.lanes import weighed
from understudy.vault.store import is_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from understudy.artifacts.manifest import ArtifactManifest, Lineage
    from understudy.artifacts.plan import SourceVersion
    from understudy.vault.store import Vault

logger = logging.getLogger("understudy.artifacts")

_READERS = 8
#: Bytes of manifests, and of what is compared with them, that wait in memory.
_AHEAD_BYTES_MAX = 32 << 20
#: What a listed file of a version takes in memory.
_LISTED_FILE_BYTES = 500
_KEY_PARTS = 3
#: What was read last: a version's own manifest, and its parent's.
_KEPT_MAX = 2
#: What is wrong with an object itself. Lost permission and a store that does not answer are not among it.
DAMAGE = (Corrupt, NotFound, Unsupported)
Damage: TypeAlias = "Corrupt | NotFound | Unsupported"


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A manifest that cannot be read, and why."""

    model: str
    version: str
    revision: int
    damage: Damage


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """What a list says of one revision: its manifest without the files' chunks.

    Attributes:
        model: its name.
        version: of the model.
        revision: of the version.
        digest: of all files.
        size: plain bytes of all files.
        parent: what it descends from.
        tags: as in the manifest.
        files: (path, bytes, hex SHA-256) of each, or none where they were not asked for.
        count: how many files it has.
    """

    model: str
    version: str
    revision: int
    digest: str
    size: int
    parent: Lineage | None
    tags: dict[str, str]
    files: tuple[tuple[str, int, str], ...]
    count: int


def revisions(vault: Vault, model: str | None = None) -> dict[tuple[str, str], list[int]]:
    """Return every revision number, ascending, of each (model, version); of one model if it is named."""
    prefix = ARTIFACTS_PREFIX if model is None else f"{ARTIFACTS_PREFIX}{model}/"
    found: dict[tuple[str, str], list[int]] = {}
    for info in vault.listing(prefix):
        parts = info.key[len(ARTIFACTS_PREFIX) :].split("/")
        stem, dot, suffix = parts[-1].partition(".")
        if len(parts) == _KEY_PARTS and is_number(stem) and (dot + suffix) == ".json":
            found.setdefault((parts[0], parts[1]), []).append(int(stem))
    return {names: sorted(numbers) for names, numbers in found.items()}


def in_order(found: dict[tuple[str, str], list[int]]) -> list[tuple[str, str, int]]:
    """Return every revision of a listing by model, then versions in natural order, then number."""
    names = sorted(found, key=lambda names: (names[0], natural(names[1])))
    return [(model, version, number) for model, version in names for number in found[model, version]]


def read_manifest(vault: Vault, model: str, version: str, revision: int) -> ArtifactManifest:
    """Return one manifest, checked. Raises NotFound, Corrupt, Unsupported."""
    key = manifest_key(model, version, revision)
    return decode_manifest(vault.read_manifest(key), key)


def read_each(
    vault: Vault, wanted: Iterable[tuple[str, str, int]], *, ahead: int = _READERS
) -> Iterator[ArtifactManifest | Unreadable]:
    """Yield these manifests in order, each as it is taken: what is fetched ahead is bounded, what was taken not kept.

    One that cannot be read is yielded as Unreadable, and the others follow.

    Args:
        vault: where from.
        wanted: (model, version, revision) of each.
        ahead: so many are fetched before they are taken, at most.
    """

    def job(names: tuple[str, str, int]) -> tuple[int, Callable[[], bytes | Damage]]:
        key = manifest_key(*names)
        return vault.listed_bytes(key), partial(_fetched, vault, key)

    names = list(wanted)
    if not names:
        return
    with ThreadPool(min(_READERS, len(names)), thread_name_prefix="manifest") as pool:
        fetched = weighed(pool, map(job, names), ahead=ahead, weight_max=_AHEAD_BYTES_MAX)
        for each, data in zip(names, fetched, strict=True):
            yield _decoded(each, data)


def outlines(vault: Vault, model: str | None = None, *, files: bool = True) -> Iterator[Outline | Unreadable]:
    """Yield what is said of every revision, by model, then versions in natural order; with their files or without."""
    for found in read_each(vault, in_order(revisions(vault, model))):
        yield found if isinstance(found, Unreadable) else outline(found, files=files)


def outline(manifest: ArtifactManifest, *, files: bool = True) -> Outline:
    """Return what is said of a manifest, with its files or without."""
    return Outline(
        model=manifest.model,
        version=manifest.version,
        revision=manifest.revision,
        digest=manifest.digest,
        size=manifest.size,
        parent=manifest.parent,
        tags=manifest.tags,
        files=tuple((file.path, file.size, file.sha256) for file in manifest.files) if files else (),
        count=len(manifest.files),
    )


def all_manifests(vault: Vault, model: str | None = None) -> list[ArtifactManifest]:
    """Return every revision of every version at once: for a vault that is known to be small.

    They come by model, then versions in natural order. Raises Corrupt, NotFound, Unsupported.
    """
    found = []
    for manifest in read_each(vault, in_order(revisions(vault, model))):
        if isinstance(manifest, Unreadable):
            raise manifest.damage
        found.append(manifest)
    return found


class Shelf:
    """The newest manifest of each version in a vault, read when it is asked for; only the last few are kept."""

    def __init__(self, vault: Vault, model: str | None = None) -> None:
        """List a vault's manifests, of one model if it is named; none is read yet."""
        self._vault = vault
        self._newest = {names: numbers[-1] for names, numbers in revisions(vault, model).items()}
        self._kept: OrderedDict[tuple[str, str], ArtifactManifest] = OrderedDict()

    def newest(self, model: str, version: str) -> ArtifactManifest | None:
        """Return a version's newest revision, None without any. Raises Corrupt, NotFound, Unsupported."""
        if (model, version) not in self._newest:
            return None
        if (found := self._kept.get((model, version))) is None:
            found = read_manifest(self._vault, model, version, self._newest[model, version])
            self.keep(found)
        return found

    def keep(self, manifest: ArtifactManifest) -> None:
        """Take note of a manifest that was read, or written by this run."""
        names = manifest.model, manifest.version
        self._newest[names] = manifest.revision
        self._kept[names] = manifest
        self._kept.move_to_end(names)
        while len(self._kept) > _KEPT_MAX:
            self._kept.popitem(last=False)

    def parent(self, model: str, version: str) -> ArtifactManifest | None:
        """Return the newest revision of the version before, None without any; one that is damaged is passed over."""
        for name in earlier(version, (name for known, name in self._newest if known == model)):
            try:
                return self.newest(model, name)
            except DAMAGE as damage:
                logger.warning("%s %s is no parent of %s: %s", model, name, version, damage.message)
        return None

    def beside(
        self, versions: Iterable[SourceVersion]
    ) -> Iterator[tuple[SourceVersion, ArtifactManifest | Unreadable | None]]:
        """Yield each version of a source with its newest manifest, in their order; few of either are in memory."""

        def jobs() -> Iterator[tuple[int, Callable[[], tuple[SourceVersion, bytes | Damage | None]]]]:
            for version in versions:
                number = self._newest.get((version.model, version.version))
                key = manifest_key(version.model, version.version, number) if number else ""
                weight = self._vault.listed_bytes(key) + _LISTED_FILE_BYTES * len(version.files)
                yield weight, partial(self._fetched_for, version, key)

        with ThreadPool(_READERS, thread_name_prefix="manifest") as pool:
            for version, data in weighed(pool, jobs(), ahead=_READERS, weight_max=_AHEAD_BYTES_MAX):
                names = version.model, version.version
                yield version, None if data is None else _decoded((*names, self._newest[names]), data)

    def _fetched_for(self, version: SourceVersion, key: str) -> tuple[SourceVersion, bytes | Damage | None]:
        return version, _fetched(self._vault, key) if key else None


def find_manifest(
    vault: Vault, model: str, version: str | None = None, revision: int | None = None
) -> ArtifactManifest:
    """Return a model's manifest: of that version and revision, or the newest of what is left open.

    Raises:
        NotFound: the vault has no such model, version or revision; the hint says what it has.
    """
    found = {} if complaint_about_path(model) else revisions(vault, model)
    if not found:
        message = f"the vault in {vault.url} holds no model {model!r}"
        raise NotFound(message, hint="push it first", next_command="understudy artifacts push")
    versions = sorted((name for _, name in found), key=natural)
    chosen = versions[-1] if version is None else version
    numbers = found.get((model, chosen))
    if not numbers:
        message = f"the vault in {vault.url} holds no version {chosen!r} of {model}"
        raise NotFound(message, hint=f"it holds {', '.join(versions[-5:])}")
    number = numbers[-1] if revision is None else revision
    if number not in numbers:
        message = f"the vault in {vault.url} holds no revision {number} of {model} {chosen}"
        raise NotFound(message, hint=f"it holds {', '.join(str(known) for known in numbers[-5:])}")
    return read_manifest(vault, model, chosen, number)


def newest_at(vault: Vault, model: str, moment: datetime) -> tuple[str, int]:
    """Return the version and revision of a model that were the newest in the vault at a moment of its clock.

    Raises:
        NotFound: it held none of the model then.
    """
    prefix = f"{ARTIFACTS_PREFIX}{model}/"
    found: dict[str, int] = {}
    for info in () if complaint_about_path(model) else vault.listing(prefix):
        version, _, name = info.key[len(prefix) :].partition("/")
        number, dot, suffix = name.partition(".")
        if info.modified <= moment and is_number(number) and dot + suffix == ".json":
            found[version] = max(int(number), found.get(version, 0))
    if not found:
        message = f"the vault in {vault.url} held no {model} at {moment.isoformat()}"
        raise NotFound(message, hint="name a later moment", next_command=f"understudy artifacts list {model}")
    version = max(found, key=natural)
    return version, found[version]


def _fetched(vault: Vault, key: str) -> bytes | Damage:
    try:
        return vault.read_manifest(key)
    except DAMAGE as damage:
        return damage


def _decoded(names: tuple[str, str, int], data: bytes | Damage) -> ArtifactManifest | Unreadable:
    if isinstance(data, DAMAGE):
        return Unreadable(*names, data)
    try:
        return decode_manifest(data, manifest_key(*names))
    except DAMAGE as damage:
        return Unreadable(*names, damage)
