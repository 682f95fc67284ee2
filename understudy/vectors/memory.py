"""A vector store in memory: the executable description of ``interface.py``. Its approximate search is exact."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from understudy.errors import Conflict, Corrupt, NotFound, Refused
from understudy.vectors.copy_binary import vector_bits
from understudy.vectors.interface import Description, Hit, NoSuchIndex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from understudy.vectors.interface import Green, Schema, Snapshot


def _system_clock() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class _Index:
    schema: Schema
    rows: pa.Table
    labels: dict[str, Any] = field(default_factory=dict)
    token: str = ""


@dataclass(slots=True)
class _MemorySnapshot:
    watermark: datetime
    description: Description
    slices: Sequence[Callable[[], Iterator[pa.RecordBatch]]]


class MemoryVectors:
    """One index in memory.

    Args:
        name: what stands in ``url`` (``memory://name``).
        clock: returns the store's time, aware and in UTC; the system's clock by default.
    """

    ABILITIES: ClassVar[dict[str, str]] = {
        "carries": "all",
        "one state": "a copy",
        "swap": "under a lock",
        "exact search": "always",
    }

    def __init__(self, name: str = "index", *, clock: Callable[[], datetime] = _system_clock) -> None:
        """Start without an index: ``describe`` raises NotFound."""
        self.url = f"memory://{name}"
        self._clock = clock
        self._lock = threading.Lock()
        self._building = threading.Lock()
        self._index: _Index | None = None
        self._replaced = 0

    def replace(self, schema: Schema, rows: pa.Table, labels: dict[str, Any] | None = None) -> None:
        """Put an index in place, as its owner would."""
        with self._lock:
            self._replaced += 1
            self._index = _Index(schema, rows.cast(schema.arrow()), dict(labels or {}), str(self._replaced))

    def describe(self) -> Description:
        """Return schema, rows and labels. Raises NotFound."""
        return _describe(self._current())

    @contextmanager
    def snapshot(self, slices: int) -> Iterator[Snapshot]:
        """Fix the present rows: tables do not change, they are replaced."""
        watermark = self._clock()
        yield _snapshot(self._current(), watermark, slices)

    @contextmanager
    def green(self, schema: Schema, sequence: int) -> Iterator[Green]:
        """Begin a fresh index; the lock is a thread's."""
        if not self._building.acquire(blocking=False):
            message = f"another rebuild of {self.url} is running"
            raise Conflict(message, hint="wait for it to end")
        try:
            yield _MemoryGreen(self, schema, sequence)
        finally:
            self._building.release()

    def query(self, vector: np.ndarray, k: int, *, exact: bool, effort: int | None = None) -> list[Hit]:
        """Compare with every row, whatever is asked for."""
        del exact, effort
        return _search(self._current(), vector, k)

    def _current(self) -> _Index:
        with self._lock:
            if self._index is None:
                message = f"{self.url} holds no index"
                raise NoSuchIndex(message, hint="create it first")
            return self._index


class _MemoryGreen:
    """See ``interface.Green``."""

    efforts: Sequence[int] = (0,)

    def __init__(self, store: MemoryVectors, schema: Schema, sequence: int) -> None:
        self.schema = schema
        self.sequence = sequence
        self._store = store
        self._lock = threading.Lock()
        self._batches: list[pa.RecordBatch] = []
        try:
            self.served: Description | None = store.describe()
        except NotFound:
            self.served = None

    def load(self, batches: Iterable[pa.RecordBatch]) -> int:
        whole = [batch.cast(self.schema.arrow()) for batch in batches]
        with self._lock:
            self._batches += whole
        return sum(batch.num_rows for batch in whole)

    @contextmanager
    def snapshot(self, slices: int) -> Iterator[Snapshot]:
        yield _snapshot(self._built(), datetime.now(UTC), slices)

    def finish(self) -> float:
        ids = self._built().rows.column(self.schema.id)
        if pc.count_distinct(ids).as_py() != len(ids):
            message = f"{self._store.url} would hold an id twice"
            raise Corrupt(message, hint="make the id column the primary key at the source")
        return 0.0

    def describe(self) -> Description:
        return _describe(self._built())

    def vanishing(self) -> int:
        try:
            served = self._store._current()  # noqa: SLF001 - the same module
        except NotFound:
            return 0
        before = served.rows.column(served.schema.id).cast(pa.string())
        after = self._built().rows.column(self.schema.id).cast(pa.string())
        return len(before) - int(pc.sum(pc.is_in(before, value_set=after.combine_chunks())).as_py() or 0)

    def query(self, vector: np.ndarray, k: int, *, exact: bool, effort: int | None = None) -> list[Hit]:
        del exact, effort
        return _search(self._built(), vector, k)

    def sample(self, count: int) -> list[np.ndarray]:
        index = self._built()
        vectors = _floats(index.schema, index.rows.sort_by(index.schema.id))
        step = max(1, len(vectors) // max(1, count))
        return [np.array(vector, np.float32) for vector in vectors[::step][:count]]

    def swap(self, labels: dict[str, Any], *, deletes_max: int) -> None:
        store = self._store
        built = self._built()
        vanishing = self.vanishing()
        with store._lock:  # noqa: SLF001 - the same module
            token = store._index.token if store._index else None  # noqa: SLF001
            if token != (self.served.token if self.served else None):
                message = f"{store.url} was replaced while this rebuild ran"
                raise Conflict(message, hint="what serves now is newer; run it again to compare")
            if vanishing > deletes_max:
                message = f"{vanishing:,} rows of {store.url} would vanish, more than the limit of {deletes_max:,}"
                raise Refused(message)
            store._replaced += 1  # noqa: SLF001
            store._index = _Index(self.schema, built.rows, dict(labels), str(store._replaced))  # noqa: SLF001

    def _built(self) -> _Index:
        with self._lock:
            return _Index(self.schema, pa.Table.from_batches(self._batches, self.schema.arrow()))


def _describe(index: _Index) -> Description:
    return Description(index.schema, index.rows.num_rows, dict(index.labels), index.token)


def _snapshot(index: _Index, watermark: datetime, slices: int) -> _MemorySnapshot:
    rows = index.rows.num_rows
    cuts = [rows * place // max(1, slices) for place in range(max(1, slices) + 1)]
    parts = [index.rows.slice(start, end - start) for start, end in pairwise(cuts)]
    return _MemorySnapshot(watermark, _describe(index), [partial(_batches, part) for part in parts])


def _batches(rows: pa.Table) -> Iterator[pa.RecordBatch]:
    yield from rows.to_batches()


def _floats(schema: Schema, rows: pa.Table) -> np.ndarray:
    rows = rows.filter(pc.is_valid(rows.column(schema.vector)))
    bits = [vector_bits(chunk, schema.dimension) for chunk in rows.column(schema.vector).chunks]
    element = np.float32 if schema.element == "float4" else np.float16
    if not bits:
        return np.empty((0, schema.dimension), np.float32)
    return np.concatenate(bits).view(element).astype(np.float32)


def _search(index: _Index, vector: np.ndarray, k: int) -> list[Hit]:
    schema = index.schema
    rows = index.rows.filter(pc.is_valid(index.rows.column(schema.vector)))
    vectors, wanted = _floats(schema, rows), np.asarray(vector, np.float32)
    if schema.metric == "cosine":
        with np.errstate(all="ignore"):
            scores = vectors @ wanted / (np.linalg.norm(vectors, axis=1) * np.linalg.norm(wanted))
        scores = np.nan_to_num(scores, nan=-np.inf)
    elif schema.metric == "ip":
        scores = vectors @ wanted
    elif schema.metric == "l2":
        scores = -np.linalg.norm(vectors - wanted, axis=1)
    else:
        scores = -np.abs(vectors - wanted).sum(axis=1)
    hits = [Hit(name, float(score)) for name, score in zip(rows.column(schema.id).to_pylist(), scores, strict=True)]
    return sorted(hits, key=lambda hit: (-hit.score, hit.id))[:k]
