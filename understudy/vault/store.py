"""The vault's plain objects: immutable ones written once, numbered ones appended, pointers moved by compare-and-set."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from understudy.errors import Conflict, Corrupt, NotFound, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.objects.interface import ObjectStore

FORMAT_VERSION = 1
FORMAT_KEY = "format.json"
_DIGITS = 8
_NUMBERED = re.compile(rf"(\d{{{_DIGITS}}})(?:[/.]|$)")
_APPEND_TRIES = 100
_POINTER_HINT = "remove it; the next run writes it again"


def numbered(sequence: int) -> str:
    """Return a sequence number as it stands in keys: eight digits, so that listings sort by it."""
    return f"{sequence:0{_DIGITS}d}"


def to_json(value: Any) -> bytes:  # noqa: ANN401 - any JSON value
    """Encode deterministically: sorted keys, UTF-8, indented for people who restore by hand."""
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()


class Vault:
    """One vault over one object store. Safe to use from many threads."""

    def __init__(self, store: ObjectStore) -> None:
        """Wrap a store; ``open_vault`` is what checks its format."""
        self.store = store

    @property
    def url(self) -> str:
        """Where the vault is."""
        return self.store.url

    def put_once(self, key: str, data: bytes) -> bool:
        """Write an immutable object: True when created, False when these very bytes were there already.

        Raises Conflict when other bytes stand there.
        """
        try:
            self.store.create(key, data)
        except Conflict:
            if self.store.get(key) == data:
                return False
            raise
        return True

    def latest(self, prefix: str) -> int:
        """Return the highest sequence number below ``prefix`` (which ends in ``/``), 0 when there is none."""
        return max(self.sequences(prefix), default=0)

    def sequences(self, prefix: str) -> list[int]:
        """Return every sequence number below ``prefix`` in order, each once."""
        found = {
            int(match[1]) for info in self.store.list(prefix) if (match := _NUMBERED.match(info.key[len(prefix) :]))
        }
        return sorted(found)

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

    def read_json(self, key: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return a JSON object's value. Raises NotFound, Corrupt."""
        return self._parse(key, self.store.get(key), "restore it from the bucket's own versions, or push again")

    def pointer(self, key: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return a mutable pointer's value, None when it was never set. Raises Corrupt."""
        try:
            data = self.store.get(key)
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
                data, token = self.store.get(key, version=info.version), info.token
                found = self._parse(key, data, _POINTER_HINT)
            except NotFound:
                found, token = None, None
            value = build(found)
            if value == found:
                return value
            try:
                self.store.replace(key, to_json(value), expected=token)
            except Conflict:
                continue
            return value
        message = f"{_APPEND_TRIES} other writers moved {key} in {self.url}"
        raise Conflict(message, hint="look for a run that repeats itself")

    def _parse(self, key: str, data: bytes, hint: str) -> Any:  # noqa: ANN401 - any JSON value
        try:
            return json.loads(data)
        except ValueError as error:
            message = f"{key} in {self.url} is not JSON"
            raise Corrupt(message, hint=hint) from error


def open_vault(store: ObjectStore) -> Vault:
    """Open the vault in a store, making an empty one on first use.

    Raises:
        Unsupported: it was written by a later version of this software, or something else lives there.
    """
    vault = Vault(store)
    try:
        found = vault.read_json(FORMAT_KEY)
    except NotFound:
        vault.put_once(FORMAT_KEY, to_json({"format": FORMAT_VERSION, "what": "understudy vault"}))
        return vault
    if not isinstance(found, dict) or found.get("what") != "understudy vault":
        message = f"{store.url} holds something that is not a vault"
        raise Unsupported(message, hint="name an empty bucket or prefix under vault.url")
    if found.get("format") != FORMAT_VERSION:
        message = f"the vault in {store.url} has format {found.get('format')!r}, this software reads {FORMAT_VERSION}"
        raise Unsupported(message, hint="use the version of understudy that wrote it, or a later one")
    return vault
