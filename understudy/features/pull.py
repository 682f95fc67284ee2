"""The offline store of a view in a folder, as of a sequence, and what one sequence changed against another."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from understudy.errors import NotFound
from understudy.features.manifest import data_prefix, newest_manifest, read_manifest
from understudy.report import Report, human_bytes, quiet
from understudy.vault.pulling import pull_object

if TYPE_CHECKING:
    from pathlib import Path

    from understudy.features.manifest import OfflineManifest
    from understudy.report import Progress
    from understudy.vault.store import Vault


def wanted(vault: Vault, view: str, sequence: int | None) -> OfflineManifest:
    """Return a view's manifest, the newest when no sequence is named. Raises NotFound, Corrupt."""
    manifest = newest_manifest(vault, view) if sequence is None else read_manifest(vault, view, sequence)
    if manifest is None:
        raise NotFound(
            f"the vault in {vault.url} holds no features of {view}", next_command=f"understudy features push {view}"
        )
    return manifest


def pull(vault: Vault, folder: Path, *, view: str, sequence: int | None = None, progress: Progress = quiet) -> Report:
    """Write a sequence's Parquet files to ``<folder>/<view>/<key>``, each proven by its BLAKE3.

    What is there already and right is kept.

    Raises:
        NotFound: the vault has no such view or sequence.
        Corrupt: a file is not what its manifest says.
    """
    manifest = wanted(vault, view, sequence)
    written = read = 0
    for number, file in enumerate(manifest.files):
        path = folder / view / file.key
        path.parent.mkdir(parents=True, exist_ok=True)
        size = pull_object(
            vault,
            f"{data_prefix(view)}{file.stored}",
            path,
            expected=file.blake3,
            algorithm="BLAKE3",
            hint="pull an earlier sequence, or replicate again",
        )
        if size is not None:
            written, read = written + 1, read + size
        progress(f"{view} {manifest.sequence}", number + 1, len(manifest.files), "files")
    size = sum(file.size for file in manifest.files)
    count = len(manifest.files)
    return Report(
        noun="offline",
        name=view,
        verdict="changed" if written else "unchanged",
        sentence=(
            f"{view} {manifest.sequence}: {count} files, {human_bytes(size)}, {written} written to {folder / view}; "
            f"blake3 {count}/{count}; watermark {manifest.watermark:%Y-%m-%dT%H:%M:%SZ}"
        ),
        items_total=count,
        items_new=written,
        bytes_total=size,
        bytes_read=read,
        watermark=manifest.watermark,
        version=str(manifest.sequence),
        proven=f"blake3 {count}/{count}",
        details={"folder": str(folder / view), "digest": manifest.digest},
    )


@dataclass(frozen=True, slots=True)
class ViewChanges:
    """What a later sequence of a view changed.

    Attributes:
        files_added: keys that only the later one has.
        files_changed: keys whose bytes differ.
        files_removed: keys that only the earlier one has.
        rows_added: rows of added files, plus what changed files gained or lost.
        features_added: features that only the later schema has.
        features_removed: features that only the earlier schema has.
        features_changed: ``name: type before -> type after``.
    """

    files_added: list[str]
    files_changed: list[str]
    files_removed: list[str]
    rows_added: int
    features_added: list[str]
    features_removed: list[str]
    features_changed: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def diff(before: OfflineManifest, after: OfflineManifest) -> ViewChanges:
    """Return what ``after`` changed against ``before``. Pure."""
    old = {file.key: file for file in before.files}
    new = {file.key: file for file in after.files}
    both = old.keys() & new.keys()
    features = before.schema.keys() & after.schema.keys()
    return ViewChanges(
        files_added=sorted(new.keys() - old.keys()),
        files_changed=sorted(key for key in both if old[key].blake3 != new[key].blake3),
        files_removed=sorted(old.keys() - new.keys()),
        rows_added=sum(file.rows for file in after.files) - sum(file.rows for file in before.files),
        features_added=sorted(after.schema.keys() - before.schema.keys()),
        features_removed=sorted(before.schema.keys() - after.schema.keys()),
        features_changed=sorted(
            f"{name}: {before.schema[name]} -> {after.schema[name]}"
            for name in features
            if before.schema[name] != after.schema[name]
        ),
    )


def render_diff(before: OfflineManifest, after: OfflineManifest, changes: ViewChanges) -> list[str]:
    """Return the difference as lines for people."""
    lines = [
        (
            f"{after.view} {before.sequence} -> {after.sequence}: {len(changes.files_added)} files added, "
            f"{len(changes.files_changed)} changed, {len(changes.files_removed)} removed; "
            f"{changes.rows_added:+,} rows; watermark {before.watermark:%H:%M:%SZ} -> {after.watermark:%H:%M:%SZ}"
        )
    ]
    lines += [f"  feature added    {name}" for name in changes.features_added]
    lines += [f"  feature removed  {name}" for name in changes.features_removed]
    lines += [f"  feature changed  {words}" for words in changes.features_changed]
    return lines
