"""The index: from a chunk's id to its place in a pack, as sorted Parquet shards, appended by sequence and compacted.

``index/<seq>/<shard>.parquet`` holds rows sorted by id. The schema's metadata (key ``understudy``, JSON) says how many
shards the sequence has, which earlier sequences it replaces, and, on shard 0, length and CRC32C of every pack it names.
A second key, ``understudy.seal``, is the BLAKE3 of the shard with that digest as zeros.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from understudy.errors import Conflict, Corrupt, NotFound, Unsupported
from understudy.threads import ThreadPool
from understudy.vault.chunks import ID_BYTES, RAW_BYTES_MAX, Location
from understudy.vault.documents import parse_json, shown
from understudy.vault.packs import FRAME_BYTES_MAX, PACK_BYTES_MAX, is_hex_id
from understudy.vault.store import is_number, numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from understudy.objects.interface import ObjectInfo
    from understudy.vault.store import Vault

logger = logging.getLogger("understudy.vault")

INDEX_PREFIX = "index/"
#: More live sequences than this are merged into one by the next push that writes.
LIVE_SEQUENCES_MAX = 16
#: A sequence that has so many times the rows of all newer ones is not merged with them yet.
_GROWTH = 4
#: Rows of one shard: about 45 MB in memory, about 40 MB as Parquet.
SHARD_ROWS_MAX = 1_000_000
#: As Parquet, and as it lies in memory before it is packed: a reader refuses more.
_SHARD_BYTES_MAX = 128 << 20
_METADATA_KEY = b"understudy"
#: The shard's BLAKE3, computed with these digits as zeros: Parquet proves neither its footer nor its pages.
_SEAL_KEY = b"understudy.seal"
_NO_SEAL = b"0" * 64
#: Key and value as Thrift's compact protocol writes them in the footer.
_SEAL = re.compile(re.escape(_SEAL_KEY) + rb"\x18\x40([0-9a-f]{64})")
_SHARD_HINT = "restore it from the bucket's own versions; the packs themselves say what they hold"
_READERS = 8
_CLAIM_TRIES = 100
_LOAD_TRIES = 3

SCHEMA = pa.schema(
    [
        pa.field("id", pa.binary(ID_BYTES), nullable=False),
        pa.field("pack", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("raw_length", pa.int32(), nullable=False),
        pa.field("coder", pa.string(), nullable=False),
        pa.field("base", pa.binary(ID_BYTES)),
    ]
)


class _Vanished(Corrupt):
    """A shard was listed and is gone."""


@dataclass(frozen=True, slots=True)
class PackRecord:
    """What the index remembers of a pack: its bytes, and the CRC32C that the store reported when it was written."""

    length: int
    crc32c: str | None

    def fits(self, info: ObjectInfo) -> bool:
        """Return whether a listed pack may be the one that was written: its length, and CRC32C where both have it."""
        return info.size == self.length and (not self.crc32c or not info.crc32c or info.crc32c == self.crc32c)


@dataclass(slots=True)
class Segment:
    """One shard in memory: 57 bytes a row."""

    sequence: int
    keys: NDArray[np.uint64]  # the first eight bytes of each id, big endian: what is searched
    ids: NDArray[np.uint8]  # rows x 32
    pack_of: NDArray[np.int32]
    offsets: NDArray[np.uint32]
    lengths: NDArray[np.uint32]
    raw_lengths: NDArray[np.uint32]
    coder_of: NDArray[np.int16]
    packs: list[str]
    coders: list[str]
    bases: dict[int, bytes]

    def find(self, wanted: bytes) -> int:
        """Return the row of an id, -1 when it is not here."""
        key = np.uint64(int.from_bytes(wanted[:8], "big"))
        row = int(np.searchsorted(self.keys, key))
        while row < len(self.keys) and self.keys[row] == key:
            if self.ids[row].tobytes() == wanted:
                return row
            row += 1
        return -1

    def location(self, row: int) -> Location:
        """Return one row."""
        return Location(
            self.ids[row].tobytes(),
            self.packs[self.pack_of[row]],
            int(self.offsets[row]),
            int(self.lengths[row]),
            int(self.raw_lengths[row]),
            self.coders[self.coder_of[row]],
            self.bases.get(row),
        )

    def only(self, rows: NDArray[np.int64]) -> Segment:
        """Return these rows (ascending) as a segment of their own."""
        found = enumerate(rows.tolist()) if self.bases else ()
        bases = {at: base for at, row in found if (base := self.bases.get(row))}
        return replace(
            self,
            keys=self.keys[rows],
            ids=self.ids[rows],
            pack_of=self.pack_of[rows],
            offsets=self.offsets[rows],
            lengths=self.lengths[rows],
            raw_lengths=self.raw_lengths[rows],
            coder_of=self.coder_of[rows],
            bases=bases,
        )


@dataclass(slots=True)
class ChunkIndex:
    """All live sequences of a vault's index in memory; lookups are safe from many threads."""

    segments: list[Segment] = field(default_factory=list)
    packs: dict[str, PackRecord] = field(default_factory=dict)
    live: tuple[int, ...] = ()
    replaced: tuple[tuple[int, int], ...] = ()
    #: By live sequence, as it was loaded: the ranges of those that it replaces.
    replaces: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of rows; a chunk that lies in two packs counts twice."""
        return sum(len(segment.keys) for segment in self.segments)

    def find(self, wanted: bytes) -> Location | None:
        """Return where a chunk lies, None when no pack has it. Of several places the one written last."""
        return next(self.find_all(wanted), None)

    def find_all(self, wanted: bytes) -> Iterator[Location]:
        """Yield every place of a chunk, the one written last first."""
        for segment in self.segments:
            row = segment.find(wanted)
            if row >= 0:
                yield segment.location(row)

    def find_in(self, wanted: bytes, usable: Callable[[str], bool]) -> Location | None:
        """Like ``find``, looking only at packs for which ``usable(name)`` holds."""
        return next((found for found in self.find_all(wanted) if usable(found.pack)), None)

    def by_pack(self, names: Container[str] | None = None) -> Iterator[tuple[str, list[Location]]]:
        """Yield (pack, its rows by offset) for every pack that has rows, or of these alone, one pack at a time."""
        places: dict[str, list[tuple[Segment, int]]] = {}
        for segment in self.segments:
            for number in np.unique(segment.pack_of):
                places.setdefault(segment.packs[int(number)], []).append((segment, int(number)))
        orders = {id(segment): np.argsort(segment.pack_of, kind="stable") for segment in self.segments}
        for pack in sorted(places if names is None else (name for name in places if name in names)):
            found: dict[tuple[bytes, int], Location] = {}
            for segment, number in places[pack]:
                order = orders[id(segment)]
                low = np.searchsorted(segment.pack_of, number, side="left", sorter=order)
                high = np.searchsorted(segment.pack_of, number, side="right", sorter=order)
                for row in order[low:high]:
                    location = segment.location(int(row))
                    found.setdefault((location.id, location.offset), location)
            yield pack, sorted(found.values(), key=lambda location: location.offset)


def load_index(vault: Vault) -> ChunkIndex:
    """Read every live sequence of a vault's index, in parallel.

    Raises:
        Corrupt: a shard cannot be read, or says what cannot be; the sentence names it.
    """
    for _ in range(_LOAD_TRIES - 1):
        with contextlib.suppress(_Vanished):  # a prune removed a sequence that another one replaces: list again
            return _load_index(vault)
    return _load_index(vault)


def _load_index(vault: Vault) -> ChunkIndex:
    shards: dict[int, list[str]] = {}
    for info in vault.store.list(INDEX_PREFIX):
        sequence, _, name = info.key[len(INDEX_PREFIX) :].partition("/")
        if is_number(sequence) and name.endswith(".parquet"):
            if info.size > _SHARD_BYTES_MAX:
                message = f"index shard {info.key} of {vault.url} has {info.size} bytes, which no shard has"
                raise Corrupt(message, hint=_SHARD_HINT)
            shards.setdefault(int(sequence), []).append(info.key)
    replaced: list[tuple[int, int]] = []
    replaces: dict[int, list[tuple[int, int]]] = {}
    live: list[int] = []
    segments: list[Segment] = []
    packs: dict[str, PackRecord] = {}
    waiting = sorted(shards, reverse=True)
    with ThreadPool(_READERS, thread_name_prefix="index") as pool:
        while waiting:
            # Newest first: the first few say which of the older ones need not be read at all.
            batch, waiting = waiting[: LIVE_SEQUENCES_MAX + 1], waiting[LIVE_SEQUENCES_MAX + 1 :]
            read = {key: pool.submit(_read_shard, vault, key, number) for number in batch for key in shards[number]}
            for number in batch:
                if _within(number, replaced):
                    continue
                parts = [read[key].result() for key in shards[number]]
                told = {part[1]["shards"] for part in parts}
                if told == {len(parts)}:
                    replaces[number] = [(low, high) for low, high in parts[0][1].get("replaces", [])]
                    replaced += replaces[number]
                    live.append(number)
                    for _, metadata in parts:
                        for name, (length, crc32c) in metadata.get("packs", {}).items():
                            packs.setdefault(name, PackRecord(length, crc32c))
                # Of a sequence that is still being written, or was cut short, the rows are as good as any other; its
                # packs count as named by no index, so that the next push adopts them whole.
                segments += [segment for segment, _ in parts]
            waiting = [number for number in waiting if not _within(number, replaced)]
    return ChunkIndex(segments, packs, tuple(sorted(live)), _merged_ranges(replaced), replaces)


def prove_shard(vault: Vault, key: str) -> bool:
    """Read one shard, also one that later ones replace, and return whether it carries a seal. Raises Corrupt."""
    segment, metadata = _read_shard(vault, key, 0)
    del segment
    return bool(metadata.get("sealed"))


def replaced_segments(vault: Vault, index: ChunkIndex) -> Iterator[Segment]:
    """Yield the shards that an index does not read any more, because later sequences replace them; damaged ones not."""
    for info in vault.store.list(INDEX_PREFIX):
        number, _, name = info.key[len(INDEX_PREFIX) :].partition("/")
        if not (is_number(number) and name.endswith(".parquet") and info.size <= _SHARD_BYTES_MAX):
            continue
        if _within(int(number), index.replaced) and int(number) not in index.live:
            try:
                segment, _ = _read_shard(vault, info.key, int(number))
            except Corrupt as error:
                logger.warning("%s", error.message)
                continue
            yield segment


def segment_of(rows: Sequence[Location]) -> Segment:
    """Return places as a segment, sorted by id, as if a sequence had them."""
    return _segment_of(_table_of(rows), 0)


def append_index(
    vault: Vault,
    index: ChunkIndex,
    rows: Sequence[Location],
    packs: dict[str, PackRecord],
    *,
    absent: Container[str] = (),
) -> tuple[int, int]:
    """Write new rows as the next sequence and return (its number, the bytes written); see ``appended``."""
    after, sent = appended(vault, index, rows, packs, absent=absent)
    return after.live[-1], sent


def appended(
    vault: Vault,
    index: ChunkIndex,
    rows: Sequence[Location],
    packs: dict[str, PackRecord],
    *,
    absent: Container[str] = (),
) -> tuple[ChunkIndex, int]:
    """Write new rows as the next sequence and return (the index with them, the bytes written).

    When more than ``LIVE_SEQUENCES_MAX`` would be live, the new sequence also holds the rows of the newest of them and
    says that it replaces those; nothing is deleted. Older, much larger ones stay as they are, so that a row is
    written again a few times in its life, however many sequences there will be. ``index`` itself stays as it was.

    Args:
        vault: where to.
        index: as it was loaded last, or returned by the last call.
        rows: the new ones.
        packs: length and CRC32C of the packs that they name.
        absent: packs that are gone or condemned: of a chunk that has another place, theirs is not kept.
    """
    table, merged = _table_of(rows), frozenset[int]()
    replaces: tuple[tuple[int, int], ...] = ()
    recorded: dict[str, PackRecord] = packs
    if len(index.live) >= LIVE_SEQUENCES_MAX:
        merged = _newest(index, table.num_rows)
        table = _merge(table, [segment for segment in index.segments if segment.sequence in merged], absent)
        replaces = _merged_ranges([*index.replaced, *((number, number) for number in merged)])
        # A pack of which every chunk lies elsewhere too has no row any more, and is known here alone.
        staying = {pack for segment in index.segments if segment.sequence not in merged for pack in segment.packs}
        going = {pack for segment in index.segments if segment.sequence in merged for pack in segment.packs}
        recorded = {name: kept for name, kept in index.packs.items() if name in going or name not in staying} | packs
    sequence, sent = _append(vault, index, table, recorded, replaces)
    after = ChunkIndex(
        [_segment_of(table, sequence), *(each for each in index.segments if each.sequence not in merged)],
        {**index.packs, **packs},
        tuple(sorted({*index.live, sequence} - merged)),
        _merged_ranges([*index.replaced, *replaces]),
    )
    return after, sent


def _newest(index: ChunkIndex, rows: int) -> frozenset[int]:
    """Return the newest half of the live sequences, and older ones as long as they are not much larger than those."""
    sizes = dict.fromkeys(index.live, 0)
    for segment in index.segments:
        if segment.sequence in sizes:
            sizes[segment.sequence] += len(segment.keys)
    chosen: set[int] = set()
    for number in reversed(index.live):
        if len(chosen) >= LIVE_SEQUENCES_MAX // 2 and sizes[number] > _GROWTH * rows:
            break
        chosen.add(number)
        rows += sizes[number]
    return frozenset(chosen)


def compact_index(
    vault: Vault,
    index: ChunkIndex,
    *,
    keep: Callable[[int], NDArray[np.bool_]],
    first: Callable[[int], NDArray[np.bool_]],
    dropped: Container[str],
) -> tuple[int, int]:
    """Write one sequence in the place of all live ones, without some rows; return (its number, the bytes written).

    Args:
        vault: where to.
        index: as it was loaded last.
        keep: from a segment's position in ``index.segments`` to which of its rows go in.
        first: likewise, which rows are the place to keep of a chunk that has several; else it is the one written last.
        dropped: packs that the new sequence does not know any more.
    """
    numbers = [number for number, segment in enumerate(index.segments) if segment.sequence in index.live]
    parts = [_table_of_segment(index.segments[number]).filter(pa.array(keep(number))) for number in numbers]
    later = [~first(number)[keep(number)] for number in numbers]
    table = pa.concat_tables([_table_of(()), *parts]).combine_chunks()
    order = np.argsort(np.concatenate([np.zeros(0, bool), *later]), kind="stable")
    packs = {name: record for name, record in index.packs.items() if name not in dropped}
    return _append(vault, index, _first_of_each(table.take(pa.array(order))), packs, _all_of(index))


def _all_of(index: ChunkIndex) -> tuple[tuple[int, int], ...]:
    return _merged_ranges([*index.replaced, *((number, number) for number in index.live)])


def _append(
    vault: Vault,
    index: ChunkIndex,
    table: pa.Table,
    packs: Mapping[str, PackRecord],
    replaces: tuple[tuple[int, int], ...],
) -> tuple[int, int]:
    shards = [table.slice(start, SHARD_ROWS_MAX) for start in range(0, max(1, table.num_rows), SHARD_ROWS_MAX)]
    encoded = []
    for number, shard in enumerate(shards):
        metadata: dict[str, Any] = {"format": 1, "shards": len(shards), "replaces": replaces}
        if number == 0:
            metadata["packs"] = {name: [record.length, record.crc32c] for name, record in sorted(packs.items())}
        encoded.append(_encode(shard, metadata))
    # Shard 0 claims the number; a sequence counts as whole, and as a replacement, only when all its shards are there.
    sequence = max((*index.live, *(segment.sequence for segment in index.segments), 0)) + 1
    for _ in range(_CLAIM_TRIES):
        try:
            vault.put_once(_shard_key(sequence, 0), encoded[0])
            break
        except Conflict:  # another writer's, since this index was loaded
            sequence = max(sequence, vault.latest(INDEX_PREFIX)) + 1
    else:
        message = f"{_CLAIM_TRIES} other writers took the next index sequence of {vault.url}"
        raise Conflict(message, hint="look for a run that repeats itself")
    for number, data in enumerate(encoded[1:], start=1):
        vault.put_once(_shard_key(sequence, number), data)
    return sequence, sum(len(data) for data in encoded)


def _segment_of(table: pa.Table, sequence: int) -> Segment:
    """Return what ``load_index`` would make of a table that was written as that sequence."""
    ids = _ids_of(table.column("id"))
    pack_of, names = _decoded(table.column("pack"))
    coder_of, coders = _decoded(table.column("coder"))
    bases = table.column("base")
    based = [] if bases.null_count == len(bases) else bases.to_pylist()
    return Segment(
        sequence=sequence,
        keys=_keys_of(ids),
        ids=ids.copy(),
        pack_of=pack_of.astype(np.int32),
        offsets=table.column("offset").to_numpy().astype(np.uint32),
        lengths=table.column("length").to_numpy().astype(np.uint32),
        raw_lengths=table.column("raw_length").to_numpy().astype(np.uint32),
        coder_of=coder_of.astype(np.int16),
        packs=names,
        coders=coders,
        bases={row: base for row, base in enumerate(based) if base is not None},
    )


def _shard_key(sequence: int, shard: int) -> str:
    return f"{INDEX_PREFIX}{numbered(sequence)}/{shard:05d}.parquet"


def _within(number: int, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(low <= number <= high for low, high in ranges)


def _merged_ranges(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _table_of(rows: Sequence[Location]) -> pa.Table:
    ordered = sorted(rows, key=lambda row: (row.id, row.pack, row.offset))
    columns = [
        pa.array([row.id for row in ordered], pa.binary(ID_BYTES)),
        pa.array([row.pack for row in ordered], pa.string()),
        pa.array([row.offset for row in ordered], pa.int64()),
        pa.array([row.length for row in ordered], pa.int32()),
        pa.array([row.raw_length for row in ordered], pa.int32()),
        pa.array([row.coder for row in ordered], pa.string()),
        pa.array([row.base for row in ordered], pa.binary(ID_BYTES)),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _merge(new: pa.Table, segments: Sequence[Segment], absent: Container[str]) -> pa.Table:
    """Return one table sorted by id in which each id stands once: at the place written last that is not absent."""
    gone = [np.zeros(new.num_rows, bool)]
    gone += [np.array([name in absent for name in segment.packs], bool)[segment.pack_of] for segment in segments]
    table = pa.concat_tables([new, *(_table_of_segment(segment) for segment in segments)]).combine_chunks()
    order = np.argsort(np.concatenate(gone), kind="stable")
    return _first_of_each(table.take(pa.array(order)))


def _first_of_each(table: pa.Table) -> pa.Table:
    """Return the table sorted by id, of the rows of one id the first alone."""
    ids = _ids_of(table.column("id")).view(f"S{ID_BYTES}").ravel()
    order = np.argsort(ids, kind="stable")  # stable: the parts come newest first
    ordered = ids[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return table.take(pa.array(order[first]))


def _table_of_segment(segment: Segment) -> pa.Table:
    rows = len(segment.keys)
    bases: list[bytes | None] = [None] * rows if segment.bases else []
    for row, base in segment.bases.items():
        bases[row] = base
    columns = [
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(ID_BYTES), rows, [None, pa.py_buffer(segment.ids)]),
        pa.DictionaryArray.from_arrays(pa.array(segment.pack_of), pa.array(segment.packs, pa.string())).cast(
            pa.string()
        ),
        pa.array(segment.offsets.astype(np.int64)),
        pa.array(segment.lengths.astype(np.int32)),
        pa.array(segment.raw_lengths.astype(np.int32)),
        pa.DictionaryArray.from_arrays(pa.array(segment.coder_of), pa.array(segment.coders, pa.string())).cast(
            pa.string()
        ),
        pa.array(bases, pa.binary(ID_BYTES)) if segment.bases else pa.nulls(rows, pa.binary(ID_BYTES)),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _encode(table: pa.Table, metadata: dict[str, Any]) -> bytes:
    target = io.BytesIO()
    told = {_METADATA_KEY: orjson.dumps({**metadata, "sealed": True}), _SEAL_KEY: _NO_SEAL}
    with_metadata = table.replace_schema_metadata(told)
    pq.write_table(
        with_metadata,
        target,
        compression="zstd",
        use_dictionary=["pack", "coder"],
        write_statistics=["id"],
    )
    data = target.getvalue()
    found = _SEAL.search(data, data.rfind(_SEAL_KEY))
    if found is None:
        raise Unsupported(
            "this version of pyarrow writes metadata otherwise than the index knows",
            hint="install the version of pyarrow that the lock file names",
        )
    start, end = found.span(1)
    return data[:start] + blake3(data).hexdigest().encode() + data[end:]


def _check_seal(data: bytes) -> bool:
    """Return whether a shard has a seal; one from before has none. Raises ValueError when it does not fit."""
    found = _SEAL.search(data, max(0, data.rfind(_SEAL_KEY)))
    if found is None:
        return False
    start, end = found.span(1)
    digest = blake3(memoryview(data)[:start]).update(_NO_SEAL).update(memoryview(data)[end:])
    if digest.hexdigest().encode() != found[1]:
        message = "it does not fit its seal"
        raise ValueError(message)
    return True


def _ids_of(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    flat = column.combine_chunks()
    array = flat if isinstance(flat, pa.Array) else flat.chunk(0)
    buffer = array.buffers()[1]
    if buffer is None or len(array) == 0:
        return np.empty((0, ID_BYTES), np.uint8)
    whole = np.frombuffer(buffer, np.uint8)
    start = array.offset * ID_BYTES
    return whole[start : start + len(array) * ID_BYTES].reshape(-1, ID_BYTES)


def _keys_of(ids: NDArray[np.uint8]) -> NDArray[np.uint64]:
    return np.ascontiguousarray(ids[:, :8]).view(">u8").ravel().astype(np.uint64)


def _read_shard(vault: Vault, key: str, sequence: int) -> tuple[Segment, dict[str, Any]]:
    try:
        data = vault.store.get(key)
    except NotFound as error:
        message = f"index shard {key} vanished from {vault.url} while it was read"
        raise _Vanished(message, hint=_SHARD_HINT) from error
    try:
        return _parse_shard(data, sequence)
    except (
        pa.ArrowException,
        OSError,
        AttributeError,
        LookupError,
        MemoryError,
        OverflowError,
        TypeError,
        ValueError,
    ) as error:
        message = f"index shard {key} of {vault.url} is damaged: {shown(str(error).partition(chr(10))[0])}"
        raise Corrupt(message, hint=_SHARD_HINT) from error


def _parse_shard(data: bytes, sequence: int) -> tuple[Segment, dict[str, Any]]:
    sealed = _check_seal(data)
    file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=["pack", "coder"])
    metadata = parse_json((file.schema_arrow.metadata or {})[_METADATA_KEY])
    if metadata.get("format") != 1:
        message = f"its format is {str(metadata.get('format'))[:20]}, this version of understudy reads 1"
        raise ValueError(message)
    _check_metadata(metadata)
    _check_bounds(file)
    if metadata.get("sealed") and not sealed:
        message = "its seal is damaged"
        raise ValueError(message)
    table = file.read().combine_chunks()
    if [column.null_count for column in table.columns[:-1]] != [0] * (len(SCHEMA) - 1):
        message = "a row lacks a value"
        raise ValueError(message)
    ids = _ids_of(table.column("id"))
    keys = _keys_of(ids)
    if np.any(keys[1:] < keys[:-1]):
        message = "its rows are not sorted by id"
        raise ValueError(message)
    pack_of, packs = _decoded(table.column("pack"))
    coder_of, coders = _decoded(table.column("coder"))
    numbers = [table.column(name).to_numpy() for name in ("offset", "length", "raw_length")]
    if len(ids) and (
        min(int(part.min()) for part in numbers) < 0
        or int(numbers[0].max()) > PACK_BYTES_MAX
        or int(numbers[1].max()) > FRAME_BYTES_MAX
        or int(numbers[2].max()) > RAW_BYTES_MAX
        or int((numbers[0] + numbers[1]).max()) > PACK_BYTES_MAX
    ):
        message = "a chunk lies outside of what a pack can hold"
        raise ValueError(message)
    if not all(is_hex_id(name) for name in packs):
        message = "it names something that is no pack"
        raise ValueError(message)
    base = table.column("base")
    bases: dict[int, bytes] = {}
    if base.null_count != len(base):
        bases = {row: value for row, value in enumerate(base.to_pylist()) if value is not None}
    segment = Segment(
        sequence=sequence,
        keys=keys,
        ids=ids.copy(),
        pack_of=pack_of.astype(np.int32),
        offsets=numbers[0].astype(np.uint32),
        lengths=numbers[1].astype(np.uint32),
        raw_lengths=numbers[2].astype(np.uint32),
        coder_of=coder_of.astype(np.int16),
        packs=packs,
        coders=coders,
        bases=bases,
    )
    return segment, metadata


def _check_metadata(metadata: dict[str, Any]) -> None:
    """Refuse metadata of another shape, before any of it is followed. Raises ValueError, TypeError, KeyError."""
    ranges = [bound for low, high in metadata.get("replaces", []) for bound in (low, high)]
    lengths = [length for length, _ in metadata.get("packs", {}).values()]
    sums = [crc32c for _, crc32c in metadata.get("packs", {}).values()]
    numbers = [metadata["shards"], *ranges, *lengths]
    if not all(type(number) is int and number >= 0 for number in numbers):
        message = "its metadata holds something that is not a number"
        raise ValueError(message)
    if not all(is_hex_id(name) for name in metadata.get("packs", {})):
        message = "its metadata names something that is no pack"
        raise ValueError(message)
    if not all(crc32c is None or isinstance(crc32c, str) for crc32c in sums):
        message = "its metadata holds a CRC32C that is not text"
        raise TypeError(message)


def _check_bounds(file: pq.ParquetFile) -> None:
    """Refuse a file of other columns, or one that would grow beyond what a shard is, before it is read."""
    found = [(column.name, column.type) for column in file.schema_arrow]
    plain = [
        (name, kind.value_type if pa.types.is_dictionary(kind) and name in ("pack", "coder") else kind)
        for name, kind in found
    ]
    if plain != [(column.name, column.type) for column in SCHEMA]:
        message = "it has other columns than an index"
        raise ValueError(message)
    about = file.metadata
    groups = [about.row_group(number) for number in range(about.num_row_groups)]
    rows = max(about.num_rows, sum(group.num_rows for group in groups))
    size = sum(group.column(number).total_uncompressed_size for group in groups for number in range(group.num_columns))
    if rows > SHARD_ROWS_MAX or size > _SHARD_BYTES_MAX:
        message = f"it declares {rows} rows and {size} bytes, which no shard has"
        raise ValueError(message)


def _decoded(column: pa.ChunkedArray) -> tuple[NDArray[np.integer[Any]], list[str]]:
    flat = column.combine_chunks()
    array = flat if isinstance(flat, pa.Array) else flat.chunk(0)
    if not isinstance(array, pa.DictionaryArray):
        # Arrow's own way, dictionary_encode, needs pyarrow.compute: a start of 40 ms for some names.
        numbers: dict[str, int] = {}
        indices = [numbers.setdefault(name, len(numbers)) for name in array.to_pylist()]
        return np.array(indices, np.int32), list(numbers)
    return array.indices.to_numpy(zero_copy_only=False), [str(name) for name in array.dictionary.to_pylist()]
