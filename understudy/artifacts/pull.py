"""One version's plain files into a folder, and what one version changed against another."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from understudy.artifacts.catalog import find_manifest
from understudy.artifacts.hydrate import hydrate
from understudy.artifacts.manifest import POINTERS
from understudy.errors import Refused
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.report import human_bytes, quiet

if TYPE_CHECKING:
    from pathlib import Path

    from understudy.artifacts.manifest import ArtifactFile, ArtifactManifest
    from understudy.objects.interface import ObjectInfo
    from understudy.report import Progress, Report
    from understudy.vault.store import Vault


def pull(
    vault: Vault,
    folder: Path,
    *,
    model: str,
    version: str | None = None,
    revision: int | None = None,
    progress: Progress = quiet,
) -> Report:
    """Restore a version to ``<folder>/<model>/<version>/``, each file proven by its SHA-256 before it is visible.

    Run again it completes what a stopped run left, also within a long file, and reads back what is there. What is
    served is never touched: the pointer that hydrating would move is kept in memory.

    Raises:
        Refused: the folder is a store: a bucket that something is served from, or a vault.
        NotFound: the vault has no such model, version or revision.
        Corrupt: a byte in the vault is wrong; the sentence names pack, chunk and file.
    """
    target = open_folder(folder)
    report = hydrate(vault, target, model=model, version=version, revision=revision, full=True, progress=progress)
    target.leave()
    return report


def open_folder(folder: Path) -> PlainFolder:
    """Return a folder that a person wants plain files in, made if it is not there; ``leave`` follows.

    Raises:
        Refused: the folder is a store: a bucket that something is served from, or a vault.
    """
    marks = [name for name in (POINTERS, FileStore.own_folder) if os.path.lexists(folder / name)]
    if marks:
        raise Refused(
            f"{folder} holds {marks[0]}/: that folder is a store, and a pull would write among what it serves",
            hint="name another folder with --to",
        )
    folder.mkdir(parents=True, exist_ok=True)
    return PlainFolder(str(folder.resolve()))


class PlainFolder(FileStore):
    """Plain files for a person: no pointer among them, and what is half written apart from any store's."""

    own_folder: ClassVar[str] = ".understudy-pull"

    def __init__(self, folder: str) -> None:
        super().__init__(folder)
        self._pointers = MemoryStore(self.url)

    def leave(self) -> None:
        """Remove what is not a person's. After an error it stays: the next pull goes on with what is half written."""
        shutil.rmtree(self._root / self.own_folder, ignore_errors=True)

    def head(self, key: str) -> ObjectInfo:
        """See FileStore."""
        return self._pointers.head(key) if _is_pointer(key) else super().head(key)

    def get(self, key: str, *, version: str | None = None) -> bytes:
        """See FileStore."""
        return self._pointers.get(key, version=version) if _is_pointer(key) else super().get(key, version=version)

    def replace(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
        """See FileStore."""
        if _is_pointer(key):
            return self._pointers.replace(key, data, expected=expected)
        return super().replace(key, data, expected=expected)


def _is_pointer(key: str) -> bool:
    return key.startswith(f"{POINTERS}/")


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file that differs between two versions.

    Attributes:
        path: of the file.
        change: ``added``, ``removed`` or ``changed``.
        size_before: bytes in the earlier version, 0 where it is not there.
        size_after: bytes in the later version, 0 where it is not there.
        new_bytes: plain bytes of the chunks that the earlier version does not have in any of its files.
    """

    path: str
    change: str
    size_before: int
    size_after: int
    new_bytes: int


def diff(before: ArtifactManifest, after: ArtifactManifest) -> list[FileChange]:
    """Return what ``after`` changed against ``before``, sorted by path. Pure."""
    old = {file.path: file for file in before.files}
    new = {file.path: file for file in after.files}
    known = {chunk for file in before.files for chunk in file.chunks}
    changes = []
    for path in sorted(old.keys() | new.keys()):
        was, now = old.get(path), new.get(path)
        if was and now and was.sha256 == now.sha256:
            continue
        word = "changed" if was and now else "added" if now else "removed"
        changes.append(FileChange(path, word, _size(was), _size(now), _new_bytes(now, known)))
    return changes


def render_diff(before: ArtifactManifest, after: ArtifactManifest, changes: list[FileChange]) -> list[str]:
    """Return the difference as lines for people."""
    head = f"{after.model} {before.version} -> {after.version}: "
    if not changes:
        return [head + f"no difference, {len(after.files)} files"]
    new = sum(change.new_bytes for change in changes)
    same = len(after.files) - sum(change.change != "removed" for change in changes)
    lines = [head + f"{len(changes)} files differ, {same} are the same; {human_bytes(new)} of new chunks"]
    for each in changes:
        sizes = f"{human_bytes(each.size_before)} -> {human_bytes(each.size_after)}"
        lines.append(f"  {each.change:<8} {each.path}  {sizes}, {human_bytes(each.new_bytes)} new")
    return lines


def diff_versions(vault: Vault, model: str, before: str, after: str) -> tuple[list[str], list[dict[str, Any]]]:
    """Compare the newest revisions of two versions; return the lines and the JSON values. Raises NotFound, Corrupt."""
    old, new = find_manifest(vault, model, before), find_manifest(vault, model, after)
    changes = diff(old, new)
    return render_diff(old, new, changes), [asdict(change) for change in changes]


def _size(file: ArtifactFile | None) -> int:
    return file.size if file else 0


def _new_bytes(file: ArtifactFile | None, known: set[tuple[str, int]]) -> int:
    return sum(length for _, length in set(file.chunks) - known) if file else 0
