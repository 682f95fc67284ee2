"""Which models, versions and revisions a vault holds: its manifests, listed and read."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from understudy.artifacts.manifest import ARTIFACTS_PREFIX, complaint_about_path, decode_manifest, manifest_key
from understudy.artifacts.plan import natural
from understudy.errors import Corrupt, NotFound, Unsupported
from understudy.threads import ThreadPool
from understudy.vault.store import is_number

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from understudy.artifacts.manifest import ArtifactManifest
    from understudy.vault.store import Vault

_READERS = 8
_KEY_PARTS = 3
_Read = TypeVar("_Read")
#: What is wrong with an object itself. Lost permission and a store that does not answer are not among it.
DAMAGE = (Corrupt, NotFound, Unsupported)


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


def read_manifest(vault: Vault, model: str, version: str, revision: int) -> ArtifactManifest:
    """Return one manifest, checked. Raises NotFound, Corrupt, Unsupported."""
    key = manifest_key(model, version, revision)
    return decode_manifest(vault.read_manifest(key), key)


def newest_manifests(vault: Vault, model: str | None = None) -> dict[tuple[str, str], ArtifactManifest]:
    """Return the newest revision of each (model, version), read in parallel. Raises Corrupt, Unsupported."""
    wanted = [(*names, numbers[-1]) for names, numbers in revisions(vault, model).items()]
    return {(manifest.model, manifest.version): manifest for manifest in _read_all(vault, wanted)}


def newest_readable(
    vault: Vault, models: Collection[str]
) -> tuple[dict[tuple[str, str], ArtifactManifest], dict[str, Corrupt | NotFound | Unsupported]]:
    """Return the newest revision of each version of these models, and by name what is wrong with a damaged one.

    A model of which any newest manifest cannot be read is left out whole: the others are not to suffer for it.
    """
    wanted = [(*names, numbers[-1]) for names, numbers in revisions(vault).items() if names[0] in models]
    found: dict[tuple[str, str], ArtifactManifest] = {}
    damaged: dict[str, Corrupt | NotFound | Unsupported] = {}
    for (model, version, _), result in zip(wanted, _each(wanted, partial(_tried, vault)), strict=True):
        if isinstance(result, DAMAGE):
            damaged.setdefault(model, result)
        else:
            found[model, version] = result
    return {names: manifest for names, manifest in found.items() if names[0] not in damaged}, damaged


def all_manifests(vault: Vault, model: str | None = None) -> list[ArtifactManifest]:
    """Return every revision of every version, by model, then versions in natural order. Raises Corrupt, Unsupported."""
    wanted = [(*names, number) for names, numbers in revisions(vault, model).items() for number in numbers]
    found = _read_all(vault, wanted)
    return sorted(found, key=lambda manifest: (manifest.model, natural(manifest.version), manifest.revision))


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


def _read_all(vault: Vault, wanted: list[tuple[str, str, int]]) -> list[ArtifactManifest]:
    return _each(wanted, lambda names: read_manifest(vault, *names))


def _tried(vault: Vault, names: tuple[str, str, int]) -> ArtifactManifest | Corrupt | NotFound | Unsupported:
    try:
        return read_manifest(vault, *names)
    except DAMAGE as damage:
        return damage


def _each(wanted: list[tuple[str, str, int]], read: Callable[[tuple[str, str, int]], _Read]) -> list[_Read]:
    if len(wanted) == 1:
        return [read(wanted[0])]
    with ThreadPool(_READERS, thread_name_prefix="manifest") as pool:
        return list(pool.map(read, wanted))
