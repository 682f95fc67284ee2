"""What must be served together: a model, the index made with it, the features' schema, pinned as one numbered set."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from understudy.artifacts.catalog import Unreadable, in_order, read_each, revisions
from understudy.artifacts.manifest import manifest_key
from understudy.errors import Conflict, Corrupt, NotFound, NotReady
from understudy.vault.documents import shown
from understudy.vault.store import is_number, numbered, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from understudy.artifacts.manifest import ArtifactManifest
    from understudy.vault.store import Vault

logger = logging.getLogger("understudy.vault")

SETS_PREFIX = "sets/"
FORMAT = 1
_COMPOSE_TRIES = 20


@dataclass(frozen=True, slots=True)
class PinnedModel:
    """A model's revision."""

    name: str
    version: str
    revision: int
    digest: str


@dataclass(frozen=True, slots=True)
class PinnedIndex:
    """An exported index: its sequence, the digest of its rows, and of the model that made its vectors."""

    name: str
    sequence: int
    digest: str
    model_digest: str


@dataclass(frozen=True, slots=True)
class PinnedFeatures:
    """A replicated view; features flow on, so only their schema is pinned."""

    view: str
    sequence: int
    schema_digest: str


@dataclass(frozen=True, slots=True)
class Held:
    """A model version that is in the vault and not served, and why."""

    model: str
    version: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetManifest:
    """One set of a service; a site serves the newest."""

    service: str
    sequence: int
    model: PinnedModel
    index: PinnedIndex | None
    features: PinnedFeatures | None
    held: tuple[Held, ...] = ()

    @property
    def sentence(self) -> str:
        """What is pinned, and what is held, as a person reads it."""
        text = f"{self.service} set {self.sequence}: {self.model.name} {self.model.version}"
        if self.index:
            text += f", index {self.index.name} {self.index.sequence}"
        if self.features:
            text += f", features {self.features.view}"
        for held in self.held:
            text += f"; {held.model} {held.version} held: {held.reason}"
        return text


def compose(
    vault: Vault, service: str, *, model: str | None = None, index: str | None = None, view: str | None = None
) -> SetManifest:
    """Pin the newest of what belongs together, and return the set; a new one is written only when something changed.

    The newest model whose digest is the one that the newest index was made with is pinned; later versions are held
    until their index is there. A service without an index serves its newest model.

    Args:
        vault: of the site.
        service: the set's name.
        model: the model's name; None: the one that the index says it was made with, or the vault's only one.
        index: the exported index, None for a service without.
        view: the replicated feature view, None for a service without.

    Raises:
        NotReady: something that belongs to the set is not in the vault yet, or nothing matches; earlier sets stand.
        Corrupt: what would be pinned is damaged. A damaged model that no set would pin stands in nobody's way.
    """
    for _ in range(_COMPOSE_TRIES):
        # The last set first: whoever is slower than another composer finds its number taken and looks at all again,
        # so that a set made from older inputs never follows a newer one.
        last = newest_set(vault, service)
        composed = _compose(vault, service, last.sequence + 1 if last else 1, model=model, index=index, view=view)
        if last and _content(last) == _content(composed):
            return last
        try:
            vault.put_once(f"{SETS_PREFIX}{service}/{numbered(composed.sequence)}.json", to_json(_as_json(composed)))
        except Conflict:
            continue
        return composed
    message = f"{_COMPOSE_TRIES} other writers took the next set of {service}"
    raise Conflict(message, hint="look for a run that repeats itself")


