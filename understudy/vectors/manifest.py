"""``vectors/<index>/<sequence>/manifest.json``: one state of an index, whole or not there at all."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from understudy.errors import Corrupt, NotFound, Unsupported
from understudy.vault.pointers import watermark_key
from understudy.vault.store import numbered, to_json
from understudy.vectors.digest import index_digest
from understudy.vectors.interface import Schema
from understudy.vectors.labels import MODEL_LABELS
from understudy.vectors.plan import Part, is_newer

if TYPE_CHECKING:
    from understudy.vault.store import Vault

FORMAT_VERSION = 1
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What ``vectors/<index>/<sequence>/manifest.json`` says.

    Attributes:
        index: the name of the index.
        sequence: its number, from 1.
        source: URL of where it was exported from, without credentials.
        taken: the source's clock, before which every committed change is in (the watermark of this sequence).
        schema: columns and indexes.
        labels: what the source says about it (``model``, ``model_version``, ``model_digest``).
        buckets: into how many the ids are cut, a power of two.
        parts: those that hold rows, in order.
        digest: proves layout and rows, see ``digest.py``.
    """

    index: str
    sequence: int
    source: str
    taken: datetime
    schema: Schema
    labels: dict[str, Any] = field(default_factory=dict)
    buckets: int
    parts: tuple[Part, ...]
    digest: str

    @property
    def rows(self) -> int:
        """How many rows all parts hold."""
        return sum(part.rows for part in self.parts)

    @property
    def model_digest(self) -> str | None:
        """Digest of the model that made the vectors, where the source says so."""
        found = self.labels.get("model_digest")
        return str(found) if found else None

    @property
    def key(self) -> str:
        """The key of this manifest in the vault."""
        return f"vectors/{self.index}/{numbered(self.sequence)}/manifest.json"

    def data_key(self, part: Part) -> str:
        """Return the key of a part's object."""
        return data_key(self.index, part.digest)

    def encode(self) -> bytes:
        """Return the JSON that is stored."""
        value = {
            "format": FORMAT_VERSION,
            "index": self.index,
            "sequence": self.sequence,
            "source": self.source,
            "taken": self.taken.isoformat(),
            "schema": self.schema.as_json(),
            "labels": self.labels,
            "rows": self.rows,
            "buckets": self.buckets,
            "parts": [asdict(part) for part in self.parts],
            "digest": self.digest,
        }
        return to_json({**value, **{name: self.labels.get(name) for name in MODEL_LABELS}})


def data_key(index: str, digest: str) -> str:
    """Return the key of the bucket with this digest."""
    return f"vectors/{index}/data/{digest}.parquet"


def sequences(vault: Vault, index: str) -> list[int]:
    """Return the sequence numbers of an index in order."""
    return vault.sequences(f"vectors/{index}/")


def read(vault: Vault, index: str, sequence: int) -> Manifest:
    """Read one manifest and check it against its own digest. Raises NotFound, Corrupt, Unsupported."""
    key = f"vectors/{index}/{numbered(sequence)}/manifest.json"
    value = vault.read_json(key)
    try:
        if value["format"] != FORMAT_VERSION:
            message = f"{key} has format {value['format']!r}, this software reads {FORMAT_VERSION}"
            raise Unsupported(message, hint="use the version of understudy that wrote it, or a later one")
        manifest = Manifest(
            index=value["index"],
            sequence=value["sequence"],
            source=value["source"],
            taken=datetime.fromisoformat(value["taken"]),
            schema=Schema.from_json(value["schema"]),
            labels=value["labels"],
            buckets=value["buckets"],
            parts=tuple(Part(**part) for part in value["parts"]),
            digest=value["digest"],
        )
        parts = [(part.bucket, part.rows, part.digest) for part in manifest.parts]
        _check_shape(manifest)
        proven = manifest.digest == index_digest(manifest.schema, manifest.buckets, parts)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        message = f"{key} in {vault.url} is not a vector manifest"
        raise Corrupt(message, hint="rebuild from an earlier sequence, or export again") from error
    if not proven or (manifest.index, manifest.sequence) != (index, sequence):
        message = f"{key} in {vault.url} does not have the digest it states"
        raise Corrupt(message, hint="rebuild from an earlier sequence, or export again")
    return manifest


def _check_shape(manifest: Manifest) -> None:
    """Refuse values of another kind than they should be. Raises ValueError."""
    counts = [manifest.sequence, manifest.buckets]
    counts += [number for part in manifest.parts for number in (part.bucket, part.rows, part.size)]
    digests = [manifest.digest, *(digest for part in manifest.parts for digest in (part.digest, part.sha256))]
    if not all(type(count) is int and count >= 0 for count in counts):
        message = "something in it should be a count"
        raise ValueError(message)
    if not all(isinstance(digest, str) and _HEX.fullmatch(digest) for digest in digests):
        message = "something in it should be a digest"
        raise ValueError(message)
    if not isinstance(manifest.labels, dict) or manifest.taken.tzinfo is None:
        message = "its labels or its moment are none"
        raise ValueError(message)


def newest(vault: Vault, index: str) -> Manifest | None:
    """Return the manifest with the highest sequence, or None when the index was never exported."""
    found = sequences(vault, index)
    return read(vault, index, found[-1]) if found else None


def wanted(vault: Vault, index: str, sequence: int | None) -> Manifest:
    """Return the manifest of a sequence, or the newest one. Raises NotFound with what to do."""
    manifest = read(vault, index, sequence) if sequence is not None else newest(vault, index)
    if manifest is None:
        message = f"the vault {vault.url} holds no vector index {index}"
        raise NotFound(message, hint="export it first", next_command=f"understudy vectors export {index}")
    return manifest


def watermark_now(vault: Vault, manifest: Manifest) -> datetime:
    """Return until when a sequence is known to have been all there was. Raises Corrupt."""
    value = vault.pointer(watermark_key("vector_index", manifest.index))
    if value is not None and (value.get("sequence"), value.get("digest")) == (manifest.sequence, manifest.digest):
        return datetime.fromisoformat(str(value["watermark"]))
    return manifest.taken


def advance_pointer(vault: Vault, manifest: Manifest, watermark: datetime) -> None:
    """Carry the watermark on by compare-and-set, never back. Raises Conflict, Corrupt."""
    entry = {
        "watermark": watermark.isoformat(timespec="microseconds"),
        "sequence": manifest.sequence,
        "digest": manifest.digest,
    }

    def forward(found: dict[str, Any] | None) -> dict[str, Any]:
        if found is not None and not is_newer((manifest.sequence, str(entry["watermark"])), found):
            return found
        return entry

    vault.move_pointer(watermark_key("vector_index", manifest.index), forward)
