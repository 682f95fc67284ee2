"""Decides, from the source's listing and the newest manifests alone, what has to be read. No I/O here."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal

from understudy.artifacts.manifest import POINTERS, complaint_about_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
        action: ``unchanged``, ``new version``, ``new revision``, ``held``, ``retired`` (retention took it out of the
            vault, and it is at the source as it was) or ``mended``: it is at the source as it was, and chunks of it
            are lost in the vault.
        source: what the listing showed.
        revision: the number that it gets, or has.
        known: files whose bytes the vault has by the newest manifest, because nothing at the source changed since.
        fresh: files that must be read.
        parent: what it descends from: the revision before, or the newest revision of the version before.
        newest: the newest revision of the version in the vault.
        lost: files that are fresh although nothing changed at the source, for the vault lost chunks of them.
    """

    action: Literal["unchanged", "new version", "new revision", "held", "retired", "mended"]
    source: SourceVersion
    revision: int
    known: tuple[ArtifactFile, ...] = ()
    fresh: tuple[SourceFile, ...] = ()
    parent: ArtifactManifest | None = None
    newest: ArtifactManifest | None = None
    lost: tuple[ArtifactFile, ...] = ()


def natural(version: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Return the sort key by which version 10 follows 9, and v1.10 follows v1.9."""
    pieces = tuple(
        (0, int(piece), "") if piece.isdecimal() and piece.isascii() else (1, 0, piece)
        for piece in _PIECES.split(version)
        if piece
    )
    return pieces, version


def grouped(listing: Iterable[ObjectInfo], model: str | None = None) -> Iterator[SourceVersion]:
    """Group a listing, sorted by key as every store's is, by model and version: one is in memory at a time.

    ``pointers/``, directory markers, and what does not lie below ``<model>/<version>/`` belong to no model.
    """
    for (name, version), infos in groupby(_files_of(listing, model), key=lambda found: found[0]):
        yield _version(name, version, [file for _, file in infos])


def _files_of(listing: Iterable[ObjectInfo], model: str | None) -> Iterator[tuple[tuple[str, str], SourceFile]]:
    for info in listing:
        parts = info.key.split("/", _PARTS_MIN - 1)
        if len(parts) < _PARTS_MIN or parts[0] == POINTERS or (info.key.endswith("/") and info.size == 0):
            continue
        if model is None or parts[0] == model:
            yield (parts[0], parts[1]), SourceFile(parts[2], info)


def versions_in(listing: Iterable[ObjectInfo], model: str | None = None) -> list[SourceVersion]:
    """Return all versions of a listing at once, by model, then in natural order."""
    return sorted(grouped(listing, model), key=lambda found: (found.model, natural(found.version)))


def earlier(version: str, others: Iterable[str]) -> list[str]:
    """Return the versions that come before one, the nearest first."""
    before = natural(version)
    return sorted((other for other in others if natural(other) < before), key=natural, reverse=True)


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


def unchanged_since(file: SourceFile, kept: ArtifactFile) -> bool:
    """Return whether a listed object is the very one that a manifest's file was read from."""
    source, info = kept.source, file.info
    return source.key == info.key and source.token == info.token and kept.size == info.size


def plan(source: SourceVersion, last: ArtifactManifest | None, parent: ArtifactManifest | None = None) -> Planned:
    """Decide what to do about one version.

    Args:
        source: the version as it was listed.
        last: the newest revision of that version in the vault.
        parent: what a new version descends from; a new revision descends from ``last``.
    """
    if source.complaint:
        return Planned("held", source, last.revision if last else 0, newest=last)
    kept = {file.path: file for file in last.files} if last else {}
    known: list[ArtifactFile] = []
    fresh: list[SourceFile] = []
    for file in source.files:
        found = kept.get(file.path)
        if found is not None and unchanged_since(file, found):
            known.append(found)
        else:
            fresh.append(file)
    if last and not fresh and len(known) == len(kept):
        return Planned("unchanged", source, last.revision, known=tuple(known), newest=last)
    if last:
        return Planned("new revision", source, last.revision + 1, tuple(known), tuple(fresh), parent=last, newest=last)
    return Planned("new version", source, 1, tuple(known), tuple(fresh), parent=parent)
