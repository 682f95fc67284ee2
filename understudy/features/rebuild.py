"""The online store from the vault's offline store: filled fresh or caught up, proven by reading it back, then live."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from understudy.errors import Corrupt, NotFound, UnderstudyError
from understudy.features.digest import PARTITIONS, chain_digest, partition_digest, root_digest
from understudy.features.interface import Pointer, micros, version_of
from understudy.features.manifest import OfflineManifest, manifest_behind, manifest_for
from understudy.features.plan import (
    catch_up_is_cheaper,
    changed_partitions,
    check_deletions,
    clock_time,
    compare_cells,
    counted,
    in_utc,
    name_first,
    plan_rebuild,
)
from understudy.features.truth import Filled, fetch_truth, scratch, summarize
from understudy.features.verify import read_back
from understudy.report import Progress, Report, human_seconds, quiet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from understudy.features.interface import Cell, OnlineStore
    from understudy.features.manifest import FileEntry
    from understudy.features.offline import Truth
    from understudy.vault.store import Vault

logger = logging.getLogger("understudy.features")

#: A live write is stamped before it is acknowledged: so much earlier than the watermark it may still be unreplicated.
STAMPED_AHEAD_MAX = timedelta(seconds=60)
_CARRY_CELLS = 1_000
_KEPT_GENERATIONS = 2


def rebuild(
    vault: Vault,
    target: OnlineStore,
    *,
    view: str,
    as_of: datetime | None = None,
    deletes_max: int = 100,
    full: bool = False,
    progress: Progress = quiet,
) -> Report:
    """Bring an online store to what the vault knows of a view.

    When only files were added since the live table was filled, what they brought is written onto it, newest wins, and
    these cells are read back (catch-up). Else a fresh table is filled, read back whole and compared by digest, given
    the live writes that the vault does not know yet, and made live by compare-and-set; the table that was live before
    is kept, older ones are dropped. Killed anywhere, the old table goes on serving or the new one does, and the next
    run completes.

    Args:
        vault: holds the offline store.
        target: the online store.
        view: the view's name.
        as_of: None takes all that is replicated; a moment (UTC when it names no zone) takes what was known then: rows
            whose event and created times are not later. Live writes that began after the start of this run are
            carried over.
        deletes_max: how many values may vanish online without a tombstone in the offline store; those with one were
            deleted on purpose and are not counted.
        full: fill a fresh table even when that is not needed.
        progress: told the cells written and read back.

    Returns:
        ``proven`` is ``digest`` only when the whole table was compared; after a catch-up it is ``12 cells read back``.

    Raises:
        NotReady: nothing was replicated yet, or not through ``as_of``.
        Refused: more values than ``deletes_max`` would vanish; the live table was not touched.
        Corrupt: a file of the vault, or what the online store gave back, is not what it has to be.
        Conflict: another rebuild of this store was quicker.
    """
    started = time.monotonic()
    as_of = in_utc(as_of)
    # Of an explicit as_of, what the live table got before this run is meant to be undone.
    carry_since = micros(datetime.now(UTC)) if as_of is not None else 0
    manifest, watermark = manifest_for(vault, view, as_of)
    if as_of is None:
        carry_since = micros(watermark - STAMPED_AHEAD_MAX)
    pointer = target.pointer()
    generations = target.generations() if pointer else []
    live = pointer is not None and pointer.generation in generations
    plan = plan_rebuild(pointer, manifest, manifest_behind(vault, view, pointer), live_exists=live, as_of=_iso(as_of))
    logger.info("%s: %s (%s)", view, plan.action, plan.reason)
    run = _Run(
        vault=vault,
        target=target,
        manifest=manifest,
        watermark=watermark,
        as_of=as_of,
        carry_since_us=carry_since,
        deletes_max=deletes_max,
        started=started,
        progress=progress,
    )
    if pointer is not None and live:
        pointer = run.finish(pointer)  # of a run that was stopped after its swap
        if plan.action == "nothing" and not full:
            return run.unchanged(pointer)
        if plan.action == "catch_up" and not full:
            report = run.catch_up(pointer, plan.added)
            if report is not None:
                return report
    return run.full(pointer if live else None, pointer)


def preview(
    vault: Vault,
    target: OnlineStore,
    *,
    view: str,
    as_of: datetime | None = None,
    deletes_max: int = 100,
    full: bool = False,
) -> Report:
    """Say what ``rebuild`` would do and why, and change nothing. Raises NotReady, Corrupt.

    Which values would vanish is known only when a fresh table is compared with the live one: where that could refuse
    the run, the sentence says so.
    """
    as_of = in_utc(as_of)
    manifest, watermark = manifest_for(vault, view, as_of)
    pointer = target.pointer()
    live = pointer is not None and pointer.generation in target.generations()
    plan = plan_rebuild(pointer, manifest, manifest_behind(vault, view, pointer), live_exists=live, as_of=_iso(as_of))
    action, reason = plan.action, plan.reason
    if full and live and action != "full":
        action, reason = "full", "a full rebuild was asked for"
    ways = {"nothing": "unchanged", "catch_up": "the live table is caught up", "full": "a fresh table is filled"}
    return Report(
        noun="features",
        name=view,
        verdict="unchanged" if action == "nothing" else "changed",
        sentence=(
            f"{view}: {ways[action]}, for {reason}; sequence {manifest.sequence}, watermark {_iso(watermark)}"
            f"{_unknown(action, pointer if live else None, deletes_max)}"
        ),
        items_total=sum(file.rows for file in manifest.files),
        items_new=sum(file.rows for file in plan.added) if action == "catch_up" else 0,
        watermark=watermark,
        version=str(manifest.sequence),
        details={"action": action, "reason": reason},
    )


def _unknown(action: str, live: Pointer | None, deletes_max: int) -> str:
    """Return what only the run itself finds out; nothing where it cannot refuse."""
    if action == "nothing" or live is None or live.cells <= deletes_max:
        return ""
    when = "refused" if action == "full" else "if that costs more than a fresh table, one is filled, and refused"
    return f"; {when} if more than {deletes_max:,} values would vanish without a tombstone"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One rebuild under way."""

    vault: Vault
    target: OnlineStore
    manifest: OfflineManifest
    watermark: datetime
    as_of: datetime | None
    carry_since_us: int
    deletes_max: int
    started: float
    progress: Progress

    @property
    def name(self) -> str:
        return self.manifest.view

    def full(self, blue: Pointer | None, expected: Pointer | None) -> Report:
        """Fill a fresh table, prove it, make it live. ``blue`` is what is live, if its table is there."""
        generations = self.target.generations()
        for unfinished in generations:  # of a run that was killed before its swap
            if unfinished > (expected.generation if expected else 0):
                self.target.drop_generation(unfinished)
        green = max([*generations, expected.generation if expected else 0], default=0) + 1
        with scratch() as directory:
            truth = fetch_truth(self.vault, self.manifest, self.manifest.files, self.as_of, directory)
            self.target.create_generation(green)
            try:
                filled = self._fill(green, truth, directory)
                carried = self._carry_before(blue, green, truth, directory) if blue else 0
            except UnderstudyError:
                with suppress(UnderstudyError):
                    self.target.drop_generation(green)
                raise
        pointer = Pointer(
            revision=expected.revision + 1 if expected else 1,
            generation=green,
            sequence=self.manifest.sequence,
            manifest=self.manifest.digest,
            as_of=_iso(self.as_of),
            watermark=self.watermark.isoformat(),
            digest=root_digest(filled.digests),
            cells=filled.cells,
            set_aside=truth.set_aside,
            set_aside_from_us=truth.set_aside_from_us,
            carry_from=blue.generation if blue else None,
            carry_since_us=self.carry_since_us,
        )
        self.target.move_pointer(pointer, expected=expected)
        if blue:
            pointer = self.finish(pointer)
        self._drop_old(pointer)
        return self._report(
            f"{counted(filled.cells, 'cell')} of {counted(filled.entities, 'entity', 'entities')} rebuilt into",
            pointer,
            proof="digest equal",
            proven="digest",
            items_total=filled.cells,
            items_new=filled.cells,
            details={
                "mode": "full",
                "entities": filled.entities,
                "tombstones": filled.tombstones,
                "carried": carried,
            },
        )

    def _fill(self, green: int, truth: Truth, directory: Path) -> Filled:
        """Write the truth, then read it back and compare partition by partition."""
        written = summarize(truth.cells)
        cells = (cell for _, partition in truth.cells.partitions() for cell in partition)
        self.target.fill(green, cells, progress=self.progress)
        online = read_back(self.target, green, directory, "green", self.progress)
        found = {number: partition_digest(partition) for number, partition in online.partitions()}
        wrong: list[str] = []
        for number in changed_partitions(written.digests, found):
            wrong.extend(
                compare_cells(truth.cells.partition(number), online.partition(number), newer_since_us=1 << 62).wrong
            )
        if wrong or found != written.digests:
            message = (
                f"{self.target.vendor} {self.target.name} gave back other cells than were written: {name_first(wrong)}"
            )
            raise Corrupt(message, hint="run again; the live table was not touched")
        return written

    def _carry_before(self, blue: Pointer, green: int, truth: Truth, directory: Path) -> int:
        """Count what would vanish, and give green the live writes that the truth does not know."""
        online = read_back(self.target, blue.generation, directory, "blue", self.progress)
        carried: list[Cell] = []
        count = dropped = 0
        for number in range(PARTITIONS):
            if cells := online.partition(number):
                difference = compare_cells(truth.cells.partition(number), cells, newer_since_us=self.carry_since_us)
                carried.extend(difference.newer)
                dropped += len(difference.dropped)
        check_deletions(f"{self.target.vendor} {self.target.name}", dropped, self.deletes_max)
        for start in range(0, len(carried), _CARRY_CELLS):
            count += self.target.write_newer(green, carried[start : start + _CARRY_CELLS])
        return count

    def finish(self, pointer: Pointer) -> Pointer:
        """After a swap: bring over what was written to the old table until the swap, then say that it is done."""
        if pointer.carry_from is None:
            return pointer
        late: list[Cell] = []
        with suppress(NotFound):  # it was dropped by hand: nothing is left to bring over
            for cell in self.target.scan(pointer.carry_from):
                if cell.created_us >= pointer.carry_since_us:
                    late.append(cell)
                if len(late) >= _CARRY_CELLS:
                    self._carry_late(pointer, late)
                    late = []
            self._carry_late(pointer, late)
        done = pointer.moved(carry_from=None)
        self.target.move_pointer(done, expected=pointer)
        return done

    def _carry_late(self, pointer: Pointer, late: list[Cell]) -> None:
        if late:
            held = self.target.read_keys(pointer.generation, [cell.key for cell in late])
            newer = [cell for cell in late if cell.key not in held or version_of(held[cell.key]) < version_of(cell)]
            if newer:
                self.target.write_newer(pointer.generation, newer)

    def _drop_old(self, pointer: Pointer) -> None:
        older = [generation for generation in self.target.generations() if generation < pointer.generation]
        for generation in older[: len(older) - (_KEPT_GENERATIONS - 1)]:
            self.target.drop_generation(generation)

    def catch_up(self, pointer: Pointer, added: Sequence[FileEntry]) -> Report | None:
        """Write what the added files brought onto the live table and read it back; None when a full one is better.

        Nothing vanishes by this but what a tombstone of these files takes away, so the limit has nothing to count.
        """
        with scratch() as directory:
            truth = fetch_truth(self.vault, self.manifest, added, None, directory)
            if not catch_up_is_cheaper(truth.cells.added, pointer.cells):
                return None
            cells = [cell for _, partition in truth.cells.partitions() for cell in partition]
        keys = [cell.key for cell in cells]
        before = self.target.read_keys(pointer.generation, keys)
        newer = [cell for cell in cells if cell.key not in before or version_of(before[cell.key]) < version_of(cell)]
        if newer:
            self.target.write_newer(pointer.generation, newer)
            self.progress(self.target.name, len(newer), len(newer), "cells")
        held = self.target.read_keys(pointer.generation, keys)
        # A cell that is newer than the file's is either one more of these files' or a live write.
        wrong = [
            line
            for cell in cells
            if cell.key not in held or version_of(held[cell.key]) <= version_of(cell)
            for line in compare_cells([cell], [held[cell.key]] if cell.key in held else [], newer_since_us=0).wrong
        ]
        if wrong:
            what = f"{self.target.vendor} {self.target.name}"
            message = f"{what} gave back other cells than were written: {name_first(wrong)}"
            raise Corrupt(
                message, hint="rebuild it whole", next_command=f"understudy features rebuild {self.name} --full"
            )
        moved = pointer.moved(
            sequence=self.manifest.sequence,
            manifest=self.manifest.digest,
            watermark=self.watermark.isoformat(),
            digest=chain_digest(pointer.digest, cells),
            set_aside=pointer.set_aside + truth.set_aside,
            set_aside_from_us=_least(pointer, truth),
            carry_since_us=self.carry_since_us,
        )
        self.target.move_pointer(moved, expected=pointer)
        entities = len({cell.entity for cell in cells})
        return self._report(
            f"{counted(len(cells), 'changed cell')} of {counted(entities, 'entity', 'entities')} brought into",
            moved,
            proof=f"{counted(len(cells), 'cell')} read back",
            proven=f"{len(cells):,} cells read back" if cells else "",
            items_total=len(cells),
            items_new=len(newer),
            details={"mode": "catch_up", "entities": entities, "files": len(added)},
        )

    def unchanged(self, pointer: Pointer) -> Report:
        return Report(
            noun="features",
            name=self.name,
            verdict="unchanged",
            sentence=f"{self.name}: unchanged, {self.target.vendor} has all as of {clock_time(self._stamp())}",
            items_total=pointer.cells,
            seconds=time.monotonic() - self.started,
            watermark=self.watermark,
            version=str(pointer.sequence),
            details={"mode": "nothing", "digest": pointer.digest, "generation": pointer.generation},
        )

    def _stamp(self) -> str:
        return _iso(self.as_of) or self.watermark.isoformat()

    def _report(
        self,
        what: str,
        pointer: Pointer,
        *,
        proof: str,
        proven: str,
        items_total: int,
        items_new: int,
        details: dict[str, int | str],
    ) -> Report:
        seconds = time.monotonic() - self.started
        aside = f"; {counted(pointer.set_aside, 'row')} of the far future set aside" if pointer.set_aside else ""
        return Report(
            noun="features",
            name=self.name,
            verdict="changed",
            sentence=(
                f"{self.name}: {what} {self.target.vendor} as of {clock_time(self._stamp())} "
                f"in {human_seconds(seconds)}; {proof}{aside}"
            ),
            items_total=items_total,
            items_new=items_new,
            seconds=seconds,
            watermark=self.watermark,
            version=str(pointer.sequence),
            proven=proven,
            details={
                **details,
                "digest": pointer.digest,
                "generation": pointer.generation,
                "set_aside": pointer.set_aside,
            },
        )


def _least(pointer: Pointer, truth: Truth) -> int:
    """Return the least event time of the rows that are set aside after a catch-up; 0 when there are none."""
    aside = ((pointer.set_aside, pointer.set_aside_from_us), (truth.set_aside, truth.set_aside_from_us))
    return min((least for count, least in aside if count), default=0)


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat() if moment else None
