"""Client-side encryption of a vault: whoever holds the bucket, or a copy, sees names, sizes and times, and no content.

Each object is what Tink's streaming AEAD writes with AES-256-GCM, HKDF-SHA256 and segments of 64 KiB, bit for bit, so
Tink reads it too (https://developers.google.com/tink/streaming-aead/aes_gcm_hkdf_streaming; the construction is
"nOAE2" of Hoang and Shen, https://eprint.iacr.org/2020/1019)::

    header      1 byte: its length, 40; a salt of 32 bytes; the first 7 bytes of every nonce; both random in each write
    segments    AES-256-GCM, 65,536 bytes each with its tag, the first with the header before it; the last is shorter

The key of an object is HKDF-SHA256 of the master key, the salt, and what the object is: format, service and name. A
segment's nonce ends in its number and in whether it is the last. So a segment that is changed, left out, moved within
its object, into another one or to another write of the same one does not decrypt, nor does an object that was cut,
renamed, or taken from another service. A ranged read decrypts the segments that it touches; how long the plain bytes
are follows from how long the stored ones are.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import re
import secrets
import struct
import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from understudy.errors import Corrupt, Denied, InvalidConfig, Refused, Unsupported
from understudy.objects.parts import exactly, regroup
from understudy.redaction import remember
from understudy.vault.documents import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from understudy.objects.interface import Abilities, ObjectInfo, ObjectStore

SCHEME = "AES256_GCM_HKDF_SHA256"
SEGMENT_BYTES = 64 << 10
KEY_BYTES = 32
_TAG_BYTES = 16
_SALT_BYTES = 32
_PREFIX_BYTES = 7
#: Also its own first byte.
_HEADER_BYTES = 1 + _SALT_BYTES + _PREFIX_BYTES
#: Plain bytes of a segment; the header counts as the first plain bytes of an object, so that all segments are alike.
_ROOM = SEGMENT_BYTES - _TAG_BYTES
_NONCE_END = struct.Struct(">I?")
_CHECK_BYTES = 16
_ID_BYTES = 4
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: What is read before there is a key, or holds nothing: which keys are needed, the kit that brings this software, and
#: the probes of ``config check``.
_PLAIN = re.compile(r"format\.json|kits/.+|pointers/kit\.json|probe/.+|pointers/artifacts/\.config-check\.json")
#: Objects whose header is remembered, so that the ranges of one pack need it once.
_OPENED_MAX = 1024
_KEY_HINT = "make one with: understudy vault keygen --encryption --out FILE"
_OBJECT_HINT = "restore it from the bucket's own versions"


def is_plain(key: str) -> bool:
    """Return whether a vault key is one whose object is not encrypted in any vault."""
    return _PLAIN.fullmatch(key) is not None


@dataclass(frozen=True, slots=True)
class MasterKey:
    """One key of a vault: what errors and ``format.json`` call it, and its bytes, which no repr shows."""

    id: str
    _bytes: bytes = field(repr=False)

    def check(self, service: str) -> str:
        """Return what proves in ``format.json`` which key is meant: says nothing of the key itself."""
        return _derived(self._bytes, b"", f"understudy-key-check-1\n{service}", _CHECK_BYTES).hex()

    def cipher(self, salt: bytes, context: str) -> AESGCM:
        """Return what encrypts one write of one object."""
        return AESGCM(_derived(self._bytes, salt, context, KEY_BYTES))


def _derived(key: bytes, salt: bytes, context: str | bytes, length: int) -> bytes:
    info = context.encode() if isinstance(context, str) else context
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(key)


def new_key_line() -> str:
    """Return a fresh random key as ``vault.encrypt_with`` reads it: ``id:base64``."""
    key = secrets.token_bytes(KEY_BYTES)
    return f"{_usual_id(key)}:{base64.b64encode(key).decode()}"


def read_keys(text: str) -> tuple[MasterKey, ...]:
    """Return the keys of a secret's text, the one that encrypts first.

    Args:
        text: ``id:base64`` or base64 alone, on lines, or apart by spaces or commas; lines that begin with ``#`` are
            notes.

    Raises:
        InvalidConfig: something in it is no key, said without a letter of it; or two have one name.
    """
    found: list[MasterKey] = []
    lines = text.replace("\\n", "\n").splitlines()  # environment variables often carry several lines on one
    for number, part in enumerate(part for line in lines if not line.lstrip().startswith("#") for part in _parts(line)):
        name, _, encoded = part.rpartition(":")
        remember(encoded)
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES or (name and not _ID.fullmatch(name)):
            message = f"key {number + 1} of vault.encrypt_with is not 32 bytes in base64, with or without id: before it"
            raise InvalidConfig(message, hint=_KEY_HINT)
        found.append(MasterKey(name or _usual_id(key), key))
    if not found:
        raise InvalidConfig("vault.encrypt_with holds no key", hint=_KEY_HINT)
    if len({key.id for key in found}) < len(found):
        raise InvalidConfig("vault.encrypt_with holds two keys of one name", hint="write each once")
    return tuple(found)


def _parts(line: str) -> list[str]:
    return [part for part in re.split(r"[\s,]+", line) if part]


def _usual_id(key: bytes) -> str:
    return f"k-{_derived(key, b'', 'understudy-key-id-1', _ID_BYTES).hex()}"


class Encryption:
    """The keys of one service's vault. Safe to use from many threads."""

    def __init__(self, service: str, text: Callable[[], str]) -> None:
        """Take the service's name, and where the keys are to be had.

        Args:
            service: bound to every object.
            text: returns the text that ``read_keys`` reads; asked once, at the first use.
        """
        self.service = service
        self._text = text
        self._keys: tuple[MasterKey, ...] = ()
        self._lock = threading.Lock()

    @property
    def keys(self) -> tuple[MasterKey, ...]:
        """The keys; the first one encrypts. Raises InvalidConfig."""
        with self._lock:
            if not self._keys:
                self._keys = read_keys(self._text())
            return self._keys

    def context(self, key: str) -> str:
        """Return what an object is, which its key is derived from."""
        return f"understudy-object-1\n{self.service}\n{key}"

    def as_json(self) -> dict[str, Any]:
        """Return what ``format.json`` says of a vault that begins with these keys: the first one alone."""
        return {"scheme": SCHEME, "segment": SEGMENT_BYTES, "keys": [self.entry(self.keys[0])]}

    def entry(self, key: MasterKey) -> dict[str, str]:
        """Return what ``format.json`` says of one key."""
        return {"id": key.id, "check": key.check(self.service)}


