"""What the vault keeps of one revision of a model: its files, their SHA-256 and chunks, and where it came from."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import orjson

from understudy.errors import Corrupt, Unsupported
from understudy.vault.chunks import RAW_BYTES_MAX
from understudy.vault.documents import DOCUMENT_BYTES_MAX, TooMuch, parse_json, quoted, shown
from understudy.vault.store import numbered

if TYPE_CHECKING:
    from collections.abc import Iterable

ARTIFACTS_PREFIX = "artifacts/"
POINTERS = "pointers"
FORMAT = 1
_HEX = re.compile(r"[0-9a-f]{64}")
_PATH_BYTES_MAX = 1024
#: Beside ASCII's control characters those of Latin-1, which terminals obey too, line ends, and what turns text around.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")

Kind = Literal["safetensors", "opaque"]


@dataclass(frozen=True, slots=True)
class SourceObject:
    """The object at the source that a file was read from, as its listing described it."""

    key: str
    version: str | None
    token: str
    modified: str


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One file of a model.

    Attributes:
        path: below ``<model>/<version>/``, with forward slashes.
        size: bytes.
        sha256: hex, of all bytes in order, computed while they were read from the source.
        kind: ``safetensors``, which was checked as a whole one, or ``opaque``.
        source: where the bytes were read.
        chunks: (id in hex, plain length), in order; the lengths add up to ``size``.
        layout: whose tensors an opaque file was cut at (``pytorch``, ``gguf``, ``onnx``); empty: cut by content. It is
            no ``kind``: older versions refuse one that they do not know, and pass over this without losing anything.
    """

    path: str
    size: int
    sha256: str
    kind: Kind
    source: SourceObject
    chunks: tuple[tuple[str, int], ...]
    layout: str = ""


@dataclass(frozen=True, slots=True)
class Lineage:
    """A revision by its names and its digest."""

    version: str
    revision: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactManifest:
    """One complete revision of one version of a model."""

    model: str
    version: str
    revision: int
    digest: str
    files: tuple[ArtifactFile, ...]
    parent: Lineage | None = None
    tags: dict[str, str] = field(default_factory=dict)
    created: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Plain bytes of all files."""
        return sum(file.size for file in self.files)

    def as_lineage(self) -> Lineage:
        """Return how a later revision names this one as its parent."""
        return Lineage(self.version, self.revision, self.digest)


def manifest_key(model: str, version: str, revision: int) -> str:
    """Return the vault key of a manifest."""
    return f"{ARTIFACTS_PREFIX}{model}/{version}/{numbered(revision)}.json"


def model_digest(files: Iterable[tuple[str, str]]) -> str:
    """Return the digest that binds an index to its model, of (path, hex SHA-256) pairs.

    It is the SHA-256 of what ``sha256sum`` prints for the files, sorted by path: two spaces, newline after each.
    """
    lines = (f"{sha256}  {path}\n" for path, sha256 in sorted(files))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def complaint_about_path(path: str) -> str | None:
    """Return why a path cannot be a file of a model, None when it can: it must stay below its directory everywhere."""
    parts = path.split("/")
    if not path or len(path.encode(errors="surrogatepass")) > _PATH_BYTES_MAX:
        return "is empty or too long"
    if path.startswith("/"):
        return "is absolute"
    if "\\" in path:
        return "contains a backslash"
    if _CONTROL.search(path) or any("\ud800" <= letter <= "\udfff" for letter in path):
        return "contains a character that no file name has"
    if any(part in ("", ".", "..") for part in parts):
        return "contains an empty part, . or .."
    return None


#: What each file takes in a manifest beside its key, its path and the ids of its chunks: names, digests, stamps.
_FILE_BYTES_MIN = 210
_CHUNK_BYTES_MIN = 70


def complaint_about_length(files: Iterable[tuple[str, int]]) -> str | None:
    """Return why a version has too many files for one manifest, None when it may fit: before any of it is read.

    Args:
        files: key at the source, and bytes, of each.
    """
    count = total = 0
    for key, size in files:
        count += 1
        # The path is the key without model and version: counted as a part of it only.
        total += _FILE_BYTES_MIN + len(key) + _CHUNK_BYTES_MIN * max(1, -(-size // RAW_BYTES_MAX))
    if total <= DOCUMENT_BYTES_MAX:
        return None
    return (
        f"its {count:,} files would make a manifest of more than {total:,} bytes, a reader takes "
        f"{DOCUMENT_BYTES_MAX:,}; pack small files together, or split it into models"
    )


def encode_manifest(manifest: ArtifactManifest) -> bytes:
    """Return the manifest's JSON, the same bytes for equal manifests."""
    parent = manifest.parent
    value = {
        "format": FORMAT,
        "model": manifest.model,
        "version": manifest.version,
        "revision": manifest.revision,
        "digest": manifest.digest,
        "files": [
            {
                "path": file.path,
                "size": file.size,
                "sha256": file.sha256,
                "kind": file.kind,
                "source": {
                    "key": file.source.key,
                    "version": file.source.version,
                    "token": file.source.token,
                    "modified": file.source.modified,
                },
                "chunks": file.chunks,
                **({"layout": file.layout} if file.layout else {}),
            }
            for file in manifest.files
        ],
        "parent": parent and {"version": parent.version, "revision": parent.revision, "digest": parent.digest},
        "tags": manifest.tags,
        "created": manifest.created,
    }
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE)


