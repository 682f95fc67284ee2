"""Rows sorted into buckets with bounded memory: what does not fit waits in a temporary file."""

from __future__ import annotations

import tempfile
import threading
from collections import defaultdict
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from understudy.threads import ThreadPool
from understudy.vault.lanes import each
from understudy.vectors.digest import bucket_numbers, sort_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from understudy.report import Progress
    from understudy.vectors.interface import Schema, Snapshot

#: Into how many slices a snapshot is cut, each read in a thread of its own.
SLICES = 2
_MEMORY_BYTES = 192 << 20


class Buckets:
    """Collects record batches from many threads, and gives back each bucket's rows sorted by id.

    Args:
        schema: of the rows.
        count: how many buckets, a power of two.
        memory_bytes: rows held before all of them go to the temporary file.
    """

    def __init__(self, schema: Schema, count: int, *, memory_bytes: int = _MEMORY_BYTES) -> None:
        """Start empty."""
        self.schema = schema
        self.count = count
        self.rows = 0
        self.bytes = 0
        self._memory_bytes = memory_bytes
        self._held: defaultdict[int, list[pa.RecordBatch]] = defaultdict(list)
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._file = tempfile.TemporaryFile(prefix="understudy-vectors-")  # noqa: SIM115 - closed with the object
        self._segments: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, snapshot: Snapshot, progress: Progress, what: str) -> None:
        """Add all rows of a snapshot, every slice in a thread of its own; ``progress`` is told about ``what``."""

        def add_all(rows: Callable[[], Iterator[pa.RecordBatch]]) -> None:
            for batch in rows():
                self.add(batch)
                progress(what, self.rows, snapshot.description.rows, "rows")

        slices = len(snapshot.slices)
        with ThreadPool(max(1, slices), thread_name_prefix="vectors") as pool:
            list(each(pool, (partial(add_all, rows) for rows in snapshot.slices), ahead=slices))

    def add(self, batch: pa.RecordBatch) -> None:
        """Sort a batch's rows into their buckets. Raises Corrupt when a row has no id."""
        numbers = bucket_numbers(batch.column(batch.schema.get_field_index(self.schema.id)), self.count)
        order = np.argsort(numbers, kind="stable")
        sorted_batch = batch.take(pa.array(order))
        ordered = numbers[order]
        cuts = np.flatnonzero(np.diff(ordered, prepend=-1, append=self.count))
        with self._lock:
            self.rows += batch.num_rows
            self.bytes += sorted_batch.nbytes
            self._held_bytes += sorted_batch.nbytes
            for start, end in pairwise(cuts):
                self._held[int(ordered[start])].append(sorted_batch.slice(start, end - start))
            if self._held_bytes > self._memory_bytes:
                self._spill()

    def numbers(self) -> list[int]:
        """Return the buckets that hold rows, in order."""
        return sorted(self._held.keys() | self._segments.keys())

    def take(self, number: int) -> pa.Table:
        """Return a bucket's rows sorted by id, and forget them. Raises Corrupt on a duplicate id."""
        with self._lock:
            batches = self._held.pop(number, [])
            stored = []
            for offset, length in self._segments.pop(number, []):
                self._file.seek(offset)
                stored.append(self._file.read(length))
        for data in stored:
            batches += pa.ipc.open_stream(data).read_all().to_batches()
        return sort_rows(self.schema, pa.Table.from_batches(batches, self.schema.arrow()))

    def _spill(self) -> None:
        self._file.seek(0, 2)
        for number, batches in self._held.items():
            start = self._file.tell()
            with pa.ipc.new_stream(self._file, self.schema.arrow()) as writer:
                for batch in batches:
                    writer.write_batch(batch)
            self._segments[number].append((start, self._file.tell() - start))
        self._held.clear()
        self._held_bytes = 0


def ids_missing(before: pa.ChunkedArray, after: pa.ChunkedArray) -> int:
    """Count the ids of ``before`` that are not in ``after``."""
    found = pc.is_in(before, value_set=after.combine_chunks())
    return len(before) - int(pc.sum(found).as_py() or 0)
