"""Work of a push that other processes can do: whole models, and parts of one large version.

Whoever coordinates lists, checks and records; workers read, code and send. Each opens its own stores, so that what
passes between them is names and digests, never bytes of files. A part is some seconds of work, a shard or a set of
small files, never a chunk. A version is recorded once, by the coordinator, after all its parts are in the index.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from understudy.artifacts.pinning import Changed
from understudy.artifacts.plan import plan, versions_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from understudy.artifacts.catalog import Shelf
    from understudy.artifacts.manifest import ArtifactFile
    from understudy.artifacts.plan import Planned
    from understudy.artifacts.sending import Coded
    from understudy.objects.interface import ObjectStore
    from understudy.report import Report
    from understudy.vault.store import Vault

T = TypeVar("T")

#: Plain bytes of one part: some ten seconds of one core. A single file may be longer, for it is hashed end to end.
PART_BYTES = 2 << 30
#: Files of one part: each is a request or two.
PART_FILES_MAX = 5_000


@dataclass(frozen=True, slots=True)
class Part:
    """Some files of one version, to be sent as they were listed.

    Attributes:
        model: its name.
        version: of the model.
        files: (path, token, bytes) of each.
        accept: whether files that lie about what they hold are taken as plain bytes.
    """

    model: str
    version: str
    files: tuple[tuple[str, str, int], ...]
    accept: bool = False

    @property
    def size(self) -> int:
        """Plain bytes of its files."""
        return sum(size for _, _, size in self.files)


@dataclass(frozen=True, slots=True)
class PartSent:
    """What came of sending a part.

    Attributes:
        files: as the manifest will have them; none when ``changed`` is set.
        new: paths of those that had a new chunk.
        bytes_sent: packs and index.
        bytes_read: of the source.
        changed: the file that was no longer what was listed; empty when all were.
        coded: by coder, what it made of what was new.
        pace: how hard it was coded, and from which figures; empty where the link was not measured.
    """

    files: tuple[ArtifactFile, ...] = ()
    new: frozenset[str] = frozenset()
    bytes_sent: int = 0
    bytes_read: int = 0
    changed: str = ""
    coded: Mapping[str, Coded] = field(default_factory=dict)
    pace: str = ""


class Workers(Protocol):
    """Where work is done: each method returns when all of it is, and raises what a worker raised."""

    def push_models(self, groups: Sequence[tuple[str, ...]]) -> Iterable[list[Report]]:
        """Push each of these groups of models whole, as ``replicate.push`` does."""

    def send_parts(self, parts: Sequence[Part]) -> Sequence[PartSent]:
        """Send each of these parts, as ``send_part`` does, and return what came of them in their order."""


def parts_of(planned: Planned, *, accept: bool, bytes_max: int = PART_BYTES) -> list[Part]:
    """Cut the fresh files of a version into parts, in the order of their paths. Pure."""
    rows = [(file.path, file.info.token, file.info.size) for file in planned.fresh]
    source = planned.source
    return [
        Part(source.model, source.version, tuple(part), accept)
        for part in _filled(((row, row[2]) for row in rows), bytes_max=bytes_max, count_max=PART_FILES_MAX)
    ]


def groups_of(sizes: Sequence[tuple[str, int, int]], *, bytes_max: int = PART_BYTES) -> list[tuple[str, ...]]:
    """Put small models together until they are a part's worth of work. Pure.

    Args:
        sizes: (name, bytes to read, files to read) of each model.
        bytes_max: of one group.
    """
    weighed = ((name, size + files * (bytes_max // PART_FILES_MAX)) for name, size, files in sizes)
    return [tuple(group) for group in _filled(weighed, bytes_max=bytes_max, count_max=PART_FILES_MAX)]


def _filled(rows: Iterable[tuple[T, int]], *, bytes_max: int, count_max: int) -> Iterator[list[T]]:
    part: list[T] = []
    total = 0
    for row, size in rows:
        if part and (total + size > bytes_max or len(part) >= count_max):
            yield part
            part, total = [], 0
        part.append(row)
        total += size
    if part:
        yield part


def send_part(source: ObjectStore, vault: Vault, shelf: Shelf, part: Part) -> PartSent:
    """Read a part's files, add their chunks to the vault, and put them into its index; nothing becomes visible.

    A run that is killed leaves packs that the next one adopts; run again it sends only what is missing.
    """
    from understudy.artifacts.sending import Sender
    from understudy.vault.writing import ChunkWriter

    listed = versions_in(source.list(f"{part.model}/{part.version}/"), part.model)
    if not listed:
        return PartSent(changed=part.files[0][0])
    last = shelf.newest(part.model, part.version)
    whole = plan(listed[0], last, shelf.parent(part.model, part.version) if last is None else None)
    wanted = {path: (token, size) for path, token, size in part.files}
    fresh = tuple(file for file in whole.source.files if wanted.get(file.path) == (file.info.token, file.info.size))
    if len(fresh) != len(wanted):
        return PartSent(changed=min(wanted.keys() - {file.path for file in fresh}))
    with ChunkWriter(vault) as writer, Sender(source, writer) as sender:
        try:
            sent = sender.send(replace(whole, fresh=fresh, known=()), _unseen, accept=part.accept, checked=True)
        except Changed as changed:
            return PartSent(changed=str(changed))
        writer.commit()
        return PartSent(sent.files, sent.new, writer.bytes_sent, sender.bytes_read, coded=sent.coded, pace=sent.pace)


def _unseen(_count: int) -> None:
    """Bytes are counted by parts, not within one."""
