"""Which revision of a model a site serves: one small object below the model's prefix, moved by compare-and-set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from understudy.artifacts.manifest import POINTERS, complaint_about_path
from understudy.errors import Corrupt, NotFound

if TYPE_CHECKING:
    from understudy.objects.interface import ObjectStore


@dataclass(frozen=True, slots=True)
class ServedFile:
    """One file as it lies at the site: ``key`` below the prefix, ``version`` and ``token`` as the site's store said."""

    path: str
    key: str
    version: str | None
    token: str | None
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Pointer:
    """What is served, file by file."""

    model: str
    version: str
    revision: int
    digest: str
    files: tuple[ServedFile, ...]


def pointer_key(model: str) -> str:
    """Return the key of a model's pointer below the prefix that its files are under."""
    return f"{POINTERS}/{model}.json"


def encode_pointer(pointer: Pointer) -> bytes:
    """Return the pointer's JSON."""
    return orjson.dumps(pointer, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def read_pointer(store: ObjectStore, model: str) -> tuple[Pointer | None, str | None]:
    """Return (what is served, the token to move it by); (None, None) when nothing is.

    Raises:
        Corrupt: something else stands there.
    """
    key = pointer_key(model)
    try:
        token = store.head(key).token
        data = store.get(key)
    except NotFound:
        return None, None
    try:
        return _pointer(orjson.loads(data)), token
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"{key} in {store.url} is no pointer: {error}"
        raise Corrupt(message, hint="remove it and hydrate again") from error


def _pointer(value: dict[str, Any]) -> Pointer:
    files = tuple(
        ServedFile(row["path"], row["key"], row.get("version"), row.get("token"), int(row["size"]), row["sha256"])
        for row in value["files"]
    )
    for file in files:
        if complaint_about_path(file.path) or complaint_about_path(file.key):
            message = f"it names {file.key!r}"
            raise ValueError(message)
    return Pointer(str(value["model"]), str(value["version"]), int(value["revision"] or 0), str(value["digest"]), files)
