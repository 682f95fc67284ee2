"""What the coders of weights do to words, in numpy. The Rust crate in ``native/`` does the same, byte for byte.

Words are little endian. ``width`` is their bytes: 1, 2, 4 or 8. A *context* of a word is the kind of its row, times
``2**bits``, plus ``bits`` bits of the base's word from ``shift`` up: its exponent. Words of one context lie together,
as they lay before, once they are sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Buffer: TypeAlias = "bytes | bytearray | memoryview"
Bytes: TypeAlias = "NDArray[np.uint8]"
Words: TypeAlias = "NDArray[np.unsignedinteger[Any]]"
Counts: TypeAlias = "NDArray[np.uint32]"

#: ``choose_modes`` looks at fewer words of a context than twice this.
SAMPLE_WORDS = 2048
#: (Bits of a symbol, low bits split off beyond the fewest) that are weighed; the first of the cheapest is taken.
CANDIDATES = ((1, 0), (2, 0), (4, 0), (4, 1), (8, 0))
#: Costs are whole numbers, so that every machine and both ways choose alike: units of 2**-12 bits.
UNIT_BITS = 12
#: n * log2(n) of all counts that a sample can have, in these units.
PLOGP = np.rint(
    np.arange(2 * SAMPLE_WORDS) * np.log2(np.maximum(np.arange(2 * SAMPLE_WORDS), 1)) * (1 << UNIT_BITS)
).astype(np.int64)
_BYTE_PRICE = (1 << UNIT_BITS) // 20
_ESCAPE_PRICE = (1 << UNIT_BITS) // 2
#: Cells of a histogram: differences 0 to 15 each, then by their bit length, 5 to 64.
_EXACT = 16
_HISTOGRAM_BINS = 76
_FINE_LOGARITHMS = np.maximum(np.arange(_HISTOGRAM_BINS) - _EXACT + 4, 0) * (np.arange(_HISTOGRAM_BINS) >= _EXACT)
#: Bits are unpacked to a byte each: in slices, so that a chunk of 16 MiB does not become 128.
_SLICE_WORDS = 1 << 16
#: A block is counted and sorted in so many runs of equal length (of whole rows where rows have kinds).
RUNS = 4
_UNSIGNED: dict[int, np.dtype[np.unsignedinteger[Any]]] = {width: np.dtype(f"<u{width}") for width in (1, 2, 4, 8)}
_SIGNED: dict[int, np.dtype[np.signedinteger[Any]]] = {width: np.dtype(f"<i{width}") for width in (1, 2, 4, 8)}

#: The states of a row, in ``survey``.
CHANGED, SHRUNK, UNCHANGED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Trend:
    """What a word of one kind of row is expected to have moved by, from the mantissa of its base.

    The expected difference is ``entries[m >> drop] + (slope * (m % 2**drop) >> 32)``, m the lowest ``mantissa`` bits.

    Attributes:
        kind: of the rows that it is for.
        mantissa: bits of the mantissa, at most 23.
        drop: how many of them do not count for the entry.
        slope: per unit of the mantissa, in units of 2**-32.
        entries: int32, ``2**(mantissa - drop)`` of them.
    """

    kind: int
    mantissa: int
    drop: int
    slope: int
    entries: NDArray[np.int32]

    def expected(self, words: Words) -> Words:
        """Return the expected difference of each word of a base, modulo the word."""
        mantissa = words.astype(np.int64) & ((1 << self.mantissa) - 1)
        rest = mantissa & ((1 << self.drop) - 1)
        moved: Words = (self.entries[mantissa >> self.drop] + ((self.slope * rest) >> 32)).astype(words.dtype)
        return moved


@dataclass(frozen=True, slots=True)
class Order:
    """How the words of a block are ordered.

    Attributes:
        width: bytes of a word.
        shift: where the context begins in the base's word.
        bits: of the context, 0 to 8; 0: all words of a kind have one.
        columns: words in a row, where rows have kinds.
        kinds: of each row; None where they have none.
        kind_count: how many kinds there are.
        trend: what words of one kind are expected to have moved by.
    """

    width: int
    shift: int = 0
    bits: int = 0
    columns: int = 0
    kinds: Bytes | None = None
    kind_count: int = 1
    trend: Trend | None = None


class Packed(NamedTuple):
    """What sorted differences are stored as; ``docs/formats.md`` says how."""

    symbols: Bytes
    low: Bytes
    escapes: Bytes
    far: Words


def words_of(data: Buffer, width: int) -> Words:
    """Return the whole words of a buffer, without a copy; what is left behind them is not there."""
    words: Words = np.frombuffer(data, dtype=_UNSIGNED[width], count=memoryview(data).nbytes // width)
    return words


def split(raw: Buffer, width: int) -> list[Bytes]:
    """Return the byte planes of the words, the highest byte's first; the sign goes to the lowest bit before.

    Words of one byte stay as they are.
    """
    words = words_of(raw, width)
    turned: Words = (words << 1) | (words >> (8 * width - 1)) if width > 1 else words  # type: ignore[assignment]
    lanes = turned.astype(_UNSIGNED[width], copy=False).view(np.uint8).reshape(-1, width)
    return [np.ascontiguousarray(lanes[:, lane]) for lane in reversed(range(width))]


def join(planes: list[Bytes], width: int) -> bytes:
    """Return the bytes whose planes these are, all of one length."""
    lanes = np.empty((planes[0].size, width), np.uint8)
    for lane, plane in zip(reversed(range(width)), planes, strict=True):
        lanes[:, lane] = plane
    if width == 1:
        return lanes.tobytes()
    words = lanes.reshape(-1).view(_UNSIGNED[width])
    words = (words >> 1) | (words << (8 * width - 1))
    return words.tobytes()


def pair(plane: Bytes, top: int) -> tuple[Bytes, Bytes]:
    """Return a plane's bytes as their distance below ``top`` (modulo 256), two to a byte, the first one low.

    A distance of 15 or more is written as 15 and follows, whole, in the second result. An odd plane ends in a 0.
    """
    distance = np.uint8(top) - plane
    far = distance[distance >= 15]
    near = np.minimum(distance, np.uint8(15))
    if near.size % 2:
        near = np.append(near, np.uint8(0))
    return near[::2] | (near[1::2] << 4), far


def unpair(pairs: Bytes, far: Bytes, top: int, length: int) -> Bytes:
    """Undo ``pair``. Raises ValueError where ``far`` is not as long as there are distances of 15, or too near."""
    distance = np.empty(2 * pairs.size, np.uint8)
    distance[::2] = pairs & 15
    distance[1::2] = pairs >> 4
    distance = distance[:length]
    places = np.flatnonzero(distance == 15)
    if places.size != far.size:
        message = f"{places.size} far bytes, {far.size} are there"
        raise ValueError(message)
    distance[places] = far
    return np.uint8(top) - distance


def join_pairs(pairs: Bytes, far: Bytes, top: int, others: list[Bytes], width: int) -> bytes:
    """Undo ``pair`` for the highest plane, then ``split``; ``others``, at least one, are the planes below it.

    Raises ValueError as ``unpair`` does.
    """
    return join([unpair(pairs, far, top, others[0].size), *others], width)


def survey(raw: Buffer, base: Buffer, width: int, columns: int, step: int) -> tuple[Counts, Bytes]:
    """Return (activity, state) of each row.

    The activity is the sum of the bit lengths of the zigzag differences of every ``step``-th word, the state UNCHANGED,
    SHRUNK (no word's difference is above 0, as signed words) or CHANGED.
    """
    source, target = words_of(base, width), words_of(raw, width)
    rows = source.size // columns
    moved = (target[: rows * columns] - source[: rows * columns]).reshape(rows, columns)
    activity = _bit_lengths(_zigzag(np.ascontiguousarray(moved[:, ::step]).reshape(-1))).reshape(rows, -1)
    shrunk = (moved.view(_SIGNED[width]) <= 0).all(axis=1)
    state = np.where(shrunk, np.where(moved.any(axis=1), SHRUNK, UNCHANGED), CHANGED)
    return activity.sum(axis=1, dtype=np.uint32), state.astype(np.uint8)


def count(base: Buffer, order: Order) -> Counts:
    """Return how many words each context has, the contexts of the first kind first: RUNS rows, one a run of the block.

    The runs are an even part of the rows each, of the words where rows have no kinds; the last ones may have fewer.
    """
    contexts = _contexts(base, order)
    units = contexts.size if order.kinds is None else order.kinds.size
    step = -(-units // RUNS) * (1 if order.kinds is None else order.columns)
    size = order.kind_count << order.bits
    runs = [np.bincount(contexts[run * step : (run + 1) * step], minlength=size) for run in range(RUNS)]
    return np.array(runs, np.uint32)


def sort(raw: Buffer, base: Buffer, order: Order, counts: Counts) -> Words:
    """Return the zigzag differences of raw to base (and what the trend expects), by context; ``counts``: the base's."""
    del counts  # the native way needs them
    moved = words_of(raw, order.width) - _expected(words_of(base, order.width), order)
    return _zigzag(moved)[np.argsort(_contexts(base, order), kind="stable")]


def unsort(ordered: Words, base: Buffer, order: Order, counts: Counts) -> bytes:
    """Undo ``sort``: return the raw bytes of the whole words."""
    del counts
    moved = np.empty_like(ordered)
    moved[np.argsort(_contexts(base, order), kind="stable")] = _unzigzag(ordered)
    moved += _expected(words_of(base, order.width), order)
    return moved.tobytes()


def choose_modes(ordered: Words, lengths: Counts) -> Bytes:
    """Return the mode of each context that has words, from a sample of them: what is likely to take the fewest bits.

    Args:
        ordered: as ``sort`` gives them.
        lengths: words of each context.

    Returns:
        For each the binary logarithm of a symbol's bits, times 64, plus how many low bits are split off.
    """
    word_bits = 8 * ordered.itemsize
    fine = _histogram(ordered, lengths)
    octave = np.add.reduceat(fine[:, :_EXACT], [0, 1, 2, 4, 8], axis=1)
    octave = np.concatenate([octave, fine[:, _EXACT:]], axis=1)  # by bit length, 0 to 64
    total = fine.sum(axis=1)
    above = total[:, None] - octave.cumsum(axis=1)  # above[:, n]: of more than n bits
    costs, modes = [], []
    for bits, extra in CANDIDATES:
        drop = np.zeros(len(fine), np.int64)
        if bits >= 4:
            # The fewest low bits with which all but few words fit into a symbol; they carry a bit each in any case.
            longest = (above * (16 if bits == 4 else 256) > total[:, None]).sum(axis=1)
            drop = np.clip(longest - bits + extra, 0, word_bits - bits)
        shifted = np.concatenate([octave, np.zeros((len(octave), 65), np.int64)], axis=1)
        shifted = np.take_along_axis(shifted, drop[:, None] + np.arange(65), axis=1)
        shifted[:, 0] = total - np.take_along_axis(above, drop[:, None], axis=1)[:, 0]
        coarse = total * (drop << UNIT_BITS) + _cost(shifted, np.maximum(np.arange(65) - 1, 0), bits, bits, word_bits)
        limit = (1 << bits) - 1
        exact = _cost(fine, _FINE_LOGARITHMS, limit if bits < 8 else _EXACT + 3, bits, word_bits)
        costs.append(np.where(drop > 0, coarse, exact))
        modes.append(64 * (bits.bit_length() - 1) + drop)
    chosen: Bytes = np.choose(np.argmin(costs, axis=0), modes).astype(np.uint8)
    return chosen


def _cost(
    cells: NDArray[np.int64], logarithms: NDArray[np.int64], inside: int, bits: int, word_bits: int
) -> NDArray[np.int64]:
    """Return what the words of each context cost in symbols of so many bits with their escapes, in 2**-UNIT_BITS bits.

    Args:
        cells: words in each cell: contexts x cells; in a cell all values count as equally likely.
        logarithms: of how many values each cell has, binary.
        inside: the cell that the escape value lies in; it is the last of its values.
        bits: of a symbol.
        word_bits: of a word.
    """
    total = cells.sum(axis=1)
    share = cells[:, inside] >> logarithms[inside]
    kept = cells[:, : inside + 1].copy()
    kept[:, inside] -= share
    gone = cells[:, inside:].copy()
    gone[:, 0] = share
    kept_logarithms, gone_logarithms = logarithms[: inside + 1], logarithms[inside:].copy()
    gone_logarithms[0] = 0
    escaped = gone.sum(axis=1)
    symbols = PLOGP[total] - PLOGP[kept].sum(axis=1) - PLOGP[escaped] + ((kept @ kept_logarithms) << UNIT_BITS)
    escapes = PLOGP[escaped] - PLOGP[gone].sum(axis=1) + ((gone @ gone_logarithms) << UNIT_BITS)
    far = gone[:, gone_logarithms >= 8].sum(axis=1)
    # A Huffman code takes a bit a byte at least. What costs time has its price: a byte for zstd, an escape for all.
    code = np.maximum(symbols, (total * bits << UNIT_BITS) >> 3) + ((total * bits * _BYTE_PRICE) >> 3)
    escapes = np.clip(escapes, escaped << UNIT_BITS, escaped << (UNIT_BITS + 3))
    cost: NDArray[np.int64] = code + escapes + escaped * _ESCAPE_PRICE + (far * word_bits << UNIT_BITS)
    return cost


def _histogram(ordered: Words, lengths: Counts) -> NDArray[np.int64]:
    """Return, for each context that has words, how many of a sample are 0 to 15 each, then of each bit length."""
    rows = []
    start = 0
    for length in lengths[lengths > 0].tolist():
        sample = ordered[start : start + length : max(1, length // SAMPLE_WORDS)]
        bins = np.where(sample < _EXACT, sample, 0).astype(np.uint8)
        large = sample >= _EXACT
        bins[large] = 11 + _bit_lengths(sample[large])
        rows.append(np.bincount(bins, minlength=_HISTOGRAM_BINS))
        start += length
    return np.array(rows, np.int64).reshape(-1, _HISTOGRAM_BINS)


def pack(ordered: Words, lengths: Counts, modes: Bytes) -> Packed:
    """Return what sorted differences are stored as.

    Args:
        ordered: as ``sort`` gives them.
        lengths: words of each context.
        modes: of each context that has words: the binary logarithm of a symbol's bits, times 64, plus how many low bits
            are split off.
    """
    symbols: list[Bytes] = []
    low: list[Bytes] = []
    escapes: list[Words] = []
    start = 0
    for length, mode in zip(lengths[lengths > 0].tolist(), modes.tolist(), strict=True):
        words = ordered[start : start + length]
        start += length
        bits, drop = 1 << (mode >> 6), mode & 63
        if drop:
            low.append(_pack_low(words, drop))
            words = words >> drop
        limit = (1 << bits) - 1
        symbols.append(_pack_symbols(np.minimum(words, limit).astype(np.uint8), bits))
        escapes.append(words[words >= limit] - words.dtype.type(limit))
    nothing = np.empty(0, np.uint8)
    over = np.concatenate(escapes) if escapes else ordered[:0]
    far: Words = over[over >= 255] - over.dtype.type(255)
    return Packed(
        np.concatenate(symbols) if symbols else nothing,
        np.concatenate(low) if low else nothing,
        np.minimum(over, 255).astype(np.uint8),
        far,
    )


def unpack(packed: Packed, lengths: Counts, modes: Bytes, width: int) -> Words:
    """Undo ``pack``: return the sorted differences.

    Raises ValueError where there are more or fewer escapes or far words than the symbols say.
    """
    symbols, low, escapes, far = packed
    total = int(lengths.sum(dtype=np.int64))
    ordered = np.empty(total, _UNSIGNED[width])
    over = escapes.astype(_UNSIGNED[width])
    places = np.flatnonzero(escapes == 255)
    if places.size != far.size:
        message = f"{places.size} far words, {far.size} are there"
        raise ValueError(message)
    over[places] += far
    start = at = low_at = over_at = 0
    for length, mode in zip(lengths[lengths > 0].tolist(), modes.tolist(), strict=True):
        bits, drop = 1 << (mode >> 6), mode & 63
        size = _bytes_of(length, bits)
        words = _unpack_symbols(symbols[at : at + size], bits, length).astype(_UNSIGNED[width])
        at += size
        places = np.flatnonzero(words == (1 << bits) - 1)
        if over_at + places.size > over.size:
            raise ValueError("too few escapes")
        words[places] += over[over_at : over_at + places.size]
        over_at += places.size
        if drop:
            size = _bytes_of(length, drop)
            words = (words << drop) | _unpack_low(low[low_at : low_at + size], drop, length, width)
            low_at += size
        ordered[start : start + length] = words
        start += length
    if over_at != over.size:
        raise ValueError("too many escapes")
    return ordered


def packed_sizes(lengths: Counts, modes: Bytes) -> tuple[int, int]:
    """Return how many bytes of symbols and of low bits there are: each context ends in a whole byte of both."""
    sizes = symbol_sizes(lengths, modes)
    low = (lengths[lengths > 0].astype(np.int64) * (modes & 63) + 7) >> 3
    return int(sizes.sum()), int(low.sum())


def symbol_sizes(lengths: Counts, modes: Bytes) -> NDArray[np.int64]:
    """Return the bytes of symbols of each context that has words."""
    return ((lengths[lengths > 0].astype(np.int64) << (modes >> 6)) + 7) >> 3


def unsigned(width: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the type of a word."""
    return _UNSIGNED[width]


def _bytes_of(length: int, bits: int) -> int:
    return (length * bits + 7) // 8


def _contexts(base: Buffer, order: Order) -> NDArray[np.uint16]:
    words = words_of(base, order.width)
    contexts = ((words >> order.shift) & ((1 << order.bits) - 1)).astype(np.uint16)
    if order.kinds is not None:
        contexts += np.repeat(order.kinds.astype(np.uint16) << order.bits, order.columns)
    return contexts


def _expected(source: Words, order: Order) -> Words:
    """Return the words of a base, and what its trend adds to them."""
    if order.trend is None:
        return source
    expected = source.copy()
    if order.kinds is None:
        expected += order.trend.expected(source)
    else:
        chosen = order.kinds == order.trend.kind
        expected.reshape(-1, order.columns)[chosen] += order.trend.expected(source.reshape(-1, order.columns)[chosen])
    return expected


def _zigzag(moved: Words) -> Words:
    width = moved.dtype.itemsize
    sign: Words = (moved.view(_SIGNED[width]) >> (8 * width - 1)).view(moved.dtype)
    zigzag: Words = (moved << 1) ^ sign  # type: ignore[assignment] # numpy types a shift by an int as signed
    return zigzag


def _unzigzag(words: Words) -> Words:
    plain: Words = (words >> 1) ^ (0 - (words & 1))  # type: ignore[assignment]
    return plain


def _bit_lengths(words: Words) -> NDArray[np.uint8]:
    lengths = np.zeros(words.shape, np.uint8)
    rest = words.copy()
    for step in (32, 16, 8, 4, 2, 1):
        if step < 8 * words.dtype.itemsize:
            high = rest >> step
            more = high > 0
            lengths[more] += step
            rest = np.where(more, high, rest)
    return lengths + (rest > 0)


def _pack_symbols(symbols: Bytes, bits: int) -> Bytes:
    if bits == 8:
        return symbols
    each = 8 // bits
    padded = np.zeros(-(-symbols.size // each) * each, np.uint8)
    padded[: symbols.size] = symbols
    packed = padded[::each].copy()
    for place in range(1, each):
        packed |= padded[place::each] << (place * bits)
    return packed


def _unpack_symbols(packed: Bytes, bits: int, length: int) -> Bytes:
    if bits == 8:
        return packed
    each = 8 // bits
    symbols = np.empty((packed.size, each), np.uint8)
    for place in range(each):
        symbols[:, place] = (packed >> (place * bits)) & ((1 << bits) - 1)
    return symbols.reshape(-1)[:length]


def _pack_low(words: Words, drop: int) -> Bytes:
    width = words.dtype.itemsize
    pieces = []
    for start in range(0, words.size, _SLICE_WORDS):
        lanes = np.ascontiguousarray(words[start : start + _SLICE_WORDS]).view(np.uint8).reshape(-1, width)
        bits = np.unpackbits(lanes, axis=1, count=drop, bitorder="little")
        pieces.append(np.packbits(bits.reshape(-1), bitorder="little"))
    return np.concatenate(pieces)


def _unpack_low(packed: Bytes, drop: int, length: int, width: int) -> Words:
    words = np.zeros(length, _UNSIGNED[width])
    lanes = words.view(np.uint8).reshape(-1, width)
    for start in range(0, length, _SLICE_WORDS):
        end = min(length, start + _SLICE_WORDS)
        piece = packed[start * drop // 8 : (end * drop + 7) // 8]
        bits = np.unpackbits(piece, count=(end - start) * drop, bitorder="little").reshape(-1, drop)
        packed_lanes = np.packbits(bits, axis=1, bitorder="little")
        lanes[start:end, : packed_lanes.shape[1]] = packed_lanes
    return words
