"""Decides, from the source's listing and the newest manifests alone, what has to be read. No I/O here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from understudy.artifacts.manifest import POINTERS, complaint_about_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from understudy.artifacts.manifest import ArtifactFile, ArtifactManifest
    from understudy.objects.interface import ObjectInfo

_PIECES = re.compile(r"(\d+)")
_PARTS_MIN = 3


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One object of a model's version: its path below the version, and what the listing said of it."""

    path: str
    info: ObjectInfo


@dataclass(frozen=True, slots=True)
class SourceVersion:
    """All objects below ``<model>/<version>/``, by path; ``complaint`` says why they cannot be kept, if so."""

    model: str
    version: str
    files: tuple[SourceFile, ...]
    complaint: str | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """What is to be done about one version.

    Attributes:
        action: ``unchanged``, ``new version``, ``new revision`` or ``held``.
        source: what the listing showed.
        revision: the number that it gets, or has.
        known: files whose bytes the vault has by the newest manifest, because nothing at the source changed since.
        fresh: files that must be read.
        parent: what it descends from: the revision before, or the newest revision of the version before.
    """

    action: Literal["unchanged", "new version", "new revision", "held"]
    source: SourceVersion
    revision: int
    known: tuple[ArtifactFile, ...] = ()
    fresh: tuple[SourceFile, ...] = ()
    parent: ArtifactManifest | None = None
    newest: ArtifactManifest | None = None


def natural(version: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Return the sort key by which version 10 follows 9, and v1.10 follows v1.9."""
    pieces = tuple(
        (0, int(piece), "") if piece.isdecimal() and piece.isascii() else (1, 0, piece)
        for piece in _PIECES.split(version)
        if piece
    )
    return pieces, version


def versions_in(listing: Iterable[ObjectInfo], model: str | None = None) -> list[SourceVersion]:
    """Group a listing by model and version, versions in natural order.

    ``pointers/``, directory markers, and what does not lie below ``<model>/<version>/`` belong to no model.
    """
    found: dict[tuple[str, str], list[SourceFile]] = {}
    for info in listing:
        parts = info.key.split("/", _PARTS_MIN - 1)
        if len(parts) < _PARTS_MIN or parts[0] == POINTERS or (info.key.endswith("/") and info.size == 0):
            continue
        if model is None or parts[0] == model:
            found.setdefault((parts[0], parts[1]), []).append(SourceFile(parts[2], info))
    ordered = sorted(found, key=lambda names: (names[0], natural(names[1])))
    return [_version(name, version, found[name, version]) for name, version in ordered]


def _version(model: str, version: str, files: list[SourceFile]) -> SourceVersion:
    complaint = None
    paths = {file.path for file in files}
    for label, text in (("model", model), ("version", version)):
        if reason := complaint_about_path(text):
            complaint = f"the {label}'s name {text!r} {reason}"
    for path in sorted(paths):
        if reason := complaint_about_path(path):
            complaint = f"the file name {path!r} {reason}"
            break
        above = path.rpartition("/")[0]
        while above:
            if above in paths:
                complaint = f"{above!r} is both a file and a directory"
            above = above.rpartition("/")[0]
    return SourceVersion(model, version, tuple(sorted(files, key=lambda file: file.path)), complaint)


def plan(versions: Iterable[SourceVersion], newest: Mapping[tuple[str, str], ArtifactManifest]) -> list[Planned]:
    """Decide what to do about each version.

    Args:
        versions: of the source, in the order in which they are to be pushed.
        newest: the newest revision in the vault of each (model, version).
    """
    return [_planned(version, newest) for version in versions]


def unchanged_since(file: SourceFile, kept: ArtifactFile | None) -> bool:
    """Return whether a listed object is the very one that a manifest's file was read from."""
    if kept is None or kept.source.key != file.info.key:
        return False
    return (kept.source.token, kept.size) == (file.info.token, file.info.size)


def _planned(source: SourceVersion, newest: Mapping[tuple[str, str], ArtifactManifest]) -> Planned:
    last = newest.get((source.model, source.version))
    if source.complaint:
        return Planned("held", source, last.revision if last else 0, newest=last)
    kept = {file.path: file for file in last.files} if last else {}
    known = tuple(kept[file.path] for file in source.files if unchanged_since(file, kept.get(file.path)))
    fresh = tuple(file for file in source.files if not unchanged_since(file, kept.get(file.path)))
    if last and not fresh and len(known) == len(kept):
        return Planned("unchanged", source, last.revision, known=known, newest=last)
    if last:
        return Planned("new revision", source, last.revision + 1, known, fresh, parent=last, newest=last)
    earlier = [
        manifest
        for (model, version), manifest in newest.items()
        if model == source.model and natural(version) < natural(source.version)
    ]
    parent = max(earlier, key=lambda manifest: natural(manifest.version), default=None)
    return Planned("new version", source, 1, known, fresh, parent=parent)
