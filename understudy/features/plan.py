"""What to copy and what to rebuild, decided from what was seen: data in, data out, no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from understudy.errors import Corrupt, Refused
from understudy.features.interface import micros, version_of
from understudy.features.offline import kind_of
from understudy.report import human_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from understudy.features.interface import Cell, Key, Pointer
    from understudy.features.manifest import FileEntry, OfflineManifest
    from understudy.objects.interface import ObjectInfo

#: A catch-up writes cell by cell; beyond this many cells, and this share of all, a fresh table is quicker.
CATCH_UP_CELLS_MIN = 2_000
CATCH_UP_SHARE_MAX = 0.3
#: Event times later than the watermark by more than this are set aside: they would win for ever.
EVENT_AHEAD_MAX = timedelta(hours=24)
#: An open writer gives a sign of life each second; without one for so long, people are told.
SILENT_AFTER = timedelta(seconds=60)
_NAMED = 3


@dataclass(frozen=True, slots=True)
class WriterState:
    """What a log writer last said of itself.

    Attributes:
        writer: its name.
        flushed_through: every row that it acknowledged before this moment is in the log.
        closed: it writes no more, and holds no watermark back.
        seen: when it said so, by the store's clock; None when that was not asked.
        retired: when a person said that it is gone; None when nobody did, or it came back since.
    """

    writer: str
    flushed_through: datetime
    closed: bool
    seen: datetime | None = None
    retired: datetime | None = None

    @classmethod
    def from_json(cls, key: str, document: Any, *, seen: datetime | None = None) -> WriterState:  # noqa: ANN401 - any JSON value
        """Read ``writers/<writer>.json``. Raises Corrupt."""
        retired: datetime | None = None
        try:
            moment = datetime.fromisoformat(document["flushed_through"])
            closed = document["closed"]
            writer = str(document["writer"])
            if document.get("retired") is not None:
                retired = datetime.fromisoformat(document["retired"])
        except (KeyError, TypeError, ValueError):
            moment, closed, writer = datetime.min, None, ""  # noqa: DTZ901 - refused below for having no zone
        if moment.tzinfo is None or not isinstance(closed, bool):
            message = f"{key} is no log writer's state"
            raise Corrupt(message, hint="remove it when its writer is gone for good")
        return cls(writer, moment.astimezone(UTC), closed, seen, in_utc(retired))

    def silence(self, now: datetime) -> timedelta | None:
        """Return how long an open writer has given no sign of life; None while it does, or when it is closed."""
        if self.closed or self.seen is None or now - self.seen <= SILENT_AFTER:
            return None
        return now - self.seen


def watermark_of(writers: Iterable[WriterState], *, now: datetime, before: datetime | None = None) -> datetime:
    """Return the moment before which every acknowledged row lies in files that a listing made now would show.

    Args:
        writers: their states, read before the listing.
        now: the source store's clock, asked before the writers were read.
        before: an earlier watermark; what was once promised stays true.

    A writer that died without closing holds the watermark where it was: nobody knows what it had promised since.
    """
    held = min((writer.flushed_through for writer in writers if not writer.closed), default=now)
    return max(held, before) if before else held


def silences(writers: Iterable[WriterState], now: datetime) -> dict[str, timedelta]:
    """Return how long each silent open writer has been silent, the one that holds the watermark back most first."""
    by_promise = sorted(writers, key=lambda writer: (writer.flushed_through, writer.writer))
    found = ((writer.writer, writer.silence(now)) for writer in by_promise)
    return {name: silence for name, silence in found if silence is not None}


def held_back(silent: Mapping[str, timedelta]) -> str:
    """Return what a sentence says of silent writers after the watermark: nothing when there is none."""
    if not silent:
        return ""
    names = list(silent)
    rest = len(names) - _NAMED
    listed = ", ".join(names[:_NAMED]) + (f" and {rest:,} more" if rest > 0 else "")
    shortest = human_seconds(min(silent.values()).total_seconds())
    if len(names) == 1:
        return f", held back by writer {listed}, silent for {shortest}"
    return f", held back by {len(names):,} writers: {listed}, silent for {shortest} and longer"


def retire_command(view: str, silent: Mapping[str, timedelta]) -> str:
    """Return what a sentence ends with when writers are silent: what to do about the first of them."""
    if not silent:
        return ""
    which = "it" if len(silent) == 1 else "each of them"
    return f"; once {which} is gone for good: understudy features retire {view} {next(iter(silent))}"


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What a replication has to do.

    Attributes:
        keep: files that are in the vault as they are at the source.
        copy: objects to read: new, changed in place, or lost from the vault.
        vanished: files that the source no longer has and that still count.
        dropped: vanished files that no longer count, because they are within the limit.
    """

    keep: tuple[FileEntry, ...]
    copy: tuple[ObjectInfo, ...]
    vanished: tuple[FileEntry, ...]
    dropped: tuple[FileEntry, ...]


