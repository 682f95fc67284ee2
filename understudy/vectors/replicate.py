"""Export an index into the vault, rebuild it at another site, and prove the two equal.

A vector index is rebuilt from its stored vectors, never by embedding again. Rows are proven by digest (read back before
anything serves them), the HNSW graph, whose build is random, by recall against exact search.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from understudy.errors import Conflict, Corrupt, NotFound, NotReady, Refused, Unsupported
from understudy.report import Report, human_bytes, human_seconds, quiet
from understudy.vault.store import to_json
from understudy.vectors import manifest as manifests
from understudy.vectors import parquet
from understudy.vectors.digest import bucket_digest, index_digest
from understudy.vectors.manifest import Manifest, data_key
from understudy.vectors.plan import Part, bucket_count, changed_buckets, is_newer, recall, recall_queries
from understudy.vectors.spill import Buckets, ids_missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    import pyarrow as pa

    from understudy.objects.interface import ObjectStore
    from understudy.report import Progress
    from understudy.vault.store import Vault
    from understudy.vectors.interface import Description, Green, Snapshot, VectorStore

logger = logging.getLogger("understudy.vectors")

SLICES = 2
RECALL_MIN = 0.99
RECALL_AT = 10
DELETES_MAX = 100
_UPLOADS = 4
_LOADS = 2
_POINTER_TRIES = 20
#: What a rebuild writes beside the labels of the source.
_OUR_LABELS = {"sequence", "digest", "vault", "ef_search", "recall"}


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
            _collect(snapshot, buckets, progress, f"{index}: read")
            comparable = previous if previous and previous.schema.layout() == schema.layout() else None
            sender = _Sender(vault, index, buckets, comparable)
            parts = sender.send(progress)
    labels = {name: value for name, value in snapshot.description.labels.items() if name not in _OUR_LABELS}
    digest = index_digest(schema, count, [(part.bucket, part.rows, part.digest) for part in parts])
    manifest = Manifest(
        index=index,
        sequence=previous.sequence + 1 if previous else 1,
        source=source.url,
        taken=snapshot.watermark,
        schema=schema,
        labels=labels,
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
    _advance(vault.store, index, manifest, snapshot.watermark)
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


def rebuild(
    vault: Vault,
    target: VectorStore,
    *,
    index: str,
    sequence: int | None = None,
    deletes_max: int = DELETES_MAX,
    progress: Progress = quiet,
) -> Report:
    """Make the target serve a sequence of the vault: load beside what serves, prove, swap in one step.

    May be killed anywhere: what serves goes on serving, and the next run clears up and begins again.

    Args:
        vault: where from.
        target: the index to replace.
        index: its name in the vault.
        sequence: which; None takes the newest, and never replaces a newer one. An older one must be asked for.
        deletes_max: rows served now that may vanish.
        progress: told about rows loaded and read back, and when the graph and the swap begin.

    Raises:
        NotFound: the vault has no such index or sequence.
        Refused: more rows would vanish; the target serves what it served.
        Conflict: another rebuild is running, or swapped in something while this one ran, or something newer serves.
        Corrupt: the vault's bytes, or the rows read back, are not those of the manifest.
        NotReady: the graph does not reach a recall of 0.99 at any effort.
    """
    started = time.monotonic()
    manifest = manifests.wanted(vault, index, sequence)
    watermark = _watermark(vault.store, index, manifest)
    served = _served(target)
    if served is not None and _serves(served, manifest):
        seconds = time.monotonic() - started
        return Report(
            noun="vectors",
            name=index,
            verdict="unchanged",
            sentence=f"{index}: unchanged, sequence {manifest.sequence} is served with {served.rows:,} rows",
            items_total=served.rows,
            seconds=seconds,
            watermark=watermark,
            version=str(manifest.sequence),
            proven="sequence, rows",
            details={"sequence": manifest.sequence, "digest": manifest.digest, **_found(served.labels)},
        )
    with target.green(manifest.schema, manifest.sequence) as green:
        if sequence is None:
            _refuse_older(green.served, manifest, vault)
        if green.served is not None and not manifest.parts:
            _refuse_deletes(index, green.served.rows, deletes_max)
        bytes_read = _load(vault, manifest, green, progress)
        _refuse_deletes(index, green.vanishing(), deletes_max)
        progress(f"{index}: read back", 0, manifest.rows, "rows")
        _prove(green.snapshot, manifest, progress, "the rebuilt index")
        progress(f"{index}: index", 0, manifest.rows, "rows")
        hnsw_seconds = green.finish()
        if green.describe().schema.definition() != manifest.schema.definition():
            message = (
                f"{target.url} made other columns or indexes of {index} than sequence {manifest.sequence} asks for"
            )
            raise Unsupported(message, hint="compare the two tables' definitions; nothing was swapped")
        found, effort = _measure_recall(green, manifest)
        labels = {
            **manifest.labels,
            "sequence": manifest.sequence,
            "digest": manifest.digest,
            "vault": vault.url,
            "ef_search": effort,
            "recall": round(found, 4),
        }
        progress(f"{index}: swap", 0, 1, "swap")
        green.swap(labels, deletes_max=deletes_max)
        progress(f"{index}: swap", 1, 1, "swap")
    seconds = time.monotonic() - started
    graph = f", HNSW in {human_seconds(hnsw_seconds)}" if manifest.schema.hnsw else ""
    return Report(
        noun="vectors",
        name=index,
        verdict="changed",
        sentence=(
            f"{index}: rebuilt {manifest.rows:,} rows in {human_seconds(seconds)}{graph}, digest equal, "
            f"recall@{RECALL_AT} {found:.3f}"
        ),
        items_total=manifest.rows,
        items_new=manifest.rows,
        bytes_total=bytes_read,
        bytes_read=bytes_read,
        bytes_sent=bytes_read,
        seconds=seconds,
        watermark=watermark,
        version=str(manifest.sequence),
        proven=f"digest, recall@{RECALL_AT} {found:.3f}",
        details={
            "sequence": manifest.sequence,
            "digest": manifest.digest,
            "hnsw_seconds": round(hnsw_seconds, 3),
            **_found(labels),
        },
    )


def verify(vault: Vault, target: VectorStore, *, index: str, progress: Progress = quiet) -> Report:
    """Read all rows that the target serves and compare with the sequence that it says it serves.

    Raises:
        Corrupt: rows or definition differ; the sentence says where.
        NotReady: the target was never rebuilt from this vault.
        NotFound: there is nothing to compare.
    """
    started = time.monotonic()
    served = target.describe()
    sequence = served.labels.get("sequence")
    if not isinstance(sequence, int):
        message = f"{index} at {target.url} was not rebuilt from a vault"
        raise NotReady(message, hint="rebuild it", next_command=f"understudy vectors rebuild {index}")
    manifest = manifests.read(vault, index, sequence)
    if served.labels.get("digest") != manifest.digest:
        message = f"{index} at {target.url} carries another digest than sequence {sequence} of the vault"
        raise Corrupt(message, hint="rebuild it", next_command=f"understudy vectors rebuild {index}")
    _prove(target.snapshot, manifest, progress, f"{index} at {target.url}")
    if served.schema.definition() != manifest.schema.definition():
        message = f"{index} at {target.url} has other columns or indexes than sequence {sequence} of the vault"
        raise Corrupt(message, hint="rebuild it", next_command=f"understudy vectors rebuild {index}")
    seconds = time.monotonic() - started
    return Report(
        noun="vectors",
        name=index,
        verdict="unchanged",
        sentence=(
            f"{index}: {manifest.rows:,} rows equal to sequence {sequence} by digest {manifest.digest[:4]}..., "
            f"in {human_seconds(seconds)}"
        ),
        items_total=manifest.rows,
        seconds=seconds,
        watermark=_watermark(vault.store, index, manifest),
        version=str(sequence),
        proven="digest",
        details={"sequence": sequence, "digest": manifest.digest, **_found(served.labels)},
    )


def pointer_key(index: str) -> str:
    """Return the key of the small mutable object that says how far the vault has come: watermark, sequence, digest."""
    return f"pointers/vectors/{index}.json"


def _collect(snapshot: Snapshot, buckets: Buckets, progress: Progress, what: str) -> None:
    """Read all slices at once, each in a thread, into buckets."""

    def read(rows: Callable[[], Iterator[pa.RecordBatch]]) -> None:
        for batch in rows():
            buckets.add(batch)
            progress(what, buckets.rows, snapshot.description.rows, "rows")

    _in_threads(read, list(snapshot.slices), len(snapshot.slices))


def _in_threads(work: Callable[[Any], Any], items: Sequence[Any], threads: int) -> list[Any]:
    """Do ``work`` on every item; at the first error the rest is not begun, and the error is raised."""
    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="vectors") as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


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

        return _in_threads(one, numbers, _UPLOADS)

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


def _advance(store: ObjectStore, index: str, manifest: Manifest, watermark: datetime) -> None:
    """Move the pointer forward by compare-and-set, never back."""
    key = pointer_key(index)
    entry = {
        "watermark": watermark.isoformat(timespec="microseconds"),
        "sequence": manifest.sequence,
        "digest": manifest.digest,
    }
    for _ in range(_POINTER_TRIES):
        token, current = _pointer(store, key)
        if not is_newer((manifest.sequence, str(entry["watermark"])), current):
            return
        try:
            store.replace(key, to_json(entry), expected=token)
        except Conflict:
            continue
        return
    message = f"{key} in {store.url} was changed by others {_POINTER_TRIES} times in a row"
    raise Conflict(message, hint="look for a run that repeats itself")


def _pointer(store: ObjectStore, key: str) -> tuple[str | None, dict[str, Any] | None]:
    """Return the pointer's token and value, which belong together; (None, None) when there is none."""
    try:
        while True:
            info = store.head(key)
            data = store.get(key)
            if store.head(key).token == info.token:
                break
        value = json.loads(data)
    except NotFound:
        return None, None
    except ValueError as error:
        message = f"{key} in {store.url} is not JSON"
        raise Corrupt(message, hint="delete it; the next export writes it again") from error
    return info.token, value


