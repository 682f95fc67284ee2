"""The truth about a view from the vault's offline store: its files fetched and checked, the newest cells read."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from blake3 import blake3

from understudy.errors import Corrupt, NotFound
from understudy.features.digest import partition_digest
from understudy.features.interface import micros
from understudy.features.manifest import data_prefix, manifest_for
from understudy.features.offline import LocalFile, Truth, read_truth
from understudy.features.plan import EVENT_AHEAD_MAX, in_utc
from understudy.objects.parts import pieces
from understudy.threads import ThreadPool
from understudy.vault.lanes import each

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from understudy.features.interface import Cell
    from understudy.features.manifest import FileEntry, OfflineManifest
    from understudy.features.spill import Spill
    from understudy.vault.store import Vault

_LANES = 8


@dataclass(frozen=True, slots=True)
class Filled:
    """What a truth amounts to: partition digests, values, entities that have one, tombstones."""

    digests: dict[int, str]
    cells: int
    entities: int
    tombstones: int


def read_offline(vault: Vault, *, view: str, as_of: datetime | None = None) -> list[Cell]:
    """Return the truth itself, sorted by (entity, feature), tombstones included: for proofs and small views.

    An ``as_of`` without a zone is UTC. Raises NotReady, Corrupt.
    """
    as_of = in_utc(as_of)
    manifest, _ = manifest_for(vault, view, as_of)
    with scratch() as directory:
        truth = fetch_truth(vault, manifest, manifest.files, as_of, directory)
        return sorted(cell for _, cells in truth.cells.partitions() for cell in cells)


def fetch_truth(
    vault: Vault, manifest: OfflineManifest, files: Sequence[FileEntry], as_of: datetime | None, directory: Path
) -> Truth:
    """Fetch files of a manifest and read the newest cells from them. The limit on the future is the manifest's own.

    Args:
        vault: holds the files.
        manifest: they belong to.
        files: all of the manifest's, or those that were added.
        as_of: None takes all; a moment (aware) takes what was known then.
        directory: scratch space on disk, kept while the truth is read.

    Raises:
        Corrupt: a file is missing, damaged, or does not read.
    """
    local = _fetch(vault, manifest.view, files, directory)
    return read_truth(
        local,
        directory,
        as_of_us=micros(as_of) if as_of is not None else None,
        event_us_max=micros(manifest.watermark + EVENT_AHEAD_MAX),
    )


def summarize(cells: Spill) -> Filled:
    """Read all partitions once and return what they amount to."""
    digests: dict[int, str] = {}
    values = entities = tombstones = 0
    for number, partition in cells.partitions():
        digests[number] = partition_digest(partition)
        alive = [cell for cell in partition if cell.value is not None]
        values += len(alive)
        tombstones += len(partition) - len(alive)
        entities += len({cell.entity for cell in alive})
    return Filled(digests, values, entities, tombstones)


@contextmanager
def scratch() -> Iterator[Path]:
    """Make a directory on disk that is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="understudy-") as directory:
        yield Path(directory)


def _fetch(vault: Vault, view: str, files: Sequence[FileEntry], directory: Path) -> list[LocalFile]:
    """Copy files of the vault to disk, checking length and BLAKE3. Raises Corrupt with the file's name."""

    def fetch(number: int, file: FileEntry) -> LocalFile:
        key = f"{data_prefix(view)}{file.stored}"
        path = directory / f"{number:08d}.parquet"
        hasher = blake3()
        try:
            with path.open("wb") as out:
                for piece in pieces(vault.store, key, file.size):
                    hasher.update(piece)
                    out.write(piece)
        except NotFound as error:
            message = f"{key} is missing from the vault {vault.url}"
            raise Corrupt(message, hint="replicate the offline store again: what is missing is sent again") from error
        if hasher.hexdigest() != file.blake3:
            message = f"{key} in the vault {vault.url} is damaged: its BLAKE3 is not the manifest's"
            raise Corrupt(message, hint="remove it and replicate the offline store again")
        return LocalFile(file.key, path)

    with ThreadPool(_LANES) as pool:
        jobs = (partial(fetch, number, file) for number, file in enumerate(files))
        return list(each(pool, jobs, ahead=_LANES * 2))
