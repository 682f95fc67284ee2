"""Gives an encrypted vault another key: first for what is written from now on, then, where asked, for what is there.

Beside ``countersign`` the one place where what is written once is written again: by compare-and-set, its plain bytes as
they were. The old key is needed until nothing in the vault, and no older version that its bucket keeps, is under it.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from understudy.errors import Conflict, InvalidConfig, NotFound, Refused
from understudy.objects.parts import pieces
from understudy.report import human_bytes
from understudy.threads import ThreadPool
from understudy.vault.encryption import EncryptedStore, Encryption, MasterKey, compare_keys, is_plain, require_keys
from understudy.vault.lanes import each
from understudy.vault.store import FORMAT_KEY, Vault

if TYPE_CHECKING:
    from understudy.objects.interface import ObjectInfo, ObjectStore
    from understudy.report import Progress

logger = logging.getLogger("understudy.vault")

_AT_ONCE = 4
#: Longer objects are sent in parts, without a condition: none of them is ever replaced by another.
_WHOLE_BYTES_MAX = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rekeyed:
    """What was found, and what was done about it.

    Attributes:
        key: the id of the key that encrypts from now on.
        known: whether the vault named it before.
        counted: by key id, how many objects are under it; empty where that was not asked.
        bytes: plain bytes of those that are under another key than the first.
        rewritten: how many were encrypted anew.
        retired: keys that the vault no longer names, for nothing in it is under them.
        written: whether anything was done; else it was only looked at.
    """

    key: str
    known: bool
    counted: dict[str, int]
    bytes: int
    rewritten: int
    retired: tuple[str, ...]
    written: bool

    @property
    def sentence(self) -> str:
        """What was found and done, as a person reads it."""
        others = sum(count for key, count in self.counted.items() if key != self.key)
        if self.known:
            words = f"the vault encrypts with {self.key}"
        else:
            words = f"the vault encrypts with {self.key} from now on" if self.written else f"{self.key} is new to it"
        if self.counted:
            words += f"; {others:,} objects ({human_bytes(self.bytes)}) under older keys"
        if self.rewritten:
            words += f", {self.rewritten:,} encrypted anew"
        return words + (f"; no longer needed: {', '.join(self.retired)}" if self.retired else "")

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return asdict(self) | {"sentence": self.sentence}


def rekey(
    store: ObjectStore, encryption: Encryption | None, *, write: bool, every: bool, progress: Progress
) -> Rekeyed:
    """Make the first key of the config the one that encrypts, and, where asked, the only one.

    Args:
        store: the bucket as it is, not decrypted.
        encryption: the config's keys.
        write: False only looks.
        every: read which key each object is under, and with ``write`` encrypt anew what is not under the first. What
            others write meanwhile is left to them; a second run finds what is left.
        progress: told of each object.

    Raises:
        InvalidConfig: the config names no key, or lacks one of the vault's.
        NotFound: there is no vault.
        Refused: the vault is not encrypted.
        Corrupt: an object is not what any of the keys encrypted; what was done before it stays done.
    """
    if encryption is None:
        hint = "name the new key first there, and the old one behind it"
        raise InvalidConfig("vault.encrypt_with names no key", hint=hint)
    vault, first = Vault(store), encryption.keys[0]
    try:
        found = vault.read_json(FORMAT_KEY)
    except NotFound as error:
        raise NotFound(f"{store.url} is no vault yet: its first write takes the first key") from error
    if "encryption" not in found:
        raise Refused(f"the vault in {store.url} is not encrypted", hint="begin another one, in an empty prefix")
    require_keys(found, encryption, store.url, introduced=False)
    known = compare_keys(found, encryption, store.url).introduced
    if write and not known:
        vault.move_pointer(FORMAT_KEY, partial(_with_first, encryption))
        logger.info("%s encrypts with %s from now on", store.url, first.id)
    decrypted = EncryptedStore(store, encryption)
    counted, others = _counted(decrypted, progress) if every else ({}, [])
    rewritten, retired = 0, ()
    if write and every:
        rewritten = _rewrite(decrypted, others, progress)
        left = _counted(decrypted, progress)[1] if others else []
        if not left:
            retired = tuple(one["id"] for one in found["encryption"]["keys"] if one != encryption.entry(first))
            vault.move_pointer(FORMAT_KEY, partial(_with_only, encryption))
    return Rekeyed(
        key=first.id,
        known=known,
        counted={key.id: count for key, count in counted.items()},
        bytes=sum(info.size for info in others),
        rewritten=rewritten,
        retired=retired,
        written=write,
    )


def _with_first(encryption: Encryption, found: dict[str, Any]) -> dict[str, Any]:
    entry = encryption.entry(encryption.keys[0])
    keys = [entry, *(one for one in found["encryption"]["keys"] if one["check"] != entry["check"])]
    return {**found, "encryption": {**found["encryption"], "keys": keys}}


def _with_only(encryption: Encryption, found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "encryption": {**found["encryption"], "keys": [encryption.entry(encryption.keys[0])]}}


def _counted(store: EncryptedStore, progress: Progress) -> tuple[dict[MasterKey, int], list[ObjectInfo]]:
    """Return how many objects each key has, and those that are not under the first."""
    counted = dict.fromkeys(store.encryption.keys, 0)
    others: list[ObjectInfo] = []
    with ThreadPool(_AT_ONCE, thread_name_prefix="rekey") as pool:
        listed = (info for info in store.list() if not is_plain(info.key))
        jobs = (partial(_key_of, store, info) for info in listed)
        for number, found in enumerate(each(pool, jobs, ahead=2 * _AT_ONCE)):
            progress("rekey: looking", number, None, "objects")
            if found is None:
                continue
            key, info = found
            counted[key] += 1
            if key != store.encryption.keys[0]:
                others.append(info)
    return counted, others


def _key_of(store: EncryptedStore, info: ObjectInfo) -> tuple[MasterKey, ObjectInfo] | None:
    try:
        return store.key_of(info), info
    except NotFound:  # removed meanwhile
        return None


def _rewrite(store: EncryptedStore, others: list[ObjectInfo], progress: Progress) -> int:
    done, total, seen = 0, sum(info.size for info in others), 0
    with ThreadPool(_AT_ONCE, thread_name_prefix="rekey") as pool:
        jobs = (partial(_again, store, info) for info in others)
        for size, rewritten in each(pool, jobs, ahead=_AT_ONCE):
            seen += size
            done += rewritten
            progress("rekey: encrypting", seen, total, "bytes")
    return done


def _again(store: EncryptedStore, info: ObjectInfo) -> tuple[int, bool]:
    try:
        if info.size > _WHOLE_BYTES_MAX:
            store.put_stream(info.key, pieces(store, info.key, info.size), info.size)
        else:
            store.replace(info.key, store.get(info.key), expected=info.token)
    except (Conflict, NotFound):  # written or removed by somebody else meanwhile: with a key of its own
        return info.size, False
    return info.size, True