def _watermark(store: ObjectStore, index: str, manifest: Manifest) -> datetime:
    """Return until when a sequence is known to have been all there was."""
    _, value = _pointer(store, pointer_key(index))
    if value is not None and value.get("digest") == manifest.digest and value.get("sequence") == manifest.sequence:
        return datetime.fromisoformat(str(value["watermark"]))
    return manifest.taken


def _served(target: VectorStore) -> Description | None:
    try:
        return target.describe()
    except NotFound:
        return None


def _serves(served: Description, manifest: Manifest) -> bool:
    """Whether the target says that it serves this sequence, and nothing that is quickly seen speaks against it."""
    return (
        served.labels.get("sequence") == manifest.sequence
        and served.labels.get("digest") == manifest.digest
        and served.rows == manifest.rows
        and served.schema.definition() == manifest.schema.definition()
    )


def _refuse_older(served: Description | None, manifest: Manifest, vault: Vault) -> None:
    sequence = served.labels.get("sequence") if served else None
    if (
        served
        and served.labels.get("vault") == vault.url
        and isinstance(sequence, int)
        and sequence > manifest.sequence
    ):
        message = f"{manifest.index} serves sequence {sequence}, the newest in {vault.url} is {manifest.sequence}"
        raise Conflict(message, hint="name the sequence if an older one is meant")


