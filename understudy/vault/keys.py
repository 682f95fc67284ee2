"""Makes the keys that sign manifests and encrypt vaults, each into a file that its owner alone can read."""

from __future__ import annotations

import os
import secrets

from understudy.errors import InvalidConfig
from understudy.vault.encryption import new_key_line
from understudy.vault.signing import private_key_text, public_line

_SEED_BYTES = 32


def write_private_key(path: str | os.PathLike[str]) -> str:
    """Write a fresh private key (PEM, mode 0600) and return the public line for ``vault.trust``.

    Raises:
        InvalidConfig: the file is there already, or cannot be written.
    """
    seed = secrets.token_bytes(_SEED_BYTES)
    _write_secret(path, private_key_text(seed), "a vault may trust several keys")
    return public_line(seed)


def write_encryption_key(path: str | os.PathLike[str]) -> str:
    """Write a fresh key for ``vault.encrypt_with`` (``id:base64``, mode 0600) and return its id, which is no secret.

    Raises:
        InvalidConfig: the file is there already, or cannot be written.
    """
    line = new_key_line()
    _write_secret(path, f"{line}\n", "to replace a key, put the new one's line before the old one's")
    return line.partition(":")[0]


def _write_secret(path: str | os.PathLike[str], text: str, hint: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(descriptor, 0o600)
            file.write(text)
    except FileExistsError as error:
        message = f"{path} is there already, and a key is never written over"
        raise InvalidConfig(message, hint=f"name another file; {hint}") from error
    except OSError as error:
        message = f"the private key cannot be written to {path}: {error.strerror}"
        raise InvalidConfig(message, hint="name a file in a folder that is there") from error
