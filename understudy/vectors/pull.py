"""One sequence of an index as Parquet files in a folder, and which rows one sequence changed against another."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from understudy.errors import Unsupported
from understudy.report import Report, human_bytes, quiet
from understudy.vault.pulling import pull_object
from understudy.vectors import manifest as manifests
from understudy.vectors.plan import changed_buckets

if TYPE_CHECKING:
    from pathlib import Path

    from understudy.report import Progress
    from understudy.vault.store import Vault
    from understudy.vectors.manifest import Manifest

_SHOWN = 5


def pull(vault: Vault, folder: Path, *, index: str, sequence: int | None = None, progress: Progress = quiet) -> Report:
    """Write a sequence's rows to ``<folder>/<index>/<sequence>/<bucket>.parquet``, each proven by its SHA-256.

    Any Parquet reader opens them; beside them stands ``manifest.json``. What is there already and right is kept.

    Raises:
        NotFound: the vault has no such index or sequence.
        Corrupt: a bucket is not what its manifest says.
    """
    manifest = manifests.wanted(vault, index, sequence)
    place = folder / index / str(manifest.sequence)
    place.mkdir(parents=True, exist_ok=True)
    written = read = 0
    for number, part in enumerate(manifest.parts):
        path = place / f"{part.bucket:05d}.parquet"
        size = pull_object(
            vault,
            manifest.data_key(part),
            path,
            expected=part.sha256,
            algorithm="SHA-256",
            hint="pull an earlier sequence, or export again",
        )
        if size is not None:
            written, read = written + 1, read + size
        progress(f"{index} {manifest.sequence}", number + 1, len(manifest.parts), "buckets")
    (place / "manifest.json").write_bytes(manifest.encode())
    size = sum(part.size for part in manifest.parts)
    return Report(
        noun="vectors",
        name=index,
        verdict="changed" if written else "unchanged",
        sentence=(
            f"{index} {manifest.sequence}: {manifest.rows:,} rows in {len(manifest.parts)} files, {human_bytes(size)}, "
            f"{written} written to {place}; sha256 {len(manifest.parts)}/{len(manifest.parts)}"
        ),
        items_total=manifest.rows,
        items_new=written,
        bytes_total=size,
        bytes_read=read,
        version=str(manifest.sequence),
        proven=f"sha256 {len(manifest.parts)}/{len(manifest.parts)}",
        details={"folder": str(place), "digest": manifest.digest},
    )


@dataclass(frozen=True, slots=True)
class RowChanges:
    """What a later sequence of an index changed.

    Attributes:
        rows_before: rows of the earlier sequence.
        rows_after: rows of the later one.
        buckets: how many buckets differ.
        added: ids that only the later one has.
        removed: ids that only the earlier one has.
        changed: ids whose vector or attributes differ.
        schema: what differs in columns and indexes, in words.
    """

    rows_before: int
    rows_after: int
    buckets: int
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    schema: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def diff(vault: Vault, index: str, before: int, after: int) -> RowChanges:
    """Compare two sequences row by row; only the buckets that differ are read.

    Raises:
        NotFound: the vault has no such sequence.
        Corrupt: a bucket cannot be read.
        Unsupported: the two are cut into another number of buckets, or have other columns: every row would differ.
    """
    old, new = manifests.read(vault, index, before), manifests.read(vault, index, after)
    schema = _schema_changes(old, new)
    if old.buckets != new.buckets or old.schema.layout() != new.schema.layout():
        if old.digest == new.digest:
            return RowChanges(old.rows, new.rows, 0)
        raise Unsupported(
            f"{index} {before} and {after} cannot be compared row by row: "
            + ("; ".join(schema) or f"{old.buckets} buckets and {new.buckets}"),
            hint="every row was sent anew; pull both to compare them",
        )
    differing = changed_buckets(old.parts, new.parts)
    was, now = _rows(vault, old, differing), _rows(vault, new, differing)
    return RowChanges(
        rows_before=old.rows,
        rows_after=new.rows,
        buckets=len(differing),
        added=sorted(now.keys() - was.keys()),
        removed=sorted(was.keys() - now.keys()),
        changed=sorted(row for row in was.keys() & now.keys() if was[row] != now[row]),
        schema=schema,
    )


def render_diff(index: str, before: int, after: int, changes: RowChanges) -> list[str]:
    """Return the difference as lines for people."""
    counts = f"{len(changes.added):,} rows added, {len(changes.removed):,} removed, {len(changes.changed):,} changed"
    lines = [
        (
            f"{index} {before} -> {after}: {changes.rows_before:,} -> {changes.rows_after:,} rows; {counts}; "
            f"{changes.buckets} buckets differ"
        )
    ]
    lines += [f"  {words}" for words in changes.schema]
    for word, rows in (("added", changes.added), ("removed", changes.removed), ("changed", changes.changed)):
        if rows:
            more = f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
            lines.append(f"  {word:<8} {', '.join(rows[:_SHOWN])}{more}")
    return lines


def _rows(vault: Vault, manifest: Manifest, buckets: set[int]) -> dict[str, bytes]:
    """Return a digest of each row of these buckets by its id."""
    from understudy.vectors.digest import row_digests
    from understudy.vectors.parquet import decode

    found: dict[str, bytes] = {}
    for part in manifest.parts:
        if part.bucket in buckets:
            table = decode(manifest.schema, vault.store.get(manifest.data_key(part)))
            ids = table.column(manifest.schema.id).to_pylist()
            for identity, row in zip(ids, row_digests(manifest.schema, table), strict=True):
                found[str(identity)] = row
    return found


def _schema_changes(old: Manifest, new: Manifest) -> list[str]:
    if old.schema.definition() == new.schema.definition():
        return []
    was = {column.name: column for column in old.schema.columns}
    now = {column.name: column for column in new.schema.columns}
    words = [f"column {name} added" for name in now.keys() - was.keys()]
    words += [f"column {name} removed" for name in was.keys() - now.keys()]
    words += [
        f"column {name}: {was[name].declared} -> {now[name].declared}"
        for name in was.keys() & now.keys()
        if was[name] != now[name]
    ]
    if old.schema.hnsw != new.schema.hnsw or old.schema.indexes != new.schema.indexes:
        words.append("other indexes")
    return sorted(words) or ["another definition"]