def decode_manifest(data: bytes, key: str) -> ArtifactManifest:
    """Read a manifest and check all of it: nothing in it is trusted, least of all its paths.

    Args:
        data: the object's bytes.
        key: its vault key, which must agree with what it says; named in errors.

    Raises:
        Unsupported: a later version wrote it.
        Corrupt: anything else is wrong, in one sentence.
    """
    try:
        value = parse_json(data)
    except TooMuch as error:
        raise _corrupt(key, str(error)) from error
    except ValueError as error:
        raise _corrupt(key, "is not JSON") from error
    if not isinstance(value, dict):
        raise _corrupt(key, "is not an object")
    if value.get("format") != FORMAT:
        message = f"{key} has format {quoted(value.get('format'))}, this version of understudy reads {FORMAT}"
        raise Unsupported(message, hint="upgrade understudy to the version that wrote it, or a later one")
    try:
        manifest = _manifest(value)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _corrupt(key, f"is not a manifest: {shown(str(error))}") from error
    for name in (manifest.model, manifest.version):
        if "/" in name or complaint_about_path(name):
            raise _corrupt(key, f"has the name {quoted(name)}, which cannot be one")
    if key != manifest_key(manifest.model, manifest.version, manifest.revision):
        told = f"{shown(manifest.model)} {shown(manifest.version)} revision {manifest.revision}"
        raise _corrupt(key, f"says that it is {told}")
    _check_files(manifest, key)
    return manifest


def _check_files(manifest: ArtifactManifest, key: str) -> None:
    seen: set[str] = set()
    for file in manifest.files:
        if reason := complaint_about_path(file.path):
            raise _corrupt(key, f"names the file {quoted(file.path)}, which {reason}")
        if file.path in seen:
            raise _corrupt(key, f"names the file {quoted(file.path)} twice")
        seen.add(file.path)
        if sum(length for _, length in file.chunks) != file.size:
            raise _corrupt(key, f"lists chunks of {quoted(file.path)} that do not add up to its {file.size} bytes")
    for path in seen:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if (above := "/".join(parts[:depth])) in seen:
                raise _corrupt(key, f"names {quoted(above)} both as a file and as a directory")
    if not manifest.files:
        raise _corrupt(key, "has no files")
    if model_digest((file.path, file.sha256) for file in manifest.files) != manifest.digest:
        raise _corrupt(key, "has a digest that its files do not give")


def _manifest(value: dict[str, Any]) -> ArtifactManifest:
    parent = value["parent"]
    return ArtifactManifest(
        model=_text(value["model"]),
        version=_text(value["version"]),
        revision=_count(value["revision"]),
        digest=_hex(value["digest"]),
        files=tuple(_file(row) for row in value["files"]),
        parent=parent and Lineage(_text(parent["version"]), _count(parent["revision"]), _hex(parent["digest"])),
        tags={_text(name): _text(tag) for name, tag in value["tags"].items()},
        created={_text(name): _text(tag) for name, tag in value["created"].items()},
    )


def _file(row: dict[str, Any]) -> ArtifactFile:
    source = row["source"]
    version = source["version"]
    kind = row["kind"]
    if kind not in ("safetensors", "opaque"):
        message = f"unknown kind {quoted(kind)}"
        raise ValueError(message)
    return ArtifactFile(
        path=_text(row["path"]),
        size=_count(row["size"]),
        sha256=_hex(row["sha256"]),
        kind=kind,
        source=SourceObject(
            _text(source["key"]),
            None if version is None else _text(version),
            _text(source["token"]),
            _text(source["modified"]),
        ),
        chunks=tuple((_hex(name), _count(length)) for name, length in row["chunks"]),
        layout=_text(row.get("layout", "")),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        message = f"{quoted(value)} should be text"
        raise TypeError(message)
    return value


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        message = f"{quoted(value)} should be a count"
        raise ValueError(message)
    return value


def _hex(value: object) -> str:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        message = f"{quoted(value)} should be 64 hex digits"
        raise ValueError(message)
    return value


def _corrupt(key: str, problem: str) -> Corrupt:
    return Corrupt(f"{key} {problem}", hint="restore it from the bucket's versions")