def plan_copy(
    listing: Iterable[ObjectInfo], known: Iterable[FileEntry], stored: Mapping[str, int], *, deletes_max: int
) -> CopyPlan:
    """Compare the source's listing with the newest manifest and the vault's own listing.

    Args:
        listing: the source's objects.
        known: the files of the newest manifest.
        stored: size by key below ``offline/<view>/`` in the vault.
        deletes_max: so many files may stop counting when the source no longer has them; if more vanished at once,
            all of them are kept. Nothing is ever removed from the vault.
    """
    by_key = {file.key: file for file in known}
    keep: list[FileEntry] = []
    copy: list[ObjectInfo] = []
    for info in listing:
        if kind_of(info.key) is None:
            continue
        file = by_key.pop(info.key, None)
        same = file is not None and (file.size, file.token) == (info.size, info.token)
        if file is not None and same and stored.get(file.stored) == file.size:
            keep.append(file)
        else:
            copy.append(info)
    gone = tuple(by_key[key] for key in sorted(by_key))
    if len(gone) <= deletes_max:
        return CopyPlan(tuple(keep), tuple(copy), (), gone)
    return CopyPlan(tuple(keep), tuple(copy), gone, ())


@dataclass(frozen=True, slots=True)
class RebuildPlan:
    """What a rebuild has to do.

    Attributes:
        action: ``nothing``; ``catch_up`` (write what the added files brought onto the live table); ``full`` (a fresh
            table).
        added: the files that a catch-up reads.
        reason: why, for logs.
    """

    action: Literal["nothing", "catch_up", "full"]
    added: tuple[FileEntry, ...] = ()
    reason: str = ""


def plan_rebuild(  # noqa: PLR0911 - one return a reason
    pointer: Pointer | None,
    manifest: OfflineManifest,
    base: OfflineManifest | None,
    *,
    live_exists: bool,
    as_of: str | None,
) -> RebuildPlan:
    """Decide how the online store comes to a manifest.

    Args:
        pointer: what is live.
        manifest: what it has to come to.
        base: the manifest that the live table was filled from, None when that is unknown.
        live_exists: whether the live table is there.
        as_of: ISO time of an explicit ``as_of``.
    """
    if pointer is None or not live_exists:
        return RebuildPlan("full", reason="nothing is live yet")
    if base is None or (pointer.sequence, pointer.manifest) != (base.sequence, base.digest):
        return RebuildPlan("full", reason="the live table was not filled from this vault")
    if (pointer.sequence, pointer.as_of, base.digest) == (manifest.sequence, as_of, manifest.digest):
        return RebuildPlan("nothing", reason="the live table holds it already")
    if as_of is not None or pointer.as_of is not None:
        return RebuildPlan("full", reason="another time was asked for")
    if pointer.set_aside and pointer.set_aside_from_us <= micros(manifest.watermark + EVENT_AHEAD_MAX):
        return RebuildPlan("full", reason="rows that were set aside count now")
    now = {file.key: file.blake3 for file in manifest.files}
    before = {file.key: file.blake3 for file in base.files}
    if any(now.get(key) != digest for key, digest in before.items()) or manifest.sequence < base.sequence:
        return RebuildPlan("full", reason="files changed or no longer count")
    added = tuple(file for file in manifest.files if file.key not in before)
    return RebuildPlan("catch_up", added, reason=f"{len(added)} files were added")


