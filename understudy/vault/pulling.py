"""One object of a vault as a file in a folder: proven before it is visible, and kept when it is there already."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

from blake3 import blake3

from understudy.errors import Corrupt

if TYPE_CHECKING:
    from pathlib import Path

    from understudy.vault.store import Vault

Algorithm = Literal["SHA-256", "BLAKE3"]


def pull_object(vault: Vault, key: str, path: Path, *, expected: str, algorithm: Algorithm, hint: str) -> int | None:
    """Write an object to a file whose folder exists.

    Args:
        vault: where from.
        key: of the object.
        path: of the file.
        expected: hex digest of its bytes.
        algorithm: of that digest.
        hint: what to do when the bytes are others.

    Returns:
        How many bytes were read and written; None when the right ones were there.

    Raises:
        NotFound: the object is not there.
        Corrupt: its bytes have another digest; nothing is written.
    """
    if path.exists() and _digest(path.read_bytes(), algorithm) == expected:
        return None
    data = vault.store.get(key)
    if _digest(data, algorithm) != expected:
        raise Corrupt(f"{key} in {vault.url} has another {algorithm} than its manifest", hint=hint)
    waiting = path.with_name(f".{path.name}.part")
    waiting.write_bytes(data)
    waiting.replace(path)
    return len(data)


def _digest(data: bytes, algorithm: Algorithm) -> str:
    return hashlib.sha256(data).hexdigest() if algorithm == "SHA-256" else blake3(data).hexdigest()
