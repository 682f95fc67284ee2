"""Pins files of a source to the versions that were listed, in as few requests as the store allows.

Asking for each file costs a request each, which for small files is half of all. A store that lists versions (Google
Cloud Storage does always, S3 when asked) tells a thousand of them at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.errors import Denied, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from concurrent.futures import Executor

    from understudy.artifacts.plan import SourceFile, SourceVersion
    from understudy.objects.interface import ObjectInfo, ObjectStore

#: A page of a listing has 1000 rows and the price of a dozen questions: below this share of the version's files, or
#: this number of them, each file is asked for by itself.
_LISTED_SHARE_MIN = 1 / 40
_LISTED_MIN = 16


class Changed(Exception):
    """An object at the source is no longer what the listing showed; the text names it."""


def pin(source: ObjectStore, version: SourceVersion, files: Sequence[SourceFile], pool: Executor) -> list[ObjectInfo]:
    """Return each file as it was listed, with the version to read, None where the store keeps none.

    Args:
        source: where the files lie.
        version: that they belong to.
        files: those that are to be read.
        pool: where stores are asked for single files.

    Raises:
        Changed: a file is not what the version's listing showed.
    """
    if all(file.info.version is not None for file in files):
        return [file.info for file in files]
    found = _found(source, version, files, pool, versions=True)
    return [_same(file, info) for file, info in zip(files, found, strict=True)]


def require_unmoved(source: ObjectStore, version: SourceVersion, files: Sequence[SourceFile], pool: Executor) -> None:
    """Raise Changed when a file, whose bytes no version names, was written since it was listed."""
    for file, info in zip(files, _found(source, version, files, pool, versions=False), strict=True):
        _same(file, info)


def _same(file: SourceFile, info: ObjectInfo | None) -> ObjectInfo:
    if info is None or (info.token, info.size) != (file.info.token, file.info.size):
        raise Changed(file.path)
    return info


def _found(
    source: ObjectStore, version: SourceVersion, files: Sequence[SourceFile], pool: Executor, *, versions: bool
) -> Iterable[ObjectInfo | None]:
    if len(files) >= max(_LISTED_MIN, len(version.files) * _LISTED_SHARE_MIN):
        prefix = f"{version.model}/{version.version}/"
        wanted = {file.info.key for file in files}
        try:
            listing = source.list_versions(prefix) if versions else source.list(prefix)
            listed = {info.key: info for info in listing if info.key in wanted}
        except Denied:
            pass  # the right to list versions is one of its own; without it files are asked for one by one
        else:
            return [listed.get(file.info.key) for file in files]

    def ask(file: SourceFile) -> ObjectInfo | None:
        try:
            return source.head(file.info.key)
        except NotFound:
            return None

    return pool.map(ask, files)
