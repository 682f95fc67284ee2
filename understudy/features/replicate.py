"""The offline feature store into the vault: Parquet byte for byte, the manifest last, the watermark always.

The order makes the watermark honest: the source's clock first, then what the writers promise, then the listing. So
every row acknowledged before the watermark lies in a file that the listing shows.
"""

from __future__ import annotations

import logging
import tempfile
import time
from datetime import UTC
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from blake3 import blake3

from understudy.errors import Conflict, Corrupt, NotFound, Transient
from understudy.features.manifest import (
    FileEntry,
    OfflineManifest,
    advance_pointer,
    data_prefix,
    manifests_prefix,
    newest_manifest,
    watermark_now,
)
from understudy.features.offline import HISTORY, LOG, WRITERS, FileFacts, check_parquet
from understudy.features.plan import (
    CopyPlan,
    WriterState,
    held_back,
    plan_copy,
    retire_command,
    silences,
    watermark_of,
)
from understudy.objects import parts
from understudy.report import Progress, Report, human_bytes, quiet
from understudy.threads import ThreadPool
from understudy.vault.lanes import each

if TYPE_CHECKING:
    from collections.abc import Iterator

    from understudy.objects.interface import ObjectInfo, ObjectStore
    from understudy.vault.store import Vault

logger = logging.getLogger("understudy.features")

LANES = 8
#: Files up to this size are held in memory, eight at a time; larger ones go through the disk.
WHOLE_BYTES_MAX = 16 << 20
_NAMED = 3


def replicate_offline(
    source: ObjectStore, vault: Vault, *, view: str, deletes_max: int = 0, progress: Progress = quiet
) -> Report:
    """Copy what is missing of an offline store into ``offline/<view>/`` and move the watermark on.

    Args:
        source: the offline store's root; see ``offline.py``.
        vault: where to; nothing in it is overwritten or removed. A file that changed in place at the source gets a key
            of its own beside the old one.
        view: the view's name.
        deletes_max: so many files that vanished at the source may stop counting; when more did, all still count.
        progress: told the bytes copied.

    Returns:
        ``unchanged`` when no file had to be sent (the watermark moves on all the same), else ``changed``. Open writers
        that gave no sign of life for a minute are named in the sentence, with what to do, and in ``details["silent"]``
        with their seconds of silence.

    Raises:
        Corrupt: a file is no whole Parquet file, or did not arrive as it was sent; nothing of this run counts then.
        Unsupported: a file has a column that cannot go online.
        Transient: a store did not answer, or the source changed while it was read.
    """
    started = time.monotonic()
    now = source.now()
    writers = _read_writers(source)
    listing = [*source.list(HISTORY), *source.list(LOG)]
    before = newest_manifest(vault, view)
    prefix = data_prefix(view)
    stored = {info.key[len(prefix) :]: info.size for info in vault.store.list(prefix)}
    plan = plan_copy(listing, before.files if before else (), stored, deletes_max=deletes_max)
    watermark = watermark_of(writers, now=now, before=watermark_now(vault, before) if before else None)

    copier = _Copier(source, vault, prefix, stored)
    entries: list[FileEntry] = []
    schema: dict[str, str] = dict(before.schema) if before and not plan.dropped else {}
    total = sum(info.size for info in plan.copy)
    copied = 0
    with ThreadPool(LANES) as pool:
        for entry, facts in each(pool, (partial(copier.copy, info) for info in plan.copy), ahead=LANES):
            entries.append(entry)
            for name, kind in facts.features.items():
                if kind != "json" or name not in schema:
                    schema[name] = kind
            copied += entry.size
            progress(view, copied, total, "bytes")

    # Lost files that were sent again, and rewritten ones with the same bytes, leave the manifest as it is.
    files = tuple(sorted([*plan.keep, *entries, *plan.vanished], key=lambda file: file.key))
    vanished = tuple(file.key for file in plan.vanished)
    if plan.dropped and before:
        schema = {**{name: kind for name, kind in before.schema.items() if name not in schema}, **schema}
    if before is not None and (before.files, before.vanished) == (files, vanished):
        manifest = before
    else:
        schema = dict(sorted(schema.items()))

        def build(sequence: int) -> OfflineManifest:
            return OfflineManifest(view, sequence, watermark, schema, files, vanished)

        number = vault.append(manifests_prefix(view), lambda sequence: build(sequence).to_bytes(), suffix=".json")
        manifest = build(number)
    watermark = advance_pointer(vault, manifest, watermark)
    if plan.vanished or plan.dropped:
        logger.warning("%s: %d files vanished at the source", view, len(plan.vanished) + len(plan.dropped))

    silent = silences(writers, now)
    if silent:
        logger.warning("%s: the watermark is%s", view, held_back(silent).removeprefix(","))
    size = sum(file.size for file in files)
    gone = [file.key for file in (*plan.vanished, *plan.dropped)]
    what = f"unchanged, {len(files):,} files"
    if entries:
        what = f"{len(entries):,} of {len(files):,} files sent, {human_bytes(copier.sent)}"
    return Report(
        noun="offline",
        name=view,
        verdict="changed" if manifest is not before else "unchanged",
        sentence=(
            f"{view}: {what}; watermark {watermark.astimezone(UTC):%H:%M:%SZ}{held_back(silent)}{_vanished(plan)}"
            f"{retire_command(view, silent)}"
        ),
        items_total=len(files),
        items_new=len(entries),
        bytes_total=size,
        bytes_read=copier.read,
        bytes_sent=copier.sent,
        seconds=time.monotonic() - started,
        watermark=watermark,
        version=str(manifest.sequence),
        proven=f"blake3 {len(entries)}/{len(entries)}" if entries else "",
        details={
            "digest": manifest.digest,
            "vanished": gone,
            "writers": {writer.writer: writer.flushed_through.isoformat() for writer in writers if not writer.closed},
            "silent": {writer: round(silence.total_seconds()) for writer, silence in silent.items()},
        },
    )


