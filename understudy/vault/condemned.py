"""What a prune has condemned: objects that nothing needs any more, marked a while before they are deleted.

The mark of ``<key>`` is ``condemned/<key>``. Writers treat a condemned pack as absent, so that nothing new comes to
need it; who had opened the vault before the mark was there may still count on it, and is done, or gives up, within
``WRITER_LIFE_MAX``. A prune deletes what was condemned for longer, after it has looked at all manifests again.
A version of a model that was taken out leaves a name below ``retired/``, so that the next push does not send it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import orjson
from blake3 import blake3

from understudy.errors import Conflict
from understudy.vault.packs import PACKS_PREFIX, pack_name
from understudy.vault.store import is_number, numbered, to_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from understudy.objects.interface import ObjectInfo
    from understudy.vault.store import Vault

CONDEMNED_PREFIX = "condemned/"
#: Held by the one prune that is under way.
LOCK_KEY = f"{CONDEMNED_PREFIX}prune.lock"
#: A writer that opened the vault longer ago than this, by the vault's clock, gives up instead of showing anything.
WRITER_LIFE_MAX = timedelta(days=2)
#: What is condemned stays at least this long: a writer's life, and a day for what follows its last look at the clock.
CONDEMNED_FOR_MIN = WRITER_LIFE_MAX + timedelta(days=1)
#: ``retired/<model>/<version>/<revision>-<digest of its source>``: a version that retention took out of the vault.
RETIRED_PREFIX = "retired/"
_RETIRED_PARTS = 3


@dataclass(frozen=True, slots=True)
class Retired:
    """The newest revision of a version that retention took out: its number is never given again.

    Attributes:
        revision: its number.
        source: what it was read from (``source_digest``): what is still the same there is not sent again.
    """

    revision: int
    source: str


def mark_key(key: str) -> str:
    """Return where the mark of a vault key stands."""
    return f"{CONDEMNED_PREFIX}{key}"


def marked(vault: Vault, prefix: str = "") -> dict[str, ObjectInfo]:
    """Return the marks below a prefix, by the key that is condemned; ``modified`` says since when."""
    found = {info.key[len(CONDEMNED_PREFIX) :]: info for info in vault.store.list(mark_key(prefix))}
    found.pop(LOCK_KEY[len(CONDEMNED_PREFIX) :], None)
    return found


def condemned(vault: Vault) -> set[str]:
    """Return the names of the condemned packs. A writer asks before it lists the packs: a mark outlives its pack."""
    return {name for key in marked(vault, PACKS_PREFIX) if (name := pack_name(key))}


def mark(vault: Vault, key: str, **said: str | int) -> None:
    """Condemn an object, unless it is condemned already: then the first mark stands, with its time."""
    try:
        vault.put_once(mark_key(key), to_json({"format": 1, "key": key, **said}))
    except Conflict:
        return


def source_digest(files: Iterable[tuple[str, str, str, int]]) -> str:
    """Return what tells a version's source from another: of (path, key, token, size) of its files."""
    digest = blake3()
    for file in sorted(files):
        digest.update(orjson.dumps(file))
    return digest.hexdigest()[:32]


def retire(vault: Vault, model: str, version: str, revision: int, source: str) -> None:
    """Remember a revision that is about to be taken out."""
    key = f"{RETIRED_PREFIX}{model}/{version}/{numbered(revision)}-{source}"
    vault.put_once(key, to_json({"format": 1, "model": model, "version": version, "revision": revision}))


def retired(vault: Vault) -> dict[tuple[str, str], Retired]:
    """Return the newest revision that was taken out of each (model, version)."""
    found: dict[tuple[str, str], Retired] = {}
    for info in vault.store.list(RETIRED_PREFIX):
        parts = info.key[len(RETIRED_PREFIX) :].split("/")
        stem, _, source = parts[-1].partition("-")
        if len(parts) == _RETIRED_PARTS and is_number(stem):
            found[parts[0], parts[1]] = Retired(int(stem), source)  # the listing is sorted: the newest comes last
    return found
