"""What a restore reads from the vault, before it is begun: every frame once, and those that frames are decoded from."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from understudy.errors import Corrupt, NotFound
from understudy.report import human_bytes, human_seconds
from understudy.threads import ThreadPool
from understudy.vault.chunks import Chunk
from understudy.vault.packs import pack_key
from understudy.vault.reading import chain_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from understudy.artifacts.manifest import ArtifactManifest
    from understudy.objects.interface import ObjectInfo
    from understudy.vault.chunks import Location
    from understudy.vault.index import ChunkIndex
    from understudy.vault.store import Vault

_READERS = 8
#: Hours in which what is archived can usually be read, asked for in the standard way:
#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/restoring-objects-retrieval-options.html
_HOURS = {"GLACIER": 5, "DEEP_ARCHIVE": 12}
_HOURS_MAX = 48


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
        cold_packs: of the packs, those in colder storage, which is read at once and costs more to read.
        cold_bytes: what is read from these.
        frozen_packs: those that have to be brought back before they can be read; only a rule of the bucket puts one
            there.
        frozen_bytes: what is read from these.
        frozen_hours: how long that usually takes at most; 0 where there are none.
    """

    size: int
    own: int
    bases: int
    chunks: int
    packs: int
    missing: int = 0
    rate: float | None = None
    cold_packs: int = 0
    cold_bytes: int = 0
    frozen_packs: int = 0
    frozen_bytes: int = 0
    frozen_hours: int = 0
    by_pack: Mapping[str, int] = field(default_factory=dict, repr=False)

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
        cold = f"; {human_bytes(self.cold_bytes)} from {self.cold_packs} cold packs, at once" if self.cold_packs else ""
        if self.frozen_packs:
            cold += (
                f"; {self.frozen_packs} packs ({human_bytes(self.frozen_bytes)}) are archived: restore them first, "
                f"which takes up to {self.frozen_hours} hours"
            )
        return f"restore: reads {human_bytes(self.bytes_read)}{bases} from {self.packs} packs{took}{cold}{lost}"

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        value = asdict(self) | {"bytes_read": self.bytes_read, "seconds": self.seconds}
        del value["by_pack"]
        return value


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
    by_pack: Counter[str] = Counter()
    for place in (*own.values(), *bases.values()):
        by_pack[place.pack] += place.length
    return RestoreCost(
        size=manifest.size,
        own=sum(place.length for place in own.values()),
        bases=sum(place.length for place in bases.values()),
        chunks=len(chunks),
        packs=len(by_pack),
        missing=missing,
        rate=rate,
        by_pack=by_pack,
    )


def look_at_packs(vault: Vault, cost: RestoreCost) -> RestoreCost:
    """Return the cost with what lies in colder storage, by one question for each pack. Raises Transient, Denied."""

    def described(name: str) -> ObjectInfo | None:
        try:
            return vault.store.head(pack_key(name))
        except (NotFound, Corrupt):  # what is missing, and what is damaged, verify says
            return None

    if not cost.by_pack:
        return cost
    with ThreadPool(_READERS, thread_name_prefix="packs") as pool:
        found = dict(zip(cost.by_pack, pool.map(described, cost.by_pack), strict=True))
    cold = [name for name, info in found.items() if info is not None and info.tier == "cold"]
    frozen = {name: info.storage_class for name, info in found.items() if info is not None and info.tier == "frozen"}
    return replace(
        cost,
        cold_packs=len(cold),
        cold_bytes=sum(cost.by_pack[name] for name in cold),
        frozen_packs=len(frozen),
        frozen_bytes=sum(cost.by_pack[name] for name in frozen),
        frozen_hours=max((_HOURS.get(kept, _HOURS_MAX) for kept in frozen.values()), default=0),
    )
