"""Tags that people give to versions: a name, kept beside the manifests, for which retention keeps a revision.

All tags of a model stand in ``pointers/tags/<model>.json``, moved by compare-and-set. Taking one away deletes nothing:
it ends a reason to keep, and a prune condemns a version days before it goes.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from understudy.artifacts.catalog import find_manifest, revisions
from understudy.errors import Corrupt, InvalidConfig, NotFound
from understudy.vault.retention import OWN_TAGS

if TYPE_CHECKING:
    from understudy.vault.store import Vault

TAGS_PREFIX = "pointers/tags/"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HINT = "restore it from the bucket's own versions, or remove it and tag again"


@dataclass(frozen=True, slots=True)
class Tag:
    """One name of one revision.

    Attributes:
        version: of the model.
        revision: of the version.
        name: what people call it.
        at: when it was given, by the vault's clock.
    """

    version: str
    revision: int
    name: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagged:
    """What came of giving or taking a tag.

    Attributes:
        model: its name.
        version: of the model.
        revision: of the version.
        name: of the tag.
        removed: whether it was to be taken away.
        changed: False where it was so already.
        tags: all names that the revision has now.
    """

    model: str
    version: str
    revision: int
    name: str
    removed: bool
    changed: bool
    tags: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """As a person reads it."""
        has = ("no longer has" if self.changed else "does not have") if self.removed else "has"
        again = "" if self.changed or self.removed else " already"
        left = f"; its tags: {', '.join(self.tags)}" if self.tags else "; it has none now"
        return f"{self.model} {self.version} r{self.revision} {has} the tag {self.name}{again}{left}"

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"tags": list(self.tags), "sentence": self.sentence}


def tags_key(model: str) -> str:
    """Return where a model's tags stand in the vault."""
    return f"{TAGS_PREFIX}{model}.json"


def read_tags(vault: Vault, model: str) -> list[Tag]:
    """Return all tags of a model, by version and name. Raises Corrupt."""
    key = tags_key(model)
    return _tags_of(vault, key, vault.pointer(key))


def all_tags(vault: Vault) -> dict[str, list[Tag]]:
    """Return the tags of every model that ever had one. Raises Corrupt."""
    names = [info.key.removeprefix(TAGS_PREFIX) for info in vault.store.list(TAGS_PREFIX)]
    return {name.removesuffix(".json"): read_tags(vault, name.removesuffix(".json")) for name in names}


def shown(tags: list[Tag], version: str, revision: int) -> dict[str, str]:
    """Return the tags of one revision, each with when it was given."""
    return {tag.name: tag.at.isoformat() for tag in tags if (tag.version, tag.revision) == (version, revision)}


def give(vault: Vault, model: str, version: str, name: str) -> Tagged:
    """Tag the newest revision of a version.

    Raises:
        InvalidConfig: the name is none that a tag may have.
        NotFound: the vault does not hold the version, or a prune took it out in this moment.
        Corrupt: what stands where the tags should is none of them.
    """
    _check(name)
    manifest = find_manifest(vault, model, version)
    result = _moved(vault, model, version, manifest.revision, name, removed=False)
    if manifest.revision not in revisions(vault, model).get((model, version), []):
        _moved(vault, model, version, manifest.revision, name, removed=True)
        message = f"a prune took {model} {version} out of {vault.url} while it was tagged"
        raise NotFound(message, hint="push it again, then tag it", next_command="understudy artifacts push")
    return result


def take(vault: Vault, model: str, version: str, name: str) -> Tagged:
    """Take a tag from whichever revision of a version has it; nothing else changes. Raises as ``give``."""
    _check(name)
    held = [tag.revision for tag in read_tags(vault, model) if (tag.version, tag.name) == (version, name)]
    revision = held[-1] if held else find_manifest(vault, model, version).revision
    return _moved(vault, model, version, revision, name, removed=True)


def _moved(vault: Vault, model: str, version: str, revision: int, name: str, *, removed: bool) -> Tagged:
    key = tags_key(model)
    at = vault.store.now()
    tags = read_tags(vault, model)
    changed = False

    def build(value: Any) -> Any:  # noqa: ANN401 - any JSON value
        nonlocal tags, changed
        found = _tags_of(vault, key, value)
        same = (version, revision, name)
        others = [tag for tag in found if (tag.version, tag.revision, tag.name) != same]
        changed = (len(others) < len(found)) == removed
        tags = found if not changed else others if removed else [*others, Tag(version, revision, name, at)]
        tags.sort(key=lambda tag: (tag.version, tag.revision, tag.name))
        return {"format": 1, "tags": [asdict(tag) | {"at": tag.at.isoformat()} for tag in tags]}

    has = any((tag.version, tag.revision, tag.name) == (version, revision, name) for tag in tags)
    if has == removed:
        vault.move_pointer(key, build)
    names = tuple(tag.name for tag in tags if (tag.version, tag.revision) == (version, revision))
    return Tagged(
        model=model, version=version, revision=revision, name=name, removed=removed, changed=changed, tags=names
    )


def _check(name: str) -> None:
    if not _NAME.fullmatch(name):
        message = f"{name!r} is no name for a tag"
        raise InvalidConfig(message, hint="write letters, digits, dots, dashes or underscores, at most 64: quarter-3")
    if name in OWN_TAGS:
        message = f"{name} is what a push writes by itself"
        raise InvalidConfig(message, hint="choose another name")


def _tags_of(vault: Vault, key: str, value: Any) -> list[Tag]:  # noqa: ANN401 - any JSON value
    try:
        rows = [] if value is None else value["tags"]
        found = [
            Tag(str(row["version"]), int(row["revision"]), str(row["name"]), datetime.fromisoformat(row["at"]))
            for row in rows
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"{key} in {vault.url} does not hold tags"
        raise Corrupt(message, hint=_HINT) from error
    return found
