"""What an online store holds, read back whole and compared with the offline truth, by digest."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING

from understudy.errors import Corrupt, NotReady
from understudy.features.digest import partition_digest, root_digest
from understudy.features.manifest import manifest_behind
from understudy.features.plan import changed_partitions, clock_time, compare_cells, counted, in_utc, name_first
from understudy.features.spill import Spill
from understudy.features.truth import fetch_truth, scratch, summarize
from understudy.report import Progress, Report, quiet

if TYPE_CHECKING:
    from pathlib import Path

    from understudy.features.interface import Cell, OnlineStore
    from understudy.vault.store import Vault

_BATCH_CELLS = 1_000


def verify(
    vault: Vault, target: OnlineStore, *, view: str, as_of: datetime | None = None, progress: Progress = quiet
) -> Report:
    """Read the live table back whole and compare it with the offline truth it claims to hold, by digest.

    Live writes that the vault does not know yet are newer than the truth; they are counted, not held against it.

    Args:
        vault: holds the offline store.
        target: the online store.
        view: the view's name.
        as_of: None: what the live table says of itself; else that moment (UTC when it names no zone).
        progress: told the cells read.

    Raises:
        NotReady: nothing is live, or the vault does not hold what it was filled from.
        Corrupt: it differs; the error names the first differing cells.
    """
    started = time.monotonic()
    as_of = in_utc(as_of)
    pointer = target.pointer()
    if pointer is None:
        message = f"{target.vendor} {target.name} holds nothing yet"
        raise NotReady(message, hint="rebuild it", next_command="understudy features rebuild")
    manifest = manifest_behind(vault, view, pointer)
    if manifest is None or manifest.digest != pointer.manifest:
        message = f"{target.vendor} {target.name} was not filled from the vault {vault.url}"
        raise NotReady(message, hint="rebuild it from there", next_command="understudy features rebuild")
    moment = as_of if as_of is not None else datetime.fromisoformat(pointer.as_of) if pointer.as_of else None
    with scratch() as directory:
        truth = fetch_truth(vault, manifest, manifest.files, moment, directory)
        online = read_back(target, pointer.generation, directory, "online", progress)
        filled = summarize(truth.cells)
        found = {number: partition_digest(cells) for number, cells in online.partitions()}
        newer = 0
        wrong: list[str] = []
        for number in changed_partitions(filled.digests, found):
            difference = compare_cells(
                truth.cells.partition(number), online.partition(number), newer_since_us=pointer.carry_since_us
            )
            newer += len(difference.newer)
            wrong.extend(difference.wrong)
    if wrong:
        message = (
            f"{target.vendor} {target.name}: {len(wrong):,} of {filled.cells:,} cells differ from the offline truth: "
            f"{name_first(wrong)}"
        )
        raise Corrupt(
            message, hint="rebuild it from the vault", next_command=f"understudy features rebuild {view} --full"
        )
    stamp = pointer.as_of or pointer.watermark or manifest.watermark.isoformat()
    extra = f" but for {counted(newer, 'newer live write')}" if newer else ""
    return Report(
        noun="features",
        name=view,
        verdict="unchanged",
        sentence=(
            f"{view}: {counted(filled.cells, 'cell')} of {counted(filled.entities, 'entity', 'entities')} "
            f"in {target.vendor} "
            f"as of {clock_time(stamp)}; digest equal{extra}"
        ),
        items_total=filled.cells,
        seconds=time.monotonic() - started,
        watermark=datetime.fromisoformat(pointer.watermark) if pointer.watermark else manifest.watermark,
        version=str(pointer.sequence),
        proven="digest",
        details={
            "digest": root_digest(filled.digests),
            "entities": filled.entities,
            "tombstones": filled.tombstones,
            "newer": newer,
            "generation": pointer.generation,
        },
    )


def read_back(target: OnlineStore, generation: int, directory: Path, name: str, progress: Progress) -> Spill:
    """Read all cells of a table into files ``<name>-...`` in a directory that the caller removes."""
    spill = Spill(directory, name)
    batch: list[Cell] = []
    for cell in target.scan(generation):
        batch.append(cell)
        if len(batch) >= _BATCH_CELLS:
            spill.add(batch)
            batch.clear()
            progress(f"{target.name} read back", spill.added, None, "cells")
    spill.add(batch)
    return spill
