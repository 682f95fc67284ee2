"""Read an index back, row by row, and compare it with what the vault says of it."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from understudy.errors import Corrupt, NotReady
from understudy.report import Report, human_seconds, quiet
from understudy.threads import ThreadPool
from understudy.vault.lanes import each
from understudy.vectors import manifest as manifests
from understudy.vectors.digest import bucket_digest
from understudy.vectors.labels import Rebuilt, worth_telling
from understudy.vectors.plan import Part, changed_buckets
from understudy.vectors.spill import SLICES, Buckets

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from understudy.report import Progress
    from understudy.vault.store import Vault
    from understudy.vectors.interface import Snapshot, VectorStore
    from understudy.vectors.manifest import Manifest


def verify(vault: Vault, target: VectorStore, *, index: str, progress: Progress = quiet) -> Report:
    """Read all rows that the target serves and compare with the sequence that it says it serves.

    Raises:
        Corrupt: rows or definition differ; the sentence says where.
        NotReady: the target was never rebuilt from this vault.
        NotFound: there is nothing to compare.
    """
    started = time.monotonic()
    served = target.describe()
    rebuilt = Rebuilt.read(served.labels)
    sequence = rebuilt.sequence
    if not isinstance(sequence, int):
        message = f"{index} at {target.url} was not rebuilt from a vault"
        raise NotReady(message, hint="rebuild it", next_command=f"understudy vectors rebuild {index}")
    manifest = manifests.read(vault, index, sequence)
    if rebuilt.digest != manifest.digest:
        message = f"{index} at {target.url} carries another digest than sequence {sequence} of the vault"
        raise Corrupt(message, hint="rebuild it", next_command=f"understudy vectors rebuild {index} --full")
    prove(target.snapshot, manifest, progress, f"{index} at {target.url}")
    if served.schema.definition() != manifest.schema.definition():
        message = f"{index} at {target.url} has other columns or indexes than sequence {sequence} of the vault"
        raise Corrupt(message, hint="rebuild it", next_command=f"understudy vectors rebuild {index} --full")
    seconds = time.monotonic() - started
    return Report(
        noun="vectors",
        name=index,
        verdict="unchanged",
        sentence=(
            f"{index}: {manifest.rows:,} rows equal to sequence {sequence} by digest {manifest.digest[:4]}..., "
            f"in {human_seconds(seconds)}"
        ),
        items_total=manifest.rows,
        seconds=seconds,
        watermark=manifests.watermark_now(vault, manifest),
        version=str(sequence),
        proven="digest",
        details={"sequence": sequence, "digest": manifest.digest, **worth_telling(served.labels)},
    )


def prove(
    snapshot: Callable[[int], AbstractContextManager[Snapshot]], manifest: Manifest, progress: Progress, what: str
) -> None:
    """Read every row back and compare bucket by bucket.

    Args:
        snapshot: fixes one state, in up to so many slices.
        manifest: what should be there.
        progress: told about rows read.
        what: is read, for the error.

    Raises:
        Corrupt: columns or rows differ; it names how much.
    """
    with snapshot(SLICES) as taken:
        if taken.description.schema.layout() != manifest.schema.layout():
            message = f"{what} has other columns than sequence {manifest.sequence} of the vault"
            raise Corrupt(message, hint="rebuild it")
        with Buckets(manifest.schema, manifest.buckets) as buckets:
            buckets.read(taken, progress, f"{manifest.index}: read back")

            def digest(number: int) -> Part:
                rows = buckets.take(number)
                return Part(number, rows.num_rows, bucket_digest(manifest.schema, rows))

            with ThreadPool(SLICES, thread_name_prefix="vectors") as pool:
                found = list(each(pool, (partial(digest, number) for number in buckets.numbers()), ahead=SLICES * 2))
    differing = changed_buckets(manifest.parts, found)
    if differing:
        rows = sum(part.rows for part in found)
        message = (
            f"{what} differs from sequence {manifest.sequence} of the vault in {len(differing)} of "
            f"{len(manifest.parts)} buckets ({rows:,} rows, {manifest.rows:,} expected)"
        )
        raise Corrupt(message, hint="rebuild it; what serves was not touched by this check")
