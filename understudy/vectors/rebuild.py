"""Rebuild an index at a site from its stored vectors, never by embedding again, and prove it before it serves.

Rows are proven by digest, read back; the HNSW graph, whose build is random, by recall against exact search.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from understudy.errors import Conflict, Corrupt, NotFound, NotReady, Refused, Unsupported
from understudy.report import Report, human_seconds, quiet
from understudy.threads import ThreadPool
from understudy.vault.lanes import each
from understudy.vectors import manifest as manifests
from understudy.vectors import parquet
from understudy.vectors.interface import NotADefinition
from understudy.vectors.labels import Rebuilt, worth_telling
from understudy.vectors.plan import DELETES_MAX, Part, recall, recall_queries
from understudy.vectors.verify import prove

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    import pyarrow as pa

    from understudy.report import Progress
    from understudy.vault.store import Vault
    from understudy.vectors.interface import Description, Green, VectorStore
    from understudy.vectors.manifest import Manifest

logger = logging.getLogger("understudy.vectors")

RECALL_MIN = 0.99
RECALL_AT = 10
_LOADS = 2


def rebuild(
    vault: Vault,
    target: VectorStore,
    *,
    index: str,
    sequence: int | None = None,
    deletes_max: int = DELETES_MAX,
    full: bool = False,
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
        full: also where the target says that it serves this very sequence: after damage.
        progress: told about rows loaded and read back, and when the graph and the swap begin.

    Raises:
        NotFound: the vault has no such index or sequence.
        Refused: more rows would vanish; the target serves what it served.
        Conflict: another rebuild is running, or swapped in something while this one ran, or something newer serves.
        Corrupt: the vault's bytes, or the rows read back, are not those of the manifest; or the manifest holds what is
            no definition of a table or an index, of which nothing was run.
        NotReady: the graph does not reach a recall of 0.99 at any effort.
    """
    started = time.monotonic()
    manifest = manifests.wanted(vault, index, sequence)
    watermark = manifests.watermark_now(vault, manifest)
    served = _served(target)
    if not full and served is not None and _serves(served, manifest):
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
            details={"sequence": manifest.sequence, "digest": manifest.digest, **worth_telling(served.labels)},
        )
    with _named(vault, manifest), target.green(manifest.schema, manifest.sequence) as green:
        if sequence is None:
            _refuse_older(green.served, manifest, vault)
        if green.served is not None and not manifest.parts:
            _refuse_deletes(index, green.served.rows, deletes_max)
        bytes_read = _load(vault, manifest, green, progress)
        _refuse_deletes(index, green.vanishing(), deletes_max)
        progress(f"{index}: read back", 0, manifest.rows, "rows")
        prove(green.snapshot, manifest, progress, "the rebuilt index")
        progress(f"{index}: index", 0, manifest.rows, "rows")
        hnsw_seconds = green.finish()
        if green.describe().schema.definition() != manifest.schema.definition():
            message = (
                f"{target.url} made other columns or indexes of {index} than sequence {manifest.sequence} asks for"
            )
            raise Unsupported(message, hint="compare the two tables' definitions; nothing was swapped")
        found, effort = _measure_recall(green, manifest)
        rebuilt = Rebuilt(
            sequence=manifest.sequence,
            digest=manifest.digest,
            vault=vault.url,
            ef_search=effort,
            recall=round(found, 4),
        )
        labels = rebuilt.beside(manifest.labels)
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
            **worth_telling(labels),
        },
    )