@dataclass(frozen=True, slots=True)
class KeysOfVault:
    """How the keys of a config and those that a vault names go together.

    Attributes:
        named: what the vault calls its keys.
        missing: of these, those that the config lacks or has otherwise.
        introduced: whether the config's first key is one of the vault's.
    """

    named: tuple[str, ...]
    missing: tuple[str, ...]
    introduced: bool


def compare_keys(found: dict[str, Any], encryption: Encryption, url: str) -> KeysOfVault:
    """Return how the config's keys fit a vault's ``format.json``. Raises Corrupt when that says nothing of keys."""
    try:
        told = found["encryption"]
        how = told["scheme"], told["segment"]
        named = [(str(one["id"]), str(one["check"])) for one in told["keys"]]
    except (KeyError, TypeError) as error:
        message = f"format.json in {url} does not say how the vault is encrypted"
        raise Corrupt(message, hint=_OBJECT_HINT) from error
    if how != (SCHEME, SEGMENT_BYTES):
        message = (
            f"the vault in {url} is encrypted as {shown(str(how))}, which this version of understudy does not know"
        )
        raise Unsupported(message, hint="upgrade understudy to the version that wrote it, or a later one")
    held = {key.check(encryption.service) for key in encryption.keys}
    return KeysOfVault(
        tuple(name for name, _ in named),
        tuple(name for name, check in named if check not in held),
        encryption.keys[0].check(encryption.service) in {check for _, check in named},
    )