def _refuse_deletes(index: str, vanishing: int, deletes_max: int) -> None:
    if vanishing > deletes_max:
        message = f"{vanishing:,} rows that {index} serves would vanish, more than the limit of {deletes_max:,}"
        raise Refused(
            message, hint="nothing was changed; rebuild an earlier sequence, or raise limits.deletes_max for this run"
        )


def _load(vault: Vault, manifest: Manifest, green: Green, progress: Progress) -> int:
    """Stream all parts into the green index over a few connections, and return the bytes read from the vault."""
    done = [0, 0]
    lock = threading.Lock()

    def batches(parts: Sequence[Part]) -> Iterator[pa.RecordBatch]:
        for part in parts:
            rows = _read_part(vault, manifest, part)
            yield from rows.to_batches()
            with lock:
                done[0] += part.rows
                done[1] += part.size
            progress(f"{manifest.index}: load", done[0], manifest.rows, "rows")

    shares = [manifest.parts[place::_LOADS] for place in range(_LOADS)]
    _in_threads(lambda parts: green.load(batches(parts)), [share for share in shares if share], _LOADS)
    return done[1]


def _read_part(vault: Vault, manifest: Manifest, part: Part) -> pa.Table:
    key = manifest.data_key(part)
    try:
        data = vault.store.get(key)
    except NotFound as error:
        message = f"{key} is missing from {vault.url}"
        raise Corrupt(message, hint="rebuild from an earlier sequence, or export again") from error
    if hashlib.sha256(data).hexdigest() != part.sha256:
        message = f"{key} in {vault.url} is not what was written: its SHA-256 differs"
        raise Corrupt(message, hint="delete that object, then export again; or rebuild from an earlier sequence")
    return parquet.decode(manifest.schema, data)


