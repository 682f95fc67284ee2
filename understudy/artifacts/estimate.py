"""What a restore reads from the vault, before it is begun: every frame once, and those that frames are decoded from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from understudy.errors import Corrupt
from understudy.report import human_bytes, human_seconds
from understudy.vault.chunks import Chunk
from understudy.vault.reading import chain_of

if TYPE_CHECKING:
    from understudy.artifacts.manifest import ArtifactManifest
    from understudy.vault.chunks import Location
    from understudy.vault.index import ChunkIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreCost:
    """What restoring one version takes.

    Attributes:
        size: plain bytes of its files.
        own: coded bytes of its own chunks, each once.
        bases: coded bytes of what these are decoded from and that is not its own.
        chunks: how many distinct chunks it has.
        packs: how many packs are read from.
        missing: chunks that no pack has: the restore would stop there.
        rate: plain bytes a second of the last restore that was measured; None before the first.
    """

    size: int
    own: int
    bases: int
    chunks: int
    packs: int
    missing: int = 0
    rate: float | None = None

    @property
    def bytes_read(self) -> int:
        """Bytes read from the vault."""
        return self.own + self.bases

    @property
    def seconds(self) -> float | None:
        """Seconds at the rate of the last restore; None before the first."""
        return self.size / self.rate if self.rate else None

    @property
    def sentence(self) -> str:
        """As a person reads it."""
        bases = f", {human_bytes(self.bases)} of them to decode others" if self.bases else ""
        took = f", about {human_seconds(self.seconds)} as the last one went" if self.seconds is not None else ""
        lost = f"; {self.missing} of {self.chunks} chunks are in no pack: it would fail" if self.missing else ""
        return f"restore: reads {human_bytes(self.bytes_read)}{bases} from {self.packs} packs{took}{lost}"

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self) | {"bytes_read": self.bytes_read, "seconds": self.seconds}


def restore_cost(index: ChunkIndex, manifest: ArtifactManifest, *, rate: float | None = None) -> RestoreCost:
    """Return what restoring a version reads, by the index alone; nothing of a pack is read.

    Args:
        index: of the vault.
        manifest: of the version.
        rate: plain bytes a second of the last restore; None where none was measured.
    """
    chunks = {Chunk(bytes.fromhex(name), length) for file in manifest.files for name, length in file.chunks}
    own: dict[tuple[str, int], Location] = {}
    bases: dict[tuple[str, int], Location] = {}
    missing = 0
    for chunk in chunks:
        place = index.find(chunk.id)
        if place is None:
            missing += 1
            continue
        try:
            chain = chain_of(index, place, manifest.model)
        except Corrupt:
            missing += 1
            continue
        own[place.pack, place.offset] = place
        bases |= {(base.pack, base.offset): base for base in chain[1:]}
    for key in own:
        bases.pop(key, None)
    return RestoreCost(
        size=manifest.size,
        own=sum(place.length for place in own.values()),
        bases=sum(place.length for place in bases.values()),
        chunks=len(chunks),
        packs=len({pack for pack, _ in (*own, *bases)}),
        missing=missing,
        rate=rate,
    )
