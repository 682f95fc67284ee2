"""Secrets by reference: resolved at the moment of use, never printed, never stored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from understudy.errors import InvalidConfig

if TYPE_CHECKING:
    from collections.abc import Callable

#: Other kinds of references, added by the layer that knows them (the Prefect skin adds ``block``).
resolvers: dict[str, Callable[[str], str]] = {}


def resolve(reference: str) -> str:
    """Return the secret that ``env:NAME``, ``file:/path`` or ``block:type/name`` stands for. Raises InvalidConfig."""
    kind, _, name = reference.partition(":")
    if kind == "env":
        if value := os.environ.get(name):
            return value
        message = f"the environment variable {name} is not set"
        raise InvalidConfig(message, hint="set it, or change the reference in the config")
    if kind == "file":
        try:
            return Path(name).read_text(encoding="utf-8").strip()
        except OSError as error:
            message = f"the secret file {name} cannot be read: {error.strerror}"
            raise InvalidConfig(message) from error
    if kind in resolvers:
        return resolvers[kind](name)
    message = f"a {kind}: secret cannot be read here"
    raise InvalidConfig(message, hint="outside Prefect use env: or file: references")