def _compose(
    vault: Vault, service: str, sequence: int, *, model: str | None, index: str | None, view: str | None
) -> SetManifest:
    pinned_index, named = _newest_index(vault, service, index) if index else (None, None)
    name = model or named
    # Counted before they are read: a model that is not to be pinned may be damaged.
    known = revisions(vault, name)
    if name is None and len({names[0] for names in known}) > 1:
        message = f"no set of {service} yet: index {index} does not say which of the vault's models made it"
        hint = 'write COMMENT ON TABLE ... \'{"model": NAME, "model_digest": DIGEST}\' at its source'
        raise NotReady(message, hint=hint)
    if not known:
        lacking = f"model {name} is not in the vault" if name else "the vault holds no model"
        message = f"no set of {service} yet: {lacking}"
        raise NotReady(message, next_command="understudy artifacts push")
    pinned_features = _newest_features(vault, service, view) if view else None
    # The newest first, and none beyond the one that fits: there may be hundreds, of many files each.
    newest_first = read_each(vault, reversed(in_order(known)), ahead=2)
    chosen, held = _choose(service, newest_first, pinned_index)
    if held:  # the newest is never condemned
        _refuse_condemned(vault, service, chosen)
    return SetManifest(
        service=service,
        sequence=sequence,
        model=PinnedModel(chosen.model, chosen.version, chosen.revision, chosen.digest),
        index=pinned_index,
        features=pinned_features,
        held=held,
    )


def _refuse_condemned(vault: Vault, service: str, chosen: ArtifactManifest) -> None:
    """Pin nothing that a prune may delete in this moment. Raises NotReady."""
    from understudy.vault.condemned import mark_key

    key = manifest_key(chosen.model, chosen.version, chosen.revision)
    if next(iter(vault.store.list(mark_key(key))), None) is not None:
        message = f"no new set of {service}: vault.keep has condemned {chosen.model} {chosen.version}, which it needs"
        hint = "have vault.keep keep more, then understudy vault prune --yes spares it; or export the index again"
        raise NotReady(message, hint=hint)


def newest_set(vault: Vault, service: str) -> SetManifest | None:
    """Return the newest set of a service, None when there is none. Raises Corrupt."""
    sequence = vault.latest(f"{SETS_PREFIX}{service}/")
    return read_set(vault, service, sequence) if sequence else None


def read_set(vault: Vault, service: str, sequence: int) -> SetManifest:
    """Return one set. Raises NotFound, Corrupt."""
    key = f"{SETS_PREFIX}{service}/{numbered(sequence)}.json"
    return set_of(key, vault.read_json(key))


