"""Secrets by reference: resolved at the moment of use, never printed, never stored."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, final

from understudy.errors import InvalidConfig
from understudy.redaction import remember

if TYPE_CHECKING:
    from collections.abc import Callable

#: Other kinds of references, added by the layer that knows them (the Prefect skin adds ``block``).
resolvers: dict[str, Callable[[str], str]] = {}


@final
class Secret:
    """A secret's text, which no repr, format, log line, comparison or pickle shows; ``reveal`` hands it out."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text
        remember(text)

    def reveal(self) -> str:
        """Return the text, for the call that needs it; it is kept nowhere else."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> str | tuple[object, ...]:
        """Refuse to be written anywhere."""
        message = "a secret is not stored; resolve its reference where it is used"
        raise TypeError(message)


def resolve(reference: str) -> Secret:
    """Return the secret that ``env:NAME``, ``file:/path`` or ``block:type/name`` stands for. Raises InvalidConfig."""
    kind, _, name = reference.partition(":")
    if kind == "env":
        if value := os.environ.get(name):
            return Secret(value)
        message = f"the environment variable {name} is not set"
        raise InvalidConfig(message, hint="set it, or change the reference in the config")
    if kind == "file":
        return _read_file(name)
    if kind in resolvers:
        return Secret(resolvers[kind](name))
    message = f"a {kind}: secret cannot be read here"
    raise InvalidConfig(message, hint="outside Prefect use env: or file: references")


def _read_file(name: str) -> Secret:
    try:
        text = Path(name).read_text(encoding="utf-8").strip()
    except OSError as error:
        message = f"the secret file {name} cannot be read: {error.strerror}"
        raise InvalidConfig(message, hint="mount it, or change the reference in the config") from error
    except ValueError:  # its words would show the bytes
        raise InvalidConfig(f"the secret file {name} is not text in UTF-8", hint="write the secret as text") from None
    if not text:
        raise InvalidConfig(f"the secret file {name} is empty", hint="write the secret into it")
    return Secret(text)
