"""The vault's plain objects: immutable ones written once, numbered ones appended, pointers moved by compare-and-set."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from understudy.errors import Conflict, Corrupt, NotFound, Refused, Unsupported
from understudy.vault.documents import DOCUMENT_BYTES_MAX, parse_json
from understudy.vault.founding import FoundingStore
from understudy.vault.seal import Damaged, is_sealed, seal, unseal
from understudy.vault.signing import is_manifest, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from understudy.objects.interface import ObjectInfo, ObjectStore
    from understudy.vault.encryption import Encryption
    from understudy.vault.signing import Signing

FORMAT_VERSION = 1
#: Of a vault that is encrypted, and else as the plain one: an earlier version, which would write in plain, refuses it.
ENCRYPTED_FORMAT_VERSION = 2
FORMAT_KEY = "format.json"
_DIGITS = 8
_NUMBERED = re.compile(rf"([0-9]{{{_DIGITS}}})(?:[/.]|$)")
_APPEND_TRIES = 100
_POINTER_HINT = "remove it; the next run writes it again"
_OBJECT_HINT = "restore it from the bucket's own versions"


def numbered(sequence: int) -> str:
    """Return a sequence number as it stands in keys: eight digits, so that listings sort by it."""
    return f"{sequence:0{_DIGITS}d}"


def is_number(text: str) -> bool:
    """Return whether a part of a key is a sequence number; digits of other scripts, which int() takes, are none."""
    return text.isascii() and text.isdecimal() and (len(text) == _DIGITS or (len(text) > _DIGITS and text[0] != "0"))


def to_json(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Encode deterministically: sorted keys, UTF-8, indented for people who restore by hand."""
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()


