"""``features/<view>/<sequence>.json``: what of the offline store is in the vault, and through which moment."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from understudy.errors import Corrupt, NotFound, NotReady
from understudy.vault.pointers import watermark_key
from understudy.vault.store import numbered, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from understudy.features.interface import Pointer
    from understudy.vault.store import Vault


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
            _check_shape(manifest)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            message = "a manifest of the offline features cannot be read"
            raise Corrupt(message, hint="restore it from the bucket's own versions, or replicate again") from error
        if written != manifest.digest:
            message = f"features/{manifest.view}/{numbered(manifest.sequence)}.json does not fit its own digest"
            raise Corrupt(message, hint="restore it from the bucket's own versions, or replicate again")
        return manifest


def _check_shape(manifest: OfflineManifest) -> None:
    """Refuse values of another kind than they should be. Raises ValueError."""
    texts = [manifest.view, *manifest.vanished, *manifest.schema.keys(), *manifest.schema.values()]
    texts += [text for file in manifest.files for text in (file.key, file.stored, file.blake3, file.token)]
    counts = [manifest.sequence, *(count for file in manifest.files for count in (file.size, file.rows))]
    if not all(isinstance(text, str) for text in texts) or not all(type(n) is int and n >= 0 for n in counts):
        message = "something in it is neither text nor a count"
        raise ValueError(message)
    paths = [path for file in manifest.files for path in (file.key, file.stored)]
    if any("\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")) for path in paths):
        message = "it names a file outside of its view"
        raise ValueError(message)
    if manifest.watermark.tzinfo is None:
        message = "its watermark has no zone"
        raise ValueError(message)


def schema_digest(schema: Mapping[str, str]) -> str:
    """Return the hex BLAKE3 over a schema's deterministic JSON."""
    return blake3(to_json(dict(schema))).hexdigest()


def manifests_prefix(view: str) -> str:
    """Return where a view's manifests stand in the vault."""
    return f"features/{view}/"


def data_prefix(view: str) -> str:
    """Return where a view's files stand in the vault."""
    return f"offline/{view}/"


def read_manifest(vault: Vault, view: str, sequence: int) -> OfflineManifest:
    """Return one manifest. Raises NotFound, Corrupt."""
    key = f"{manifests_prefix(view)}{numbered(sequence)}.json"
    manifest = OfflineManifest.from_json(vault.read_json(key))
    if (manifest.view, manifest.sequence) != (view, sequence):
        message = f"{key} in {vault.url} says that it is sequence {manifest.sequence} of {manifest.view}"
        raise Corrupt(message, hint="restore it from the bucket's own versions, or replicate again")
    return manifest


def newest_manifest(vault: Vault, view: str) -> OfflineManifest | None:
    """Return the newest manifest, None before the first replication. Raises Corrupt."""
    sequence = vault.latest(manifests_prefix(view))
    return read_manifest(vault, view, sequence) if sequence else None


def manifest_behind(vault: Vault, view: str, pointer: Pointer | None) -> OfflineManifest | None:
    """Return the manifest that a live table says it was filled from, None when that is unknown. Raises Corrupt."""
    if pointer is None or not pointer.sequence:
        return None
    with suppress(NotFound):
        return read_manifest(vault, view, pointer.sequence)
    return None


def watermark_now(vault: Vault, manifest: OfflineManifest) -> datetime:
    """Return the watermark of the newest manifest: its own, or a later one that the pointer carries for it."""
    key = watermark_key("feature_store", manifest.view)
    pointer = vault.pointer(key)
    if pointer is None:
        return manifest.watermark
    try:
        if pointer["sequence"] >= manifest.sequence and pointer["view"] == manifest.view:
            return max(manifest.watermark, datetime.fromisoformat(pointer["watermark"]))
    except (KeyError, TypeError, ValueError) as error:
        message = f"{key} in {vault.url} cannot be read"
        raise Corrupt(message, hint="remove it; the next replication writes it again") from error
    return manifest.watermark


def advance_pointer(vault: Vault, manifest: OfflineManifest, watermark: datetime) -> datetime:
    """Carry the watermark on by compare-and-set, never back, and return the one that stands then.

    Raises Conflict, Corrupt.
    """
    entry = {"view": manifest.view, "sequence": manifest.sequence, "watermark": watermark.isoformat()}

    def forward(found: Any) -> Any:  # noqa: ANN401 - any JSON value
        try:
            stands = int(found["sequence"]), datetime.fromisoformat(found["watermark"])
        except (KeyError, TypeError, ValueError):
            return entry  # there is none, or it cannot be read: written anew
        return found if stands >= (manifest.sequence, watermark) else entry

    standing = vault.move_pointer(watermark_key("feature_store", manifest.view), forward)
    if int(standing["sequence"]) != manifest.sequence:
        return watermark
    return max(manifest.watermark, datetime.fromisoformat(standing["watermark"]))


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
