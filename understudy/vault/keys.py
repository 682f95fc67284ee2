"""Makes the private key that signs manifests, into a file that its owner alone can read."""

from __future__ import annotations

import os
import secrets

from understudy.errors import InvalidConfig
from understudy.vault.signing import private_key_text, public_line

_SEED_BYTES = 32


def write_private_key(path: str | os.PathLike[str]) -> str:
    """Write a fresh private key (PEM, mode 0600) and return the public line for ``vault.trust``.

    Raises:
        InvalidConfig: the file is there already, or cannot be written.
    """
    seed = secrets.token_bytes(_SEED_BYTES)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(descriptor, 0o600)
            file.write(private_key_text(seed))
    except FileExistsError as error:
        message = f"{path} is there already, and a key is never written over"
        raise InvalidConfig(message, hint="name another file; a vault may trust several keys") from error
    except OSError as error:
        message = f"the private key cannot be written to {path}: {error.strerror}"
        raise InvalidConfig(message, hint="name a file in a folder that is there") from error
    return public_line(seed)