class Vault:
    """One vault over one object store. Safe to use from many threads."""

    def __init__(
        self, store: ObjectStore, signing: Signing | None = None, *, encryption: Encryption | None = None
    ) -> None:
        """Wrap a store; ``open_vault`` is what checks its format.

        Args:
            store: where the objects lie, already decrypting where the vault is encrypted (``decrypting``).
            signing: signs every manifest that is written, and checks every one that is read; None does neither.
            encryption: the keys that ``store`` encrypts with; None where it does not.
        """
        self.store = store
        self.signing = signing
        self.encryption = encryption
        self._listed: dict[str, int] = {}

    @property
    def url(self) -> str:
        """Where the vault is."""
        return self.store.url

    @property
    def bare(self) -> ObjectStore:
        """The store itself, where a write makes no vault of it: for probes."""
        return self.store.bare if isinstance(self.store, FoundingStore) else self.store

    def put_once(self, key: str, data: bytes) -> bool:
        """Write an immutable object: a manifest with its signature, and what is JSON with the digest of itself.

        Returns:
            True when it was created, False when these very bytes were there already.

        Raises:
            Conflict: other bytes stand there.
            InvalidConfig: the key to sign with cannot be had.
            Unsupported: a manifest is longer than a reader would take.
        """
        stored = self.as_stored(key, data)
        try:
            self.store.create(key, stored)
        except Conflict:
            # An early version wrote the same without its seal. What lacks the signature is not the same.
            if self.store.get(key) in (stored, unseal(stored)):
                return False
            raise
        return True

    def as_stored(self, key: str, data: bytes) -> bytes:
        """Return the bytes that ``put_once`` writes: with signature and seal. Raises InvalidConfig, Unsupported."""
        if is_manifest(key) and self.signing is not None:
            data = self.signing.sign(key, data)
        if is_sealed(key):
            data = seal(data)
        if is_manifest(key) and len(data) > DOCUMENT_BYTES_MAX:
            message = f"{key} would have {len(data)} bytes, a reader takes {DOCUMENT_BYTES_MAX}"
            raise Unsupported(message, hint="split it: a model into versions with fewer or larger files")
        return data

    def latest(self, prefix: str) -> int:
        """Return the highest sequence number below ``prefix`` (which ends in ``/``), 0 when there is none."""
        return max(self.sequences(prefix), default=0)

    def sequences(self, prefix: str) -> list[int]:
        """Return every sequence number below ``prefix`` in order, each once."""
        found = {int(match[1]) for info in self.listing(prefix) if (match := _NUMBERED.match(info.key[len(prefix) :]))}
        return sorted(found)

    def listing(self, prefix: str) -> Iterator[ObjectInfo]:
        """List as the store does, and remember how long the manifests are: that spares a question before each read."""
        for info in self.store.list(prefix):
            if is_manifest(info.key):
                self._listed[info.key] = info.size
            yield info

    def listed_bytes(self, key: str) -> int:
        """Return how long a manifest was when it was listed, 0 when it was not."""
        return self._listed.get(key, 0)

    def append(self, prefix: str, build: Callable[[int], bytes], *, after: int | None = None, suffix: str = "") -> int:
        """Write ``build(n)`` as the next numbered object below ``prefix`` and return n; the first one is 1.

        Args:
            prefix: ends in ``/``.
            build: called with the number it would get; called again when another writer took that number.
            after: write as ``after + 1`` or raise Conflict: for a journal whose writer believes to be alone.
            suffix: what follows the number in the key, such as ``/manifest.json``.
        """
        sequence = (self.latest(prefix) if after is None else after) + 1
        for _ in range(_APPEND_TRIES):
            try:
                self.put_once(f"{prefix}{numbered(sequence)}{suffix}", build(sequence))
            except Conflict:
                if after is not None:
                    raise
                sequence += 1
            else:
                return sequence
        message = f"{_APPEND_TRIES} other writers took the next number below {prefix} in {self.url}"
        raise Conflict(message, hint="look for a run that repeats itself")

    def read_manifest(self, key: str) -> bytes:
        """Return a manifest's JSON, its signature proven and taken off.

        Raises:
            NotFound: it is not there.
            Corrupt: it is longer than any manifest, or its signature is not one that the config trusts.
        """
        data = self._document(key, self._listed.get(key), _OBJECT_HINT)
        return self.signing.check(key, data) if self.signing is not None else split(data)[0]

    def read_json(self, key: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return a JSON object's value; a manifest's only with a signature that the config trusts.

        Raises:
            NotFound: it is not there.
            Corrupt: it is not JSON, longer than any such object, or not signed as it should be.
        """
        data = self.read_manifest(key) if is_manifest(key) else self._document(key, None, _OBJECT_HINT)
        return self._parse(key, data, _OBJECT_HINT)

    def prove(self, key: str) -> bool:
        """Read a JSON object as its readers do, and return whether it carries a seal. Raises NotFound, Corrupt."""
        self.read_json(key)
        data = self.store.get(key)
        return unseal(data) != data

    def pointer(self, key: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return a mutable pointer's value, None when it was never set. Raises Corrupt."""
        try:
            data = self._document(key, None, _POINTER_HINT)
        except NotFound:
            return None
        return self._parse(key, data, _POINTER_HINT)

    def move_pointer(self, key: str, build: Callable[[Any], Any]) -> Any:  # noqa: ANN401 - any JSON value
        """Move a mutable pointer by compare-and-set and return its new value.

        Args:
            key: below ``pointers/``.
            build: from the value found (None when absent) to the new one; called again after a lost race; what it
                raises passes through, so that it can refuse to go back.

        Raises:
            Corrupt: what stands there is not JSON.
            Conflict: others moved it all the time.
        """
        for _ in range(_APPEND_TRIES):
            try:
                info = self.store.head(key)
                data, token = self._bounded(info, _POINTER_HINT), info.token
                found = self._parse(key, data, _POINTER_HINT)
            except NotFound:
                found, token = None, None
            value = build(found)
            if value == found:
                return value
            try:
                self.store.replace(key, seal(to_json(value)), expected=token)
            except Conflict:
                continue
            return value
        message = f"{_APPEND_TRIES} other writers moved {key} in {self.url}"
        raise Conflict(message, hint="look for a run that repeats itself")

    def _document(self, key: str, size: int | None, hint: str) -> bytes:
        """Return an object that is parsed in memory, if its size (None: ask) is one that memory bears."""
        if size is None:
            return self._bounded(self.store.head(key), hint)
        if size > DOCUMENT_BYTES_MAX:
            raise self._too_long(key, size, hint)
        return self._unsealed(key, self.store.get(key), hint)

    def _bounded(self, info: ObjectInfo, hint: str) -> bytes:
        if info.size > DOCUMENT_BYTES_MAX:
            raise self._too_long(info.key, info.size, hint)
        return self._unsealed(info.key, self.store.get(info.key, version=info.version), hint)

    def _unsealed(self, key: str, data: bytes, hint: str) -> bytes:
        try:
            return unseal(data)
        except Damaged as damage:
            raise Corrupt(f"{key} in {self.url} holds other bytes than were written: {damage}", hint=hint) from damage

    def _too_long(self, key: str, size: int, hint: str) -> Corrupt:
        message = f"{key} in {self.url} has {size} bytes, no such object has more than {DOCUMENT_BYTES_MAX}"
        return Corrupt(message, hint=hint)

    def _parse(self, key: str, data: bytes, hint: str) -> Any:  # noqa: ANN401 - any JSON value
        try:
            return parse_json(data)
        except ValueError as error:
            message = f"{key} in {self.url} is not JSON that can be read"
            raise Corrupt(message, hint=hint) from error


def decrypting(store: ObjectStore, encryption: Encryption | None, *, below: str = "") -> ObjectStore:
    """Return a store whose objects are encrypted with these keys, if there are any.

    Args:
        store: where the objects lie.
        encryption: the config's keys; None: the vault is plain.
        below: see ``EncryptedStore``.
    """
    if encryption is None:
        return store
    from understudy.vault.encryption import EncryptedStore  # not for those who encrypt nothing

    return EncryptedStore(store, encryption, below=below)


def open_vault(
    store: ObjectStore,
    *,
    service: str | None = None,
    signing: Signing | None = None,
    encryption: Encryption | None = None,
) -> Vault:
    """Open the vault in a store. That only reads: what is no vault yet becomes one by the first write to it.

    Args:
        store: where it lies.
        service: whose vault it is: written down by the first write, and compared at every opening. None: not asked.
        signing: see ``Vault``.
        encryption: the config's keys: what is no vault yet becomes an encrypted one. None: a plain one.

    Raises:
        Unsupported: it was written by a later version of this software, or something else lives there.
        Refused: it is another service's vault, or a plain one though there are keys.
        InvalidConfig: it is encrypted, and these are not its keys.
    """
    vault = Vault(decrypting(store, encryption), signing, encryption=encryption)
    try:
        found = vault.read_json(FORMAT_KEY)
    except NotFound:
        return Vault(FoundingStore(vault.store, partial(_make, vault, service)), signing, encryption=encryption)
    _compare(found, service, store.url)
    _require_keys(found, encryption, store.url)
    return vault


def open_to_read(
    store: ObjectStore, *, service: str, signing: Signing | None = None, encryption: Encryption | None = None
) -> Vault:
    """Open a vault that is there already, encrypted or not, for who reads it and writes nothing.

    Args:
        store: where it lies.
        service: whose vault it is.
        signing: see ``Vault``.
        encryption: the config's keys, in any order; a plain vault is read without them.

    Raises:
        NotFound: there is no vault.
        Unsupported, Refused, InvalidConfig: as ``open_vault``.
    """
    try:
        found = Vault(store).read_json(FORMAT_KEY)
    except NotFound as error:
        raise NotFound(f"{store.url} is no vault", hint="name the bucket or prefix of its format.json") from error
    _compare(found, service, store.url)
    if "encryption" not in found:
        return Vault(store, signing)
    _require_keys(found, encryption, store.url, introduced=False)
    return Vault(decrypting(store, encryption), signing, encryption=encryption)


def _make(vault: Vault, service: str | None) -> None:
    """Make a store a vault, and a service's own. Raises Unsupported, Refused when it became another one meanwhile."""
    told: dict[str, Any] = {"format": FORMAT_VERSION, "what": "understudy vault"}
    if service:
        told["service"] = service
    if vault.encryption is not None:
        from understudy.vault.encryption import require_unused

        require_unused(vault.store)
        told |= {"format": ENCRYPTED_FORMAT_VERSION, "encryption": vault.encryption.as_json()}
    try:
        vault.put_once(FORMAT_KEY, to_json(told))
    except Conflict:
        found = vault.read_json(FORMAT_KEY)
        _compare(found, service, vault.url)
        _require_keys(found, vault.encryption, vault.url)


def _compare(found: Any, service: str | None, url: str) -> None:  # noqa: ANN401 - any JSON value
    """Raise Unsupported or Refused unless ``format.json`` is one of this software and this service."""
    if not isinstance(found, dict) or found.get("what") != "understudy vault":
        message = f"{url} holds something that is not a vault"
        raise Unsupported(message, hint="name an empty bucket or prefix under vault.url")
    if found.get("format") != (ENCRYPTED_FORMAT_VERSION if "encryption" in found else FORMAT_VERSION):
        message = f"the vault in {url} has format {found.get('format')!r}, this software reads {FORMAT_VERSION}"
        raise Unsupported(message, hint="use the version of understudy that wrote it, or a later one")
    # A vault of an early version does not say whose it is.
    if service and found.get("service", service) != service:
        message = f"the vault in {url} belongs to the service {found['service']!r}, this config is for {service}"
        raise Refused(message, hint="give each service a bucket or prefix of its own under vault.url")


def _require_keys(found: dict[str, Any], encryption: Encryption | None, url: str, *, introduced: bool = True) -> None:
    if encryption is not None or "encryption" in found:
        from understudy.vault.encryption import require_keys

        require_keys(found, encryption, url, introduced=introduced)
