"""``features/<view>/<sequence>.json``: what of the offline store is in the vault, and through which moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from understudy.errors import Conflict, Corrupt, NotFound, NotReady
from understudy.vault.store import numbered, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from understudy.vault.store import Vault

_MOVES_MAX = 20


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One Parquet file of the offline store.

    Attributes:
        key: its key at the source.
        stored: its key below ``offline/<view>/`` in the vault; another one than ``key`` when the source's file was
            changed in place, because the vault never overwrites.
        size: bytes.
        blake3: hex BLAKE3 of all bytes.
        token: the source's token (ETag, generation) of the bytes that were read.
        rows: rows in it.
    """

    key: str
    stored: str
    size: int
    blake3: str
    token: str
    rows: int


@dataclass(frozen=True, slots=True)
class OfflineManifest:
    """One state of a view's offline store in the vault.

    Attributes:
        view: the view's name.
        sequence: its number.
        watermark: every row acknowledged before this moment is in; it may move on in the pointer while nothing changes.
        schema: feature to Arrow type, ``json`` for features that only the log has.
        files: sorted by key.
        vanished: keys that the source no longer has; their files still count.
    """

    view: str
    sequence: int
    watermark: datetime
    schema: dict[str, str]
    files: tuple[FileEntry, ...]
    vanished: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        r"""Hex BLAKE3 over ``"<blake3>  <key>\n"`` of all files, sorted by key: names this state of the truth."""
        return blake3("".join(f"{file.blake3}  {file.key}\n" for file in self.files).encode()).hexdigest()

    @property
    def schema_digest(self) -> str:
        """Hex BLAKE3 over the deterministic JSON of the schema: what a set pins."""
        return schema_digest(self.schema)

    def to_bytes(self) -> bytes:
        """Return the JSON that the vault keeps."""
        document = {
            "what": "offline features",
            "view": self.view,
            "sequence": self.sequence,
            "watermark": self.watermark.isoformat(),
            "schema": self.schema,
            "schema_digest": self.schema_digest,
            "digest": self.digest,
            "vanished": list(self.vanished),
            "files": [asdict(file) for file in self.files],
        }
        return to_json(document)

    @classmethod
    def from_json(cls, document: Any) -> OfflineManifest:  # noqa: ANN401 - any JSON value
        """Read it back and check its digest. Raises Corrupt."""
        try:
            manifest = cls(
                view=document["view"],
                sequence=document["sequence"],
                watermark=datetime.fromisoformat(document["watermark"]),
                schema=document["schema"],
                files=tuple(FileEntry(**file) for file in document["files"]),
                vanished=tuple(document["vanished"]),
            )
            written = document["digest"]
        except (KeyError, TypeError, ValueError) as error:
            message = "a manifest of the offline features cannot be read"
            raise Corrupt(message, hint="restore it from the bucket's own versions, or replicate again") from error
        if written != manifest.digest:
            message = f"features/{manifest.view}/{numbered(manifest.sequence)}.json does not fit its own digest"
            raise Corrupt(message, hint="restore it from the bucket's own versions, or replicate again")
        return manifest


def schema_digest(schema: Mapping[str, str]) -> str:
    """Return the hex BLAKE3 over a schema's deterministic JSON."""
    return blake3(to_json(dict(schema))).hexdigest()


def manifests_prefix(view: str) -> str:
    """Return where a view's manifests stand in the vault."""
    return f"features/{view}/"


def data_prefix(view: str) -> str:
    """Return where a view's files stand in the vault."""
    return f"offline/{view}/"


def pointer_key(view: str) -> str:
    """Return the key of the small mutable object that carries the watermark on."""
    return f"pointers/features/{view}.json"


def read_manifest(vault: Vault, view: str, sequence: int) -> OfflineManifest:
    """Return one manifest. Raises NotFound, Corrupt."""
    return OfflineManifest.from_json(vault.read_json(f"{manifests_prefix(view)}{numbered(sequence)}.json"))


def newest_manifest(vault: Vault, view: str) -> OfflineManifest | None:
    """Return the newest manifest, None before the first replication. Raises Corrupt."""
    sequence = vault.latest(manifests_prefix(view))
    return read_manifest(vault, view, sequence) if sequence else None


def watermark_now(vault: Vault, manifest: OfflineManifest) -> datetime:
    """Return the watermark of the newest manifest: its own, or a later one that the pointer carries for it."""
    try:
        pointer = vault.read_json(pointer_key(manifest.view))
    except NotFound:
        return manifest.watermark
    try:
        if pointer["sequence"] >= manifest.sequence and pointer["view"] == manifest.view:
            return max(manifest.watermark, datetime.fromisoformat(pointer["watermark"]))
    except (KeyError, TypeError, ValueError) as error:
        message = f"{pointer_key(manifest.view)} in {vault.url} cannot be read"
        raise Corrupt(message, hint="remove it; the next replication writes it again") from error
    return manifest.watermark


def advance_pointer(vault: Vault, manifest: OfflineManifest, watermark: datetime) -> datetime:
    """Carry the watermark on by compare-and-set, never back, and return the one that stands then."""
    key = pointer_key(manifest.view)
    for _ in range(_MOVES_MAX):
        try:
            token: str | None = vault.store.head(key).token
            standing = vault.read_json(key)
            sequence, moment = int(standing["sequence"]), datetime.fromisoformat(standing["watermark"])
        except NotFound:
            token = None
        except (KeyError, TypeError, ValueError, Corrupt):
            pass  # unreadable: written anew, its token is known
        else:
            if sequence > manifest.sequence or (sequence == manifest.sequence and moment >= watermark):
                return max(moment, manifest.watermark) if sequence == manifest.sequence else watermark
        document = {"view": manifest.view, "sequence": manifest.sequence, "watermark": watermark.isoformat()}
        try:
            vault.store.replace(key, to_json(document), expected=token)
        except Conflict:
            continue
        return watermark
    message = f"{key} in {vault.url} is moved by others all the time"
    raise Conflict(message, hint="look for a schedule that overlaps itself")


def manifest_for(vault: Vault, view: str, as_of: datetime | None) -> tuple[OfflineManifest, datetime]:
    """Return the manifest to rebuild from, and its watermark.

    Args:
        vault: where to look.
        view: the view's name.
        as_of: None takes the newest; else the first one that is complete through that moment, so that what happened
            to the source later touches it least.

    Raises:
        NotReady: nothing was replicated yet, or not through ``as_of``.
    """
    sequences: Sequence[int] = vault.sequences(manifests_prefix(view))
    if not sequences:
        message = f"the vault {vault.url} holds nothing of {view} yet"
        raise NotReady(message, hint="replicate the offline store first", next_command="understudy features push")
    newest = read_manifest(vault, view, sequences[-1])
    watermark = watermark_now(vault, newest)
    if as_of is None:
        return newest, watermark
    if as_of > watermark:
        message = f"{view} is known through {watermark.isoformat()} only, {as_of.isoformat()} was asked for"
        raise NotReady(
            message, hint="ask for an earlier time, or replicate first", next_command="understudy features push"
        )
    low, high = 0, len(sequences) - 1  # watermarks grow with the sequence
    while low < high:
        middle = (low + high) // 2
        if read_manifest(vault, view, sequences[middle]).watermark >= as_of:
            high = middle
        else:
            low = middle + 1
    return read_manifest(vault, view, sequences[low]), watermark