def catch_up_is_cheaper(cells: int, live_cells: int) -> bool:
    """Whether that many cells are better written one by one than by a fresh table."""
    return cells <= CATCH_UP_CELLS_MIN or cells <= live_cells * CATCH_UP_SHARE_MAX


def changed_partitions(before: Mapping[int, str], after: Mapping[int, str]) -> list[int]:
    """Return the partitions whose digests differ, those that only one side has included, in order."""
    return sorted(number for number in before.keys() | after.keys() if before.get(number) != after.get(number))


@dataclass(frozen=True, slots=True)
class Comparison:
    """How cells of an online store differ from the truth.

    Attributes:
        newer: live writes that the truth does not know yet.
        dropped: online values that the truth no longer has and that no tombstone took away.
        wrong: one sentence for each other difference.
    """

    newer: tuple[Cell, ...]
    dropped: tuple[Cell, ...]
    wrong: tuple[str, ...]


def compare_cells(truth: Sequence[Cell], online: Sequence[Cell], *, newer_since_us: int) -> Comparison:
    """Compare two sets of cells.

    Args:
        truth: what should be there.
        online: what is there.
        newer_since_us: a newer cell counts as a live write when it was created at or after this time (microseconds).
    """
    expected: dict[Key, Cell] = {cell.key: cell for cell in truth}
    newer: list[Cell] = []
    dropped: list[Cell] = []
    wrong: list[str] = []
    for cell in online:
        wanted = expected.pop(cell.key, None)
        if cell == wanted:
            continue
        later = wanted is None or version_of(cell) > version_of(wanted)
        if later and cell.created_us >= newer_since_us:
            newer.append(cell)
            continue
        name = f"{cell.entity}/{cell.feature}"
        gone = wanted is None or wanted.value is None
        if cell.value is not None and gone:
            # A tombstone explains what it is newer than; a later value goes for another reason.
            if wanted is None or later:
                dropped.append(cell)
            wrong.append(f"{name} is there, though it should not be")
        elif wanted is None:
            wrong.append(f"{name} has a tombstone that the truth does not know")
        elif (cell.event_us, cell.created_us) != (wanted.event_us, wanted.created_us):
            age = "newer" if later else "older"
            wrong.append(f"{name} is of {iso(cell.event_us)}, {age} than the truth's {iso(wanted.event_us)}")
        else:
            wrong.append(f"{name} is {shorten(cell.value)}, not {shorten(wanted.value)}")
    wrong.extend(f"{cell.entity}/{cell.feature} is missing" for cell in expected.values())
    return Comparison(tuple(newer), tuple(dropped), tuple(wrong))


def name_first(wrong: Sequence[str]) -> str:
    """Return the first differences as a sentence names them."""
    rest = len(wrong) - _NAMED
    return "; ".join(wrong[:_NAMED]) + (f"; and {rest} more" if rest > 0 else "")


def check_deletions(name: str, count: int, deletes_max: int) -> None:
    """Raise Refused when a rebuild would drop more values than its limit, those with a tombstone not counted."""
    if count > deletes_max:
        message = (
            f"refused: {name} would lose {counted(count, 'value')} without a tombstone, "
            f"the limit is {deletes_max:,}; nothing was changed"
        )
        raise Refused(
            message,
            hint="if that is meant, raise limits.deletes_max for one run; if not, rebuild as of an earlier time",
        )


def counted(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun: ``1 cell``, ``1,200 cells``, ``2 entities``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def in_utc(moment: datetime | None) -> datetime | None:
    """Return a moment in UTC; one that names no zone, as a form gives it, is meant in UTC."""
    if moment is None:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def iso(moment_us: int) -> str:
    """Return microseconds since 1970 as people and stores read them."""
    return datetime.fromtimestamp(moment_us / 1_000_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock_time(moment: str) -> str:
    """Return an ISO time as a sentence tells it: the time of the day in UTC, such as 12:00:05Z."""
    return f"{datetime.fromisoformat(moment).astimezone(UTC):%H:%M:%SZ}"


def shorten(value: str | None) -> str:
    """Return a value short enough for an error."""
    return "deleted" if value is None else value if len(value) <= 40 else value[:37] + "..."