def _prove(
    snapshot: Callable[[int], AbstractContextManager[Snapshot]], manifest: Manifest, progress: Progress, what: str
) -> None:
    """Read every row back and compare bucket by bucket. Raises Corrupt, naming how much differs."""
    with snapshot(SLICES) as taken:
        if taken.description.schema.layout() != manifest.schema.layout():
            message = f"{what} has other columns than sequence {manifest.sequence} of the vault"
            raise Corrupt(message, hint="rebuild it")
        with Buckets(manifest.schema, manifest.buckets) as buckets:
            _collect(taken, buckets, progress, f"{manifest.index}: read back")

            def digest(number: int) -> Part:
                rows = buckets.take(number)
                return Part(number, rows.num_rows, bucket_digest(manifest.schema, rows))

            found = _in_threads(digest, buckets.numbers(), SLICES)
    differing = changed_buckets(manifest.parts, found)
    if differing:
        rows = sum(part.rows for part in found)
        message = (
            f"{what} differs from sequence {manifest.sequence} of the vault in {len(differing)} of "
            f"{len(manifest.parts)} buckets ({rows:,} rows, {manifest.rows:,} expected)"
        )
        raise Corrupt(message, hint="rebuild it; what serves was not touched by this check")


def _measure_recall(green: Green, manifest: Manifest) -> tuple[float, int]:
    """Return recall@10 against exact search, and the least effort that reaches 0.99. Raises NotReady."""
    if not manifest.schema.hnsw:
        return 1.0, 0
    queries = green.sample(recall_queries(manifest.rows))
    exact = [_scores(green, query, exact=True, effort=None) for query in queries]
    found = 1.0
    for effort in green.efforts:
        found = recall(
            [
                (wanted, _scores(green, query, exact=False, effort=effort))
                for wanted, query in zip(exact, queries, strict=True)
            ]
        )
        logger.info("%s: recall@%d %.4f at ef_search %d", manifest.index, RECALL_AT, found, effort)
        if found >= RECALL_MIN:
            return found, effort
    message = f"the rebuilt {manifest.index} reaches a recall@{RECALL_AT} of {found:.3f}, {RECALL_MIN} is needed"
    raise NotReady(message, hint="raise m or ef_construction of its HNSW index at the source")


def _scores(green: Green, query: np.ndarray, *, exact: bool, effort: int | None) -> list[float]:
    hits = green.query(query, RECALL_AT, exact=exact, effort=effort)
    # The cosine of a zero vector is no number, and no graph holds it.
    return [hit.score for hit in hits if math.isfinite(hit.score)]


def _found(labels: dict[str, Any]) -> dict[str, Any]:
    return {name: labels[name] for name in ("recall", "ef_search", "model_digest") if name in labels}