def _vanished(plan: CopyPlan) -> str:
    gone = [file.key for file in (*plan.vanished, *plan.dropped)]
    if not gone:
        return ""
    named = ", ".join(gone[:_NAMED]) + (f" and {len(gone) - _NAMED} more" if len(gone) > _NAMED else "")
    return f"; vanished at the source: {named} ({'still counted' if plan.vanished else 'no longer counted'})"


def _read_writers(source: ObjectStore) -> list[WriterState]:
    def read(info: ObjectInfo) -> WriterState | None:
        key = info.key
        try:
            data = source.get(key)
        except NotFound:
            return None
        try:
            return WriterState.from_json(key, orjson.loads(data), seen=info.modified)
        except orjson.JSONDecodeError as error:
            message = f"{key} is no log writer's state"
            raise Corrupt(message, hint="remove it when its writer is gone for good") from error

    found = [info for info in source.list(WRITERS) if info.key.endswith(".json")]
    with ThreadPool(LANES) as pool:
        return [state for state in pool.map(read, found) if state is not None]


class _Copier:
    """Copies one file at a time, from many threads."""

    def __init__(self, source: ObjectStore, vault: Vault, prefix: str, stored: dict[str, int]) -> None:
        self._source = source
        self._vault = vault
        self._prefix = prefix
        self._stored = stored
        self.read = 0
        self.sent = 0

    def copy(self, info: ObjectInfo) -> tuple[FileEntry, FileFacts]:
        try:
            if info.size <= WHOLE_BYTES_MAX:
                return self._copy_whole(info)
            return self._copy_pieces(info)
        except NotFound as error:
            message = f"{info.key} vanished while it was copied"
            raise Transient(message, hint="run again") from error

    def _copy_whole(self, info: ObjectInfo) -> tuple[FileEntry, FileFacts]:
        data = self._source.get(info.key)
        self.read += len(data)
        facts = check_parquet(info.key, data)
        digest = blake3(data).hexdigest()
        key = info.key
        for key in (info.key, _beside(info.key, digest)):
            if self._stored.get(key, len(data)) != len(data):
                continue
            try:
                if self._vault.put_once(self._prefix + key, data):
                    self.sent += len(data)
            except Conflict:
                continue  # other bytes stand under this name: the file changed in place
            break
        else:
            raise self._not_as_sent(key)
        if self._vault.store.get(self._prefix + key) != data:
            raise self._not_as_sent(key)
        return FileEntry(info.key, key, len(data), digest, info.token, facts.rows), facts

    def _copy_pieces(self, info: ObjectInfo) -> tuple[FileEntry, FileFacts]:
        with tempfile.TemporaryDirectory(prefix="understudy-") as directory:
            path = Path(directory) / "file.parquet"
            hasher = blake3()
            with path.open("wb") as file:
                for piece in parts.pieces(self._source, info.key, info.size):
                    hasher.update(piece)
                    file.write(piece)
            self.read += info.size
            facts = check_parquet(info.key, path)
            digest = hasher.hexdigest()
            for key in (info.key, _beside(info.key, digest)):
                if self._stored.get(key, info.size) != info.size or not self._send(key, path, info.size):
                    continue
                if self._digest(key, info.size) == digest:
                    return FileEntry(info.key, key, info.size, digest, info.token, facts.rows), facts
            raise self._not_as_sent(info.key)

    def _send(self, key: str, path: Path, size: int) -> bool:
        """Write a file unless one is there, and return whether what is there now has its size."""
        if key in self._stored:
            return True
        try:
            self._vault.store.create_stream(self._prefix + key, _read_pieces(path), size)
        except Conflict:  # another run was faster; its bytes are looked at as those of the listing are
            return self._vault.store.head(self._prefix + key).size == size
        self.sent += size
        return True

    def _digest(self, key: str, size: int) -> str:
        hasher = blake3()
        for piece in parts.pieces(self._vault.store, self._prefix + key, size):
            hasher.update(piece)
        return hasher.hexdigest()

    def _not_as_sent(self, key: str) -> Corrupt:
        message = f"{self._prefix}{key} in {self._vault.url} does not hold what was sent"
        return Corrupt(message, hint="look at who else writes into the vault")


def _beside(key: str, digest: str) -> str:
    """Return the key of other bytes of the same file."""
    return f"{key.removesuffix('.parquet')}~{digest[:16]}.parquet"


def _read_pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(parts.PIECE_BYTES):
            yield piece
