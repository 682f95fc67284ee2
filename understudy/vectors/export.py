"""Export an index into the vault: its rows by buckets, each named by its digest and sent once; the manifest last."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from understudy.errors import Conflict, Corrupt, Refused
from understudy.report import Report, human_bytes, human_seconds, quiet
from understudy.threads import ThreadPool
from understudy.vault.lanes import each
from understudy.vectors import manifest as manifests
from understudy.vectors import parquet
from understudy.vectors.digest import bucket_digest, index_digest
from understudy.vectors.labels import of_owner
from understudy.vectors.manifest import Manifest, data_key
from understudy.vectors.plan import DELETES_MAX, Part, bucket_count
from understudy.vectors.spill import SLICES, Buckets, ids_missing

if TYPE_CHECKING:
    import pyarrow as pa

    from understudy.report import Progress
    from understudy.vault.store import Vault
    from understudy.vectors.interface import VectorStore

_UPLOADS = 4


def export(
    source: VectorStore,
    vault: Vault,
    *,
    index: str,
    deletes_max: int = DELETES_MAX,
    progress: Progress = quiet,
) -> Report:
    """Bring the vault up to date with an index: buckets whose rows did not change are not sent again.

    When rows, schema and labels are those of the newest sequence, nothing is written but the watermark.

    Args:
        source: the index to read, in one consistent state.
        vault: where to.
        index: its name there.
        deletes_max: rows that may have vanished since the newest sequence.
        progress: told about rows read and buckets sent.

    Raises:
        Refused: more rows have vanished; nothing was published.
        Conflict: another export published a sequence while this one ran.
        Unsupported: the index holds what cannot be carried exactly.
        Corrupt: an id is there twice.
    """
    started = time.monotonic()
    previous = manifests.newest(vault, index)
    with source.snapshot(SLICES) as snapshot:
        schema = snapshot.description.schema
        count = bucket_count(snapshot.description.rows, previous.buckets if previous else None)
        with Buckets(schema, count) as buckets:
            buckets.read(snapshot, progress, f"{index}: read")
            comparable = previous if previous and previous.schema.layout() == schema.layout() else None
            sender = _Sender(vault, index, buckets, comparable)
            parts = sender.send(progress)
    digest = index_digest(schema, count, [(part.bucket, part.rows, part.digest) for part in parts])
    manifest = Manifest(
        index=index,
        sequence=previous.sequence + 1 if previous else 1,
        source=source.url,
        taken=snapshot.watermark,
        schema=schema,
        labels=of_owner(snapshot.description.labels),
        buckets=count,
        parts=tuple(parts),
        digest=digest,
    )
    unchanged = previous is not None and _same(previous, manifest)
    if unchanged and previous is not None:
        manifest = previous
    else:
        vanished = sender.vanished(manifest.rows)
        if vanished > deletes_max:
            message = f"{vanished:,} rows have vanished from {index}, more than the limit of {deletes_max:,}"
            raise Refused(
                message,
                hint=f"the vault keeps sequence {previous.sequence if previous else 0}; if they are meant to be gone, "
                "raise limits.deletes_max for this run",
            )
        _publish(vault, manifest)
    manifests.advance_pointer(vault, manifest, snapshot.watermark)
    seconds = time.monotonic() - started
    rows = f"{manifest.rows:,} rows in {len(parts)} buckets"
    if unchanged:
        sentence = f"{index}: unchanged, {rows}; nothing sent in {human_seconds(seconds)}; digest {digest[:4]}..."
    else:
        sentence = (
            f"{index}: {rows}; {sender.sent} new, {human_bytes(sender.bytes_sent)} sent in {human_seconds(seconds)}; "
            f"digest {digest[:4]}..."
        )
    if schema.left_behind:
        sentence += f"; not carried over: {', '.join(schema.left_behind)}"
    return Report(
        noun="vectors",
        name=index,
        verdict="unchanged" if unchanged else "changed",
        sentence=sentence,
        items_total=manifest.rows,
        items_new=0 if unchanged else sender.rows_sent,
        bytes_total=buckets.bytes,
        bytes_read=buckets.bytes,
        bytes_sent=sender.bytes_sent,
        seconds=seconds,
        watermark=snapshot.watermark,
        version=str(manifest.sequence),
        proven="digest",
        details={
            "sequence": manifest.sequence,
            "digest": digest,
            "buckets": len(parts),
            "buckets_new": sender.sent,
            "model_digest": manifest.model_digest,
            "left_behind": list(schema.left_behind),
        },
    )


class _Sender:
    """Digests every bucket, and sends those that the vault does not have."""

    def __init__(self, vault: Vault, index: str, buckets: Buckets, previous: Manifest | None) -> None:
        self.sent = self.rows_sent = self.bytes_sent = 0
        self._vault = vault
        self._index = index
        self._buckets = buckets
        self._previous = previous
        self._known = {part.digest: part for part in previous.parts} if previous else {}
        same_cut = previous is not None and previous.buckets == buckets.count
        self._before = {part.bucket: part for part in previous.parts} if previous and same_cut else {}
        self._seen: set[int] = set()
        self._vanished = 0
        self._lock = threading.Lock()

    def send(self, progress: Progress) -> list[Part]:
        """Return all parts, in order."""
        numbers = self._buckets.numbers()

        def one(number: int) -> Part:
            part = self._part(number)
            progress(f"{self._index}: send", len(self._seen), len(numbers), "buckets")
            return part

        with ThreadPool(_UPLOADS, thread_name_prefix="vectors") as pool:
            parts = each(pool, (partial(one, number) for number in numbers), ahead=_UPLOADS * 2)
            return sorted(parts, key=lambda part: part.bucket)

    def vanished(self, rows: int) -> int:
        """Return how many rows of the previous sequence are gone: by id, or by count where the cut is another."""
        if self._previous is None:
            return 0
        if not self._before and self._previous.parts:
            return max(0, self._previous.rows - rows)
        gone = [part.rows for number, part in self._before.items() if number not in self._seen]
        return self._vanished + sum(gone)

    def _part(self, number: int) -> Part:
        rows = self._buckets.take(number)
        schema = self._buckets.schema
        digest = bucket_digest(schema, rows)
        before = self._before.get(number)
        part = self._known.get(digest)
        missing = 0
        if before is not None and before.digest != digest:
            missing = self._missing(before, rows)
        part = replace(part, bucket=number) if part else self._store(Part(number, rows.num_rows, digest), rows)
        with self._lock:
            self._seen.add(number)
            self._vanished += missing
        return part

    def _missing(self, before: Part, rows: pa.Table) -> int:
        """Count the previous sequence's ids of this bucket that are gone; reads their column alone."""
        schema = self._buckets.schema
        key = data_key(self._index, before.digest)
        return ids_missing(parquet.read_ids(schema, self._vault.store, key, before.size), rows.column(schema.id))

    def _store(self, part: Part, rows: pa.Table) -> Part:
        schema, store = self._buckets.schema, self._vault.store
        key = data_key(self._index, part.digest)
        data = parquet.encode(schema, rows)
        try:
            store.create(key, data)
        except Conflict:
            # Left by a run that was killed, or by another one: named by its rows, so it must hold them.
            data = store.get(key)
            found = parquet.decode(schema, data)
            if bucket_digest(schema, found) != part.digest:
                message = f"{key} in {self._vault.url} does not hold the rows that it is named after"
                raise Corrupt(message, hint="delete that object, then export again") from None
        else:
            with self._lock:
                self.sent += 1
                self.rows_sent += part.rows
                self.bytes_sent += len(data)
        return replace(part, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def _same(previous: Manifest, current: Manifest) -> bool:
    return (
        previous.digest == current.digest
        and previous.schema.definition() == current.schema.definition()
        and previous.labels == current.labels
    )


def _publish(vault: Vault, manifest: Manifest) -> None:
    try:
        vault.append(
            f"vectors/{manifest.index}/",
            lambda sequence: replace(manifest, sequence=sequence).encode(),
            after=manifest.sequence - 1,
            suffix="/manifest.json",
        )
    except Conflict as error:
        # Its state may be the newer one; a number higher than its would say otherwise.
        message = f"another export of {manifest.index} published sequence {manifest.sequence} while this one ran"
        raise Conflict(message, hint="run it again") from error