def require_keys(found: dict[str, Any], encryption: Encryption | None, url: str, *, introduced: bool = True) -> None:
    """Refuse a vault whose ``format.json`` and the config's keys do not go together.

    Args:
        found: what ``format.json`` says.
        encryption: the config's keys; None where it names none.
        url: of the vault.
        introduced: whether the first key must be one that the vault names.

    Raises:
        InvalidConfig: the vault is encrypted, and the config has no key, or not its keys.
        Refused: the vault is not encrypted, and the config names a key.
        Corrupt: ``format.json`` says it is encrypted, and not how.
    """
    if "encryption" not in found:
        if encryption is None:
            return
        message = f"the vault in {url} is not encrypted, and vault.encrypt_with names a key"
        hint = "name an empty bucket or prefix under vault.url, for what is there stays in plain; or take the key out"
        raise Refused(message, hint=hint)
    if encryption is None:
        names = _names(found)
        message = f"the vault in {url} is encrypted{names}, and vault.encrypt_with names no key"
        raise InvalidConfig(message, hint="write the reference of its key there; without it nothing can be read")
    fit = compare_keys(found, encryption, url)
    mine = ", ".join(key.id for key in encryption.keys)
    if fit.missing:
        message = f"the vault in {url} is encrypted with {', '.join(fit.missing)}, which is not a key of this config"
        raise InvalidConfig(message, hint=f"vault.encrypt_with holds {mine}; add the missing key, after the first one")
    if introduced and not fit.introduced:
        message = f"the first key of vault.encrypt_with, {encryption.keys[0].id}, is not yet a key of {url}"
        raise InvalidConfig(
            message,
            hint=f"put {fit.named[0] if fit.named else 'the old key'} first, or make the new key known to the vault",
            next_command="understudy vault rekey --yes",
        )


def _names(found: dict[str, Any]) -> str:
    with contextlib.suppress(KeyError, TypeError):
        return f" with {', '.join(str(one['id'])[:64] for one in found['encryption']['keys'])}"
    return ""


def require_unused(store: ObjectStore) -> None:
    """Refuse to begin an encrypted vault where objects lie already.

    Without this, a ``format.json`` that somebody removed would be made anew, and a plain vault would become half of
    each.

    Raises:
        Refused: there are such.
    """
    with contextlib.suppress(Denied):  # who may not list may not fill it either
        first = next((info.key for info in store.list() if not is_plain(info.key)), None)
        if first is not None:
            message = f"{store.url} holds {first} and no format.json, so no encrypted vault is begun there"
            raise Refused(message, hint="restore format.json from the bucket's versions, or name an empty prefix")


# ---------------------------------------------------------------------- sizes


def stored_size(plain: int) -> int:
    """Return how many bytes are stored for so many plain ones."""
    return _HEADER_BYTES + plain + _TAG_BYTES * _segments(plain)