def preview(
    vault: Vault,
    target: VectorStore,
    *,
    index: str,
    sequence: int | None = None,
    deletes_max: int = DELETES_MAX,
    full: bool = False,
) -> Report:
    """Say what ``rebuild`` would do, and change nothing.

    Which rows would vanish is known only when all are loaded, so the count of rows says what is sure: the least that
    would vanish; the sentence says so where more are possible than may.

    Raises:
        NotFound: the vault has no such index or sequence.
        Refused: more rows than ``deletes_max`` would vanish for certain.
        Conflict: something newer is served, and no sequence was named.
        Corrupt: the manifest is not what was written, or holds what is no definition of a table or an index.
        Unsupported: a later version wrote it.
    """
    manifest = manifests.wanted(vault, index, sequence)
    served = _served(target)
    if not full and served is not None and _serves(served, manifest):
        changed, words = False, f"unchanged, sequence {manifest.sequence} is served with {served.rows:,} rows"
    else:
        if sequence is None:
            _refuse_older(served, manifest, vault)
        standing = served.rows if served is not None else 0
        _refuse_deletes(index, standing - manifest.rows, deletes_max)
        stands = f"{standing:,} rows" if served is not None else "nothing"
        known = Rebuilt.read(served.labels).sequence if served is not None else None
        from_words = f"sequence {known}, {stands}" if known is not None else stands
        unknown = "" if standing <= deletes_max else f"; refused if more than {deletes_max:,} of the rows would vanish"
        changed, words = True, f"{from_words} -> sequence {manifest.sequence}, {manifest.rows:,} rows{unknown}"
    return Report(
        noun="vectors",
        name=index,
        verdict="changed" if changed else "unchanged",
        sentence=f"{index}: {words}",
        items_total=manifest.rows,
        items_new=manifest.rows if changed else 0,
        bytes_total=sum(part.size for part in manifest.parts),
        watermark=manifests.watermark_now(vault, manifest),
        version=str(manifest.sequence),
        details={"sequence": manifest.sequence, "digest": manifest.digest},
    )


@contextmanager
def _named(vault: Vault, manifest: Manifest) -> Iterator[None]:
    """Say which manifest holds what is no definition."""
    try:
        yield
    except NotADefinition as error:
        message = f"{manifest.key} in {vault.url} holds what is not to be run: {error.message}"
        hint = (
            "nothing was run; if this version did not write it, find out who can write to the vault, and set "
            "vault.trust; else export again, or rebuild an earlier sequence"
        )
        raise Corrupt(message, hint=hint) from error


def _served(target: VectorStore) -> Description | None:
    try:
        return target.describe()
    except NotFound:
        return None


def _serves(served: Description, manifest: Manifest) -> bool:
    """Whether the target says that it serves this sequence, and nothing that is quickly seen speaks against it."""
    rebuilt = Rebuilt.read(served.labels)
    return (
        (rebuilt.sequence, rebuilt.digest) == (manifest.sequence, manifest.digest)
        and served.rows == manifest.rows
        and served.schema.definition() == manifest.schema.definition()
    )


def _refuse_older(served: Description | None, manifest: Manifest, vault: Vault) -> None:
    rebuilt = Rebuilt.read(served.labels if served else {})
    if rebuilt.vault == vault.url and isinstance(rebuilt.sequence, int) and rebuilt.sequence > manifest.sequence:
        message = (
            f"{manifest.index} serves sequence {rebuilt.sequence}, the newest in {vault.url} is {manifest.sequence}"
        )
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

    def load(parts: Sequence[Part]) -> int:
        return green.load(batches(parts))

    shares = [manifest.parts[place::_LOADS] for place in range(_LOADS)]
    with ThreadPool(_LOADS, thread_name_prefix="vectors") as pool:
        list(each(pool, (partial(load, share) for share in shares if share), ahead=_LOADS))
    return done[1]


def _read_part(vault: Vault, manifest: Manifest, part: Part) -> pa.Table:
    key = manifest.data_key(part)
    try:
        # No more than was written: another object under its key may be of any size.
        data = vault.store.get_range(key, 0, part.size)
    except NotFound as error:
        message = f"{key} is missing from {vault.url}"
        raise Corrupt(message, hint="rebuild from an earlier sequence, or export again") from error
    except Corrupt:
        data = b""  # it ends before that
    if hashlib.sha256(data).hexdigest() != part.sha256:
        message = f"{key} in {vault.url} is not what was written: its SHA-256 differs"
        raise Corrupt(message, hint="delete that object, then export again; or rebuild from an earlier sequence")
    return parquet.decode(manifest.schema, data)


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
