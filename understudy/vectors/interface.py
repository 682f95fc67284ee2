"""The vector store in our words. ``memory.py`` is its executable description; every adapter passes one contract.

Rows travel as Arrow record batches whose columns stand in the schema's order, in the types of ``arrow_type``. The
vector is a ``fixed_size_list`` of the very bits that the vendor holds: NaN payloads, -0.0 and denormals included.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import pyarrow as pa

from understudy.errors import Corrupt, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    import numpy as np

Kind = Literal["text", "int2", "int4", "int8", "float4", "float8", "bool", "json", "time", "uuid", "numeric", "vector"]
Element = Literal["float4", "float2"]
Metric = Literal["cosine", "ip", "l2", "l1"]

_ARROW: dict[str, pa.DataType] = {
    "text": pa.string(),
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "bool": pa.bool_(),
    # The vendor's own text of it, which is the same for the same value.
    "json": pa.string(),
    # The ends of the range stand for -infinity and infinity.
    "time": pa.timestamp("us", "UTC"),
    "uuid": pa.string(),
    "numeric": pa.string(),
}


#: What every adapter says of itself in ``ABILITIES``, in words; "no" begins what it cannot.
ABILITIES = ("carries", "one state", "swap", "exact search")


class NoSuchIndex(NotFound):
    """The database is there and answers, the index is not in it."""


class NotADefinition(Corrupt):
    """A schema holds what is no definition of a table or an index; nothing of it was run."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: as the vendor writes it.
        kind: what it is in our words.
        declared: the vendor's own type with its limits, such as ``character varying(40)``.
        nullable: whether it may be empty.
        default: the vendor's expression; ``identity`` where the vendor numbers the rows itself; None.
    """

    name: str
    kind: Kind
    declared: str
    nullable: bool = True
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Hnsw:
    """An HNSW graph over the vector column, by its parameters; the graph itself is random and is never copied."""

    name: str
    metric: Metric
    m: int = 16
    ef_construction: int = 64


@dataclass(frozen=True, slots=True)
class PlainIndex:
    """Any other index.

    Attributes:
        name: as the vendor writes it.
        definition: the vendor's words from the access method on, such as ``USING btree (price)``.
        unique: whether it forbids doubles.
        primary: whether it is the primary key.
    """

    name: str
    definition: str
    unique: bool = False
    primary: bool = False


@dataclass(frozen=True, slots=True)
class Schema:
    """What a vector index is made of.

    Attributes:
        columns: all of them in the vendor's order, id and vector among them.
        id: name of the column whose value names a row.
        vector: name of the vector column.
        dimension: numbers in a vector.
        element: float4 or float2 (half precision).
        metric: what its nearest means.
        hnsw: its HNSW graphs.
        indexes: its other indexes.
        left_behind: what stands at the source and is not carried over ("trigger audit"), for the report.
    """

    columns: tuple[Column, ...]
    id: str
    vector: str
    dimension: int
    element: Element = "float4"
    metric: Metric = "cosine"
    hnsw: tuple[Hnsw, ...] = ()
    indexes: tuple[PlainIndex, ...] = ()
    left_behind: tuple[str, ...] = ()

    def column(self, name: str) -> Column:
        """Return a column by name. Raises KeyError."""
        return next(column for column in self.columns if column.name == name)

    @property
    def attributes(self) -> tuple[Column, ...]:
        """The columns that are neither the id nor the vector."""
        return tuple(column for column in self.columns if column.name not in {self.id, self.vector})

    def layout(self) -> dict[str, Any]:
        """Return what the digest covers beside the rows: names and types, as JSON values."""
        return {
            "columns": [[c.name, c.kind, c.declared, c.nullable] for c in self.columns],
            "dimension": self.dimension,
            "element": self.element,
            "id": self.id,
            "vector": self.vector,
        }

    def definition(self) -> dict[str, Any]:
        """Return all that a rebuilt index must have in common with its source, names of indexes left out."""
        return {
            **self.layout(),
            "defaults": {c.name: c.default for c in self.columns if c.default is not None},
            "hnsw": sorted([h.metric, h.m, h.ef_construction] for h in self.hnsw),
            "indexes": sorted([i.definition, i.unique, i.primary] for i in self.indexes),
            "metric": self.metric,
        }

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON values; ``from_json`` is the way back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Schema:
        """Read what ``as_json`` wrote. Raises Corrupt."""
        try:
            plain = {key: value[key] for key in ("id", "vector", "dimension", "element", "metric")}
            schema = cls(
                columns=tuple(Column(**column) for column in value["columns"]),
                hnsw=tuple(Hnsw(**index) for index in value["hnsw"]),
                indexes=tuple(PlainIndex(**index) for index in value["indexes"]),
                left_behind=tuple(value["left_behind"]),
                **plain,
            )
            known = all(column.kind in get_args(Kind) for column in schema.columns)
            schema.column(schema.id), schema.column(schema.vector)
        except (KeyError, TypeError, StopIteration) as error:
            message = "the schema in a vector manifest cannot be read"
            raise Corrupt(message, hint="rebuild from an earlier sequence") from error
        if not known:
            message = "a vector manifest names a kind of column that this version does not know"
            raise Corrupt(message, hint="use the version of understudy that wrote it, or a later one")
        return schema

    def arrow(self) -> pa.Schema:
        """Return the Arrow schema of the rows."""
        return pa.schema([pa.field(c.name, self.arrow_type(c), nullable=c.nullable) for c in self.columns])

    def arrow_type(self, column: Column) -> pa.DataType:
        """Return the Arrow type of a column."""
        if column.kind == "vector":
            element = pa.float32() if self.element == "float4" else pa.float16()
            return pa.list_(pa.field("element", element), self.dimension)
        return _ARROW[column.kind]


@dataclass(frozen=True, slots=True)
class Description:
    """An index as it stands.

    Attributes:
        schema: its columns and indexes.
        rows: how many there are, counted.
        labels: what its owner wrote beside it (``model_digest``, ``sequence``, ``digest``); empty when nothing.
        token: changes when the index is replaced or relabelled; what ``Green.swap`` compares.
    """

    schema: Schema
    rows: int
    labels: dict[str, Any]
    token: str


class Snapshot(Protocol):
    """One consistent state of an index, readable from many threads at once while the context is open.

    Attributes:
        watermark: on the source's own clock, taken before the state was fixed: all that was committed before it is in.
        description: as of that state.
        slices: each a function that yields the rows of one part, every row in exactly one part; in no promised order.
    """

    watermark: datetime
    description: Description
    slices: Sequence[Callable[[], Iterator[pa.RecordBatch]]]


@dataclass(frozen=True, slots=True)
class Hit:
    """One row found: its id, and its score (higher is nearer; cosine similarity, inner product, negative distance)."""

    id: str | int
    score: float


class Green(Protocol):
    """A fresh index beside the one that serves; nobody sees it until ``swap``.

    Attributes:
        served: what served when this was begun; None when nothing did.
        efforts: search efforts (HNSW's ef_search) to try for recall, smallest first.
    """

    served: Description | None
    efforts: Sequence[int]

    def load(self, batches: Iterable[pa.RecordBatch]) -> int:
        """Add rows and return how many; all of this call or none. May be called from many threads."""

    def snapshot(self, slices: int) -> AbstractContextManager[Snapshot]:
        """Read it back, as ``VectorStore.snapshot`` does."""

    def finish(self) -> float:
        """Build the primary key and plain indexes, then HNSW; returns the seconds that HNSW took."""

    def describe(self) -> Description:
        """Describe it as it stands, from what the vendor says; complete after ``finish``."""

    def vanishing(self) -> int:
        """Count rows that are served now and would no longer be, by id."""

    def query(self, vector: np.ndarray, k: int, *, exact: bool, effort: int | None = None) -> list[Hit]:
        """Search it as ``VectorStore.query`` does."""

    def sample(self, count: int) -> list[np.ndarray]:
        """Return up to ``count`` of its vectors (float32), the same ones whenever the rows are the same."""

    def swap(self, labels: dict[str, Any], *, deletes_max: int) -> None:
        """Put it in the place of what serves, in one step, with these labels; what served before is gone.

        Raises:
            Conflict: what serves is no longer what served when this was begun.
            Refused: more than ``deletes_max`` rows would vanish, counted while nobody can write.
        """


class VectorStore(Protocol):
    """One index at one vendor. Safe to use from many threads.

    Errors of every method: Unreachable, Denied, NotFound when the index (or what holds it) is missing, Unsupported when
    it has something that cannot be carried exactly; the error then names the column and its type.
    """

    url: str

    def describe(self) -> Description:
        """Return schema, rows and labels. Raises NotFound, Unsupported."""

    def snapshot(self, slices: int) -> AbstractContextManager[Snapshot]:
        """Fix one state and make it readable in up to ``slices`` parts. Writers are not held up."""

    def green(self, schema: Schema, sequence: int) -> AbstractContextManager[Green]:
        """Begin a fresh index. What a killed run left is removed first; what is not swapped in is removed at the end.

        One at a time: raises Conflict while another holds it. A holder that was killed is one no longer. Whoever can
        write to the vault chose the schema: NotADefinition when a part of it is not one to run, before any of it is.
        """

    def query(self, vector: np.ndarray, k: int, *, exact: bool, effort: int | None = None) -> list[Hit]:
        """Return the ``k`` nearest rows, score descending, then id ascending.

        Args:
            vector: float32, ``dimension`` numbers.
            k: how many.
            exact: compare with every row; otherwise ask the HNSW graph.
            effort: ef_search; None takes what the last rebuild found enough, else the vendor's own default.
        """