def plain_size(stored: int) -> int | None:
    """Return how many plain bytes so many stored ones hold; None when no object has that length."""
    segments = -(-stored // SEGMENT_BYTES)
    last = stored - (segments - 1) * SEGMENT_BYTES
    if last <= _TAG_BYTES or stored < _HEADER_BYTES + _TAG_BYTES:
        return None
    return stored - _HEADER_BYTES - _TAG_BYTES * segments


def _segments(plain: int) -> int:
    return -(-(plain + _HEADER_BYTES) // _ROOM)


# ---------------------------------------------------------------------- one write of one object


class _Written:
    """One write of one object: its header, and the cipher that this one has."""

    def __init__(self, master: MasterKey, context: str, header: bytes) -> None:
        self.header = header
        self._cipher = master.cipher(header[1 : 1 + _SALT_BYTES], context)
        self._prefix = header[1 + _SALT_BYTES :]

    @classmethod
    def fresh(cls, master: MasterKey, context: str) -> _Written:
        return cls(master, context, bytes([_HEADER_BYTES]) + secrets.token_bytes(_SALT_BYTES + _PREFIX_BYTES))

    def seal(self, number: int, plain: bytes | memoryview, *, last: bool) -> bytes:
        return self._cipher.encrypt(self._nonce(number, last=last), plain, None)

    def open(self, number: int, sealed: bytes | memoryview, *, last: bool) -> bytes:
        """Return a segment's plain bytes. Raises InvalidTag."""
        return self._cipher.decrypt(self._nonce(number, last=last), sealed, None)

    def _nonce(self, number: int, *, last: bool) -> bytes:
        return self._prefix + _NONCE_END.pack(number, last)


@dataclass(frozen=True, slots=True)
class _Opened:
    """What is remembered of an object: which write it is, and how many plain bytes it has."""

    written: _Written
    size: int


class EncryptedStore:
    """An ObjectStore whose objects lie encrypted in another one. Safe to use from many threads.

    What ``is_plain`` names passes as it is. Listings carry no checksum: a store's is of what it holds, and changes when
    a key does.
    """

    def __init__(self, store: ObjectStore, encryption: Encryption, *, below: str = "") -> None:
        """Wrap a store.

        Args:
            store: where the encrypted objects lie.
            encryption: whose keys are asked for at the first read or write.
            below: the vault key that the store's root stands for, with a ``/`` at its end; "" is the whole vault.
        """
        self.url = store.url
        self.bare = store
        self.encryption = encryption
        self._below = below
        self._opened: OrderedDict[tuple[str, str | None], _Opened] = OrderedDict()
        self._lock = threading.Lock()
        self._likely: MasterKey | None = None

    @property
    def abilities(self) -> Abilities:
        """See ObjectStore."""
        return replace(self.bare.abilities, lists_crc32c=False)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ObjectStore. What cannot be an encrypted object is listed with size 0; reading it says what it is."""
        return (self._described(info) for info in self.bare.list(prefix))

    def list_versions(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See ``list``."""
        return (self._described(info) for info in self.bare.list_versions(prefix))

    def head(self, key: str) -> ObjectInfo:
        """See ObjectStore. Raises Corrupt when no encrypted object has its length."""
        info = self.bare.head(key)
        self._plain_size(key, info.size)
        return self._described(info)

    def get(self, key: str, *, version: str | None = None) -> bytes:
        """See ObjectStore. Raises Corrupt when it is not what this vault's keys encrypted under this name."""
        data = self.bare.get(key, version=version)
        if self._is_plain(key):
            return data
        size = self._plain_size(key, len(data))
        return self._decrypted(self._open(key, data, size), key, data, 0, size)

    def get_range(self, key: str, start: int, length: int, *, version: str | None = None) -> bytes:
        """See ObjectStore. Decrypts the segments that the range touches."""
        if self._is_plain(key):
            return self.bare.get_range(key, start, length, version=version)
        with self._lock:
            known = self._opened.get((key, version))
        if known is not None and length:
            with contextlib.suppress(Corrupt):  # written anew since, or damaged: looked at once more
                return self._range(known, key, start, length, version)
        return self._first_range(key, start, length, version)

    def create(self, key: str, data: bytes) -> ObjectInfo:
        """See ObjectStore."""
        return self._described(self.bare.create(key, self._encrypted(key, data)))

    def replace(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
        """See ObjectStore."""
        return self._described(self.bare.replace(key, self._encrypted(key, data), expected=expected))

    def put(self, key: str, data: bytes) -> ObjectInfo:
        """See ObjectStore."""
        return self._described(self.bare.put(key, self._encrypted(key, data)))

    def put_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """See ObjectStore."""
        if self._is_plain(key):
            return self._described(self.bare.put_stream(key, parts, size))
        return self._described(self.bare.put_stream(key, self._stream(key, parts, size), stored_size(size)))

    def create_stream(self, key: str, parts: Iterable[bytes], size: int) -> ObjectInfo:
        """See ObjectStore."""
        if self._is_plain(key):
            return self._described(self.bare.create_stream(key, parts, size))
        return self._described(self.bare.create_stream(key, self._stream(key, parts, size), stored_size(size)))

    def delete(self, key: str) -> None:
        """See ObjectStore."""
        self.bare.delete(key)

    def set_tier(self, key: str, tier: Literal["standard", "cold"]) -> ObjectInfo:
        """See ObjectStore."""
        return self._described(self.bare.set_tier(key, tier))

    def now(self) -> datetime:
        """See ObjectStore."""
        return self.bare.now()

    def key_of(self, info: ObjectInfo) -> MasterKey:
        """Return which of the keys an object was encrypted with; reads its first segment. Raises NotFound, Corrupt."""
        stored = stored_size(info.size)
        lead = self.bare.get_range(info.key, 0, min(stored, SEGMENT_BYTES))
        return self._tried(info.key, lead, last=stored <= SEGMENT_BYTES)[0]

    def _is_plain(self, key: str) -> bool:
        return is_plain(self._below + key)

    def _context(self, key: str) -> str:
        return self.encryption.context(self._below + key)

    def _described(self, info: ObjectInfo) -> ObjectInfo:
        size = info.size if self._is_plain(info.key) else plain_size(info.size) or 0
        return replace(info, size=size, crc32c=None)

    def _plain_size(self, key: str, stored: int) -> int:
        size = stored if self._is_plain(key) else plain_size(stored)
        if size is None:
            message = f"{key} in {self.url} has {stored} bytes, which no encrypted object has"
            raise Corrupt(message, hint=_OBJECT_HINT)
        return size

    # ------------------------------------------------------------------ writing

    def _encrypted(self, key: str, data: bytes) -> bytes:
        if self._is_plain(key):
            return data
        written = _Written.fresh(self.encryption.keys[0], self._context(key))
        sealed, view = io.BytesIO(), memoryview(data)
        sealed.write(written.header)
        for number in range(total := _segments(len(data))):
            begin, end = _bounds(number)
            sealed.write(written.seal(number, view[begin:end], last=number == total - 1))
        return sealed.getvalue()

    def _stream(self, key: str, parts: Iterable[bytes], size: int) -> Iterator[bytes]:
        """Yield header and segments; raises Corrupt, before the last one, when the parts do not add up to ``size``."""
        written = _Written.fresh(self.encryption.keys[0], self._context(key))
        total = _segments(size)
        yield written.header
        for number, room in enumerate(regroup(chain((written.header,), exactly(parts, size, key)), _ROOM)):
            plain = memoryview(room)[_HEADER_BYTES:] if number == 0 else room
            yield written.seal(number, plain, last=number == total - 1)

    # ------------------------------------------------------------------ reading

    def _first_range(self, key: str, start: int, length: int, version: str | None) -> bytes:
        """Read a range of an object whose header is not known yet."""
        info = self.bare.head(key)
        if version is not None and info.version != version:
            # How long an older version is, no store says before it is read.
            data = self.get(key, version=version)
            self._require_within(key, len(data), start, length)
            return data[start : start + length]
        size = self._plain_size(key, info.size)
        self._require_within(key, size, start, length)
        first, end = _span(start, length)
        # One key needs no trial, so its header is enough; what begins the range is not read twice.
        enough = _HEADER_BYTES if len(self.encryption.keys) == 1 else SEGMENT_BYTES
        lead = self.bare.get_range(key, 0, min(info.size, enough if first else end * SEGMENT_BYTES), version=version)
        opened = self._open(key, lead, size)
        with self._lock:
            self._opened[key, version] = opened
            while len(self._opened) > _OPENED_MAX:
                self._opened.popitem(last=False)
        if first:
            return self._range(opened, key, start, length, version)
        return self._decrypted(opened, key, lead, start, length)

    def _range(self, opened: _Opened, key: str, start: int, length: int, version: str | None) -> bytes:
        self._require_within(key, opened.size, start, length)
        first, end = _span(start, length)
        stored = min(stored_size(opened.size), end * SEGMENT_BYTES) - first * SEGMENT_BYTES
        data = self.bare.get_range(key, first * SEGMENT_BYTES, stored, version=version)
        if first == 0 and data[:_HEADER_BYTES] != opened.written.header:
            raise self._undecipherable(key)
        return self._decrypted(opened, key, data, start, length)

    def _require_within(self, key: str, size: int, start: int, length: int) -> None:
        if start + length > size:
            message = f"{key} in {self.url} ends before byte {start + length}"
            raise Corrupt(message, hint="it is shorter than what refers to it says")

    def _open(self, key: str, lead: bytes, size: int) -> _Opened:
        """Return which write an object of so many plain bytes is, from its first segment or its header alone."""
        if len(lead) == _HEADER_BYTES:
            self._require_header(key, lead)
            return _Opened(_Written(self.encryption.keys[0], self._context(key), lead), size)
        return _Opened(self._tried(key, lead, last=_segments(size) == 1)[1], size)

    def _require_header(self, key: str, lead: bytes) -> None:
        if lead[:1] != bytes([_HEADER_BYTES]):
            message = f"{key} in {self.url} is not encrypted, though the vault is"
            raise Corrupt(message, hint=f"somebody wrote it without the vault's key: {_OBJECT_HINT}")

    def _tried(self, key: str, lead: bytes, *, last: bool) -> tuple[MasterKey, _Written]:
        """Find the key that the first segment decrypts with, the one that did last time before the others."""
        self._require_header(key, lead)
        header, segment = lead[:_HEADER_BYTES], memoryview(lead)[_HEADER_BYTES:SEGMENT_BYTES]
        context, likely = self._context(key), self._likely
        for master in sorted(self.encryption.keys, key=lambda one: one is not likely):
            written = _Written(master, context, header)
            with contextlib.suppress(InvalidTag):
                written.open(0, segment, last=last)
                self._likely = master
                return master, written
        raise self._undecipherable(key)

    def _decrypted(self, opened: _Opened, key: str, data: bytes, start: int, length: int) -> bytes:
        """Return a range of plain bytes from the whole stored segments that hold it."""
        plain, view, total = io.BytesIO(), memoryview(data), _segments(opened.size)
        try:
            for number, at in enumerate(range(0, len(data), SEGMENT_BYTES), start=_span(start, length)[0]):
                segment = view[at + (0 if number else _HEADER_BYTES) : at + SEGMENT_BYTES]
                opened_segment = opened.written.open(number, segment, last=number == total - 1)
                begin, end = _bounds(number)
                if start <= begin and end <= start + length:
                    plain.write(opened_segment)
                else:
                    plain.write(memoryview(opened_segment)[max(0, start - begin) : max(0, start + length - begin)])
        except InvalidTag:
            raise self._undecipherable(key) from None
        return plain.getvalue()

    def _undecipherable(self, key: str) -> Corrupt:
        message = f"{key} in {self.url} is not what this vault's keys encrypted under this name"
        hint = f"it was changed, cut, or put there in place of another, or its key is gone: {_OBJECT_HINT}"
        return Corrupt(message, hint=hint)


def _bounds(segment: int) -> tuple[int, int]:
    """Return where a segment's plain bytes begin, and where they end in an object that is long enough."""
    return max(0, segment * _ROOM - _HEADER_BYTES), (segment + 1) * _ROOM - _HEADER_BYTES


def _span(start: int, length: int) -> tuple[int, int]:
    """Return the first segment of a range of plain bytes, and the one after its last."""
    return (start + _HEADER_BYTES) // _ROOM, (start + max(length, 1) - 1 + _HEADER_BYTES) // _ROOM + 1