def set_of(key: str, value: Any) -> SetManifest:  # noqa: ANN401 - any JSON value
    """Return the set that an object holds, if it is the one that its key says. Raises Corrupt."""
    try:
        found = SetManifest(
            service=str(value["service"]),
            sequence=int(value["sequence"]),
            model=PinnedModel(**value["model"]),
            index=PinnedIndex(**value["index"]) if value["index"] else None,
            features=PinnedFeatures(**value["features"]) if value["features"] else None,
            held=tuple(Held(**row) for row in value["held"]),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"{key} is not a set: {shown(str(error))}"
        raise Corrupt(message, hint="restore it from the bucket's versions") from error
    if key != f"{SETS_PREFIX}{found.service}/{numbered(found.sequence)}.json":
        message = f"{key} says that it is set {found.sequence} of {shown(found.service)}"
        raise Corrupt(message, hint="restore it from the bucket's versions")
    return found


def set_pinning(vault: Vault, model: str) -> PinnedModel | None:
    """Return what the newest sets pin of a model, None when no set names it.

    Raises:
        NotReady: the newest sets of two services pin different revisions of it.
    """
    services = sorted({info.key.split("/")[1] for info in vault.store.list(SETS_PREFIX)})
    found = [last for service in services if (last := newest_set(vault, service)) and last.model.name == model]
    if len({last.model for last in found}) > 1:
        told = ", ".join(f"{last.service} {last.model.version}" for last in found)
        message = f"services pin different versions of {model}: {told}"
        raise NotReady(message, hint="name the version to hydrate")
    return found[0].model if found else None


def _choose(
    service: str, newest_first: Iterable[ArtifactManifest | Unreadable], index: PinnedIndex | None
) -> tuple[ArtifactManifest, tuple[Held, ...]]:
    """Return the manifest to serve and the later revisions that are held; what is older is not asked for.

    A later one that is damaged is held; without an index it is what would be served, and its damage is raised.
    """
    later: list[ArtifactManifest | Unreadable] = []
    for found in newest_first:
        if index is None:
            if isinstance(found, Unreadable):
                raise found.damage
            return found, ()
        if not isinstance(found, Unreadable) and found.digest == index.model_digest:
            return found, _held(found, later, index)
        later.append(_slim(found))
    damaged = [found for found in later if isinstance(found, Unreadable)]
    if damaged:  # it may be the very one
        raise damaged[0].damage
    named = f"index {index.name} {index.sequence}" if index else "it"
    digest = index.model_digest if index else ""
    message = f"no set of {service}: the vault lacks the model that {named} was made with"
    hint = f"push the {later[0].model} whose digest is {digest}, or export the index again"
    raise NotReady(message, hint=hint)


def _slim(found: ArtifactManifest | Unreadable) -> ArtifactManifest | Unreadable:
    """Return a manifest without its files, of which there may be many."""
    return found if isinstance(found, Unreadable) else replace(found, files=())


def _held(chosen: ArtifactManifest, later: list[ArtifactManifest | Unreadable], index: PinnedIndex) -> tuple[Held, ...]:
    held: dict[str, Held] = {}
    for found in reversed(later):
        reason = f"index {index.name} {index.sequence} belongs to {chosen.model} {chosen.version}"
        if isinstance(found, Unreadable):
            logger.warning("%s", found.damage.message)
            reason = f"its manifest is damaged; {reason}"
        newer = found.version if found.version != chosen.version else f"{found.version} revision {found.revision}"
        held[newer] = Held(chosen.model, newer, reason)
    return tuple(held.values())


def _newest_index(vault: Vault, service: str, index: str) -> tuple[PinnedIndex, str | None]:
    """Return the newest export of an index, and the name of the model that it says it was made with."""
    prefix = f"vectors/{index}/"
    sequence = _latest_manifest(vault, prefix, "/manifest.json")
    if not sequence:
        message = f"no set of {service} yet: index {index} is not in the vault"
        raise NotReady(message, next_command=f"understudy vectors export {index}")
    value = _read(vault, f"{prefix}{numbered(sequence)}/manifest.json")
    pinned = PinnedIndex(index, sequence, str(value.get("digest")), str(value.get("model_digest")))
    return pinned, value.get("model")


def _newest_features(vault: Vault, service: str, view: str) -> PinnedFeatures:
    prefix = f"features/{view}/"
    sequence = _latest_manifest(vault, prefix, ".json")
    if not sequence:
        message = f"no set of {service} yet: features {view} are not in the vault"
        raise NotReady(message, next_command=f"understudy features push {view}")
    value = _read(vault, f"{prefix}{numbered(sequence)}.json")
    return PinnedFeatures(view, sequence, str(value.get("schema_digest")))


def _latest_manifest(vault: Vault, prefix: str, suffix: str) -> int:
    found = 0
    for info in vault.listing(prefix):
        stem = info.key[len(prefix) :].removesuffix(suffix)
        if info.key.endswith(suffix) and is_number(stem):
            found = max(found, int(stem))
    return found


def _read(vault: Vault, key: str) -> dict[str, Any]:
    try:
        value = vault.read_json(key)
    except NotFound as error:
        message = f"{key} vanished from {vault.url}"
        raise Corrupt(message) from error
    if not isinstance(value, dict):
        message = f"{key} in {vault.url} is not a manifest"
        raise Corrupt(message)
    return value


def _as_json(composed: SetManifest) -> dict[str, Any]:
    return {"format": FORMAT, **asdict(composed), "held": [asdict(held) for held in composed.held]}


def _content(composed: SetManifest) -> dict[str, Any]:
    """Return what makes a set another one: features flow on under one schema, so their sequence is left out."""
    value = _as_json(composed)
    value.pop("sequence")
    if value["features"]:
        value["features"].pop("sequence")
    return value
