"""``delta``: the difference of a block of words to a base of the same length.

Integer differences of the words as they lie, zigzag: a fine-tune moves weights by little, and decay moves magnitudes
one way. How many units in the last place a word moves depends on its exponent, so words are ordered by the exponent of
the base, which the reader has; rows that moved unlike others (embeddings that saw no gradient, those that saw few) are
ordered apart by kinds. Each such context has its own mode: symbols of 1, 2, 4 or 8 bits, several to a byte so that
Huffman codes come close to what they carry, low bits that are noise split off, and escapes for what is too large.
``docs/formats.md`` has the bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from understudy.coding.native import way
from understudy.coding.streams import Reader, Writer
from understudy.coding.transforms import (
    CHANGED,
    SHRUNK,
    UNCHANGED,
    Order,
    Packed,
    Trend,
    packed_sizes,
    symbol_sizes,
    words_of,
)
from understudy.errors import Corrupt

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from understudy.coding.transforms import Buffer, Bytes, Counts, Words

FORMAT = 1
KINDS_MAX = 16
#: A frame that saves less than one part in this many is not made.
_WORTH_ONE_PART_IN = 50
#: Format, width, shift and bits of the context, flags, kinds, bytes of the tail, length of the dtype's name, columns.
_HEADER = struct.Struct("<8BI")
_FACTORS, _ROWS, _TREND = 1, 2, 4
_STREAMS = 9
_DTYPE_BYTES_MAX = 16
#: Kind, bits of the mantissa, bits that are dropped from it, slope.
_TREND_HEADER = struct.Struct("<BBBxi")
_MANTISSA_BITS_MAX = 23
_ENTRY_BITS_MAX = 12
#: Words that are looked at for each entry of a trend, as a power of two.
_TREND_SAMPLE_BITS = 4


@dataclass(frozen=True, slots=True)
class _Form:
    """Of the words of a dtype: bytes, where the exponent begins, its bits (no more than 8), bits of the mantissa."""

    width: int
    shift: int = 0
    bits: int = 0
    mantissa: int = 0


_FORMS = {
    "BF16": _Form(2, 7, 8, 7), "F16": _Form(2, 10, 5, 10), "F32": _Form(4, 23, 8, 23), "F64": _Form(8, 52, 8),
    "F8_E5M2": _Form(1, 2, 5), "F8_E5M2FNUZ": _Form(1, 2, 5), "F8_E4M3": _Form(1, 3, 4), "F8_E4M3FNUZ": _Form(1, 3, 4),
    "I16": _Form(2), "U16": _Form(2), "I32": _Form(4), "U32": _Form(4), "I64": _Form(8), "U64": _Form(8),
}  # fmt: skip
_BYTES = _Form(1)


class _Moved(NamedTuple):
    """How the rows of a block moved.

    Attributes:
        columns: words in a row.
        activity: of each row, the sum of the bit lengths of differences.
        looked_at: words of a row that are in that sum.
        state: of each row, as ``transforms.survey`` has it.
    """

    columns: int
    activity: Counts
    looked_at: int
    state: Bytes


#: Of the floats that a merged adapter is looked for in.
_ADAPTED = frozenset({"F32", "F16", "BF16"})

#: The part of the rows that an adapter changes at least, and which of them are looked at: every so-manieth.
_MOVED_MIN = 0.9
_SAMPLED_ROWS = 8

# Rows are told apart by kinds where there are enough of them, and each kind holds enough words for codes of its own.
_COLUMNS_MIN = 32
_ROWS_MIN = 16
_KIND_WORDS_MIN = 1 << 13
_KIND_STEPS = 5.0
#: Rows are of several kinds where their activity varies more than this many times what chance explains.
_SPREAD_MIN = 2.0
#: Words of a row that are looked at, more or less, to tell how much it moved.
_SURVEY_WORDS = 128

# A part of the symbols ends where the next context is another distribution, and both are long enough for a code.
_PART_BYTES_MIN = 16 << 10


def encode(raw: Buffer, base: Buffer, dtype: str, columns: int, *, dense: bool = False) -> bytes | None:
    """Return the frame of a block against a base of the same length.

    Args:
        raw: contiguous bytes; what is left behind the last whole word is kept as it is.
        base: as many bytes.
        dtype: as safetensors names it; an unknown name means bytes.
        columns: words in a row of the tensor, of which the block holds whole ones; 0: unknown.
        dense: more CPU for fewer bytes.

    Returns:
        None where it would save less than 2 %.

    Raises:
        ValueError: the base is of another length.
    """
    view, ground = memoryview(raw).cast("B"), memoryview(base).cast("B")
    if view.nbytes != ground.nbytes:
        message = f"a base of {ground.nbytes} bytes, {view.nbytes} are needed"
        raise ValueError(message)
    form = _FORMS.get(dtype, _BYTES)
    whole = view.nbytes - view.nbytes % form.width
    if not whole:
        return None
    tail, view, ground = view[whole:], view[:whole], ground[:whole]
    flags = 0
    length = whole // form.width
    columns = columns if columns > 0 and length % columns == 0 and length // columns >= _ROWS_MIN else 0
    factors = _find_factors(view, ground, dtype, columns) if _is_adapted(view, ground, dtype, columns) else None
    if factors is None:
        order = _order(view, ground, form, _survey(view, ground, form, columns))
    else:
        flags |= _FACTORS
        ground = memoryview(_predict(ground, factors, dtype, columns))
        order = Order(form.width, form.shift, form.bits)  # what is left is rounding: rows do not differ in it
    counts = way.count(ground, order)
    lengths = counts.sum(axis=0, dtype=np.uint32)
    ordered = way.sort(view, ground, order, counts)
    modes = way.choose_modes(ordered, lengths)
    packed = way.pack(ordered, lengths, modes)

    writer = Writer(dense=dense)
    writer.add(factors or b"", plain=True)
    writer.add(order.kinds.data if order.kinds is not None else b"")
    writer.add(_trend_bytes(order.trend) if order.trend is not None else b"")
    writer.add(modes.data)
    writer.add(packed.symbols.data, _cuts(symbol_sizes(lengths, modes).tolist()))
    writer.add(packed.low.data, plain=not dense)
    writer.add(packed.escapes.data)
    writer.add(_lanes(packed.far))
    writer.add(tail, plain=True)
    flags |= (_ROWS if order.kinds is not None else 0) | (_TREND if order.trend is not None else 0)
    name = dtype.encode() if factors is not None else b""
    by_rows = columns if flags & (_FACTORS | _ROWS) else 0
    header = _HEADER.pack(
        FORMAT, form.width, form.shift, form.bits, flags, order.kind_count, tail.nbytes, len(name), by_rows
    )
    frame = writer.finish(header + name)
    size = whole + tail.nbytes
    return frame if len(frame) <= size - size // _WORTH_ONE_PART_IN else None


def decode(frame: Buffer, base: Buffer, raw_length: int) -> bytes:
    """Return the plain bytes of a frame.

    Args:
        frame: as ``encode`` made it.
        base: the very bytes that it was made against.
        raw_length: how many bytes there must be; nothing longer is ever made.

    Raises:
        Corrupt: the frame is damaged, or of another length, or the base is.
    """
    view, ground = memoryview(frame).cast("B"), memoryview(base).cast("B")
    if view.nbytes < _HEADER.size or view[0] != FORMAT:
        raise Corrupt("a delta frame does not begin as one does")
    if ground.nbytes != raw_length:
        message = f"a delta of {raw_length} bytes has a base of {ground.nbytes}"
        raise Corrupt(message)
    _, width, shift, bits, flags, kind_count, tail, name_length, columns = _HEADER.unpack_from(view)
    if width not in {1, 2, 4, 8} or tail != raw_length % width or shift + bits > 8 * width or bits > 8:
        message = f"a delta frame of {width}-byte words and {tail} bytes does not make {raw_length} bytes"
        raise Corrupt(message)
    length = raw_length // width
    by_rows = bool(flags & (_ROWS | _FACTORS))
    if (
        flags > (_FACTORS | _ROWS | _TREND)
        or not 1 <= kind_count <= KINDS_MAX
        or (kind_count > 1 and not flags & _ROWS)
        or bool(name_length) != bool(flags & _FACTORS)
        or name_length > _DTYPE_BYTES_MAX
        or (by_rows and (not columns or length % columns))
    ):
        raise Corrupt("a delta frame has a header that contradicts itself")
    start = _HEADER.size + name_length
    reader = Reader(view, min(start, view.nbytes), _STREAMS)
    whole = raw_length - tail
    ground = ground[:whole]
    factors = reader.take(_at_most(reader, raw_length if flags & _FACTORS else 0))
    if flags & _FACTORS:
        ground = memoryview(_predict(ground, factors, _name(view[_HEADER.size : start]), columns))
        if ground.nbytes != whole:
            raise Corrupt("the factors of a delta frame make another length than its base")
    kinds = None
    listed = reader.take(length // columns if flags & _ROWS else 0)
    if flags & _ROWS:
        kinds = np.frombuffer(listed, np.uint8)
        if kinds.size and int(kinds.max()) >= kind_count:
            raise Corrupt("a row of a delta frame is of a kind that there is not")
    trend = _parse_trend(reader.take(_at_most(reader, _trend_bytes_max())), width, kind_count, given=flags & _TREND)
    order = Order(width, shift, bits, columns, kinds, kind_count, trend)
    counts = way.count(ground, order)
    ordered = _read_words(reader, counts.sum(axis=0, dtype=np.uint32), width)
    rest = reader.take(tail)
    plain = way.unsort(ordered, ground, order, counts)
    return plain + rest if rest else plain


def _cuts(sizes: list[int]) -> list[int]:
    """Return where the symbols are cut into parts: between contexts, and not into crumbs."""
    cuts: list[int] = []
    start = at = 0
    for size in sizes:
        if at - start >= _PART_BYTES_MIN and size >= _PART_BYTES_MIN:
            cuts.append(at)
            start = at
        at += size
    return cuts


def _is_adapted(raw: memoryview, base: memoryview, dtype: str, columns: int) -> bool:
    """Return whether an adapter may be found: it moves every row, where others leave some, or only shrink them."""
    if dtype not in _ADAPTED or columns <= 0:
        return False
    form = _FORMS[dtype]
    after, before = (words_of(data, form.width).reshape(-1, columns)[::_SAMPLED_ROWS] for data in (raw, base))
    moved = _survey(
        np.ascontiguousarray(after).data.cast("B"), np.ascontiguousarray(before).data.cast("B"), form, columns
    )
    return moved is None or bool((moved.state == CHANGED).mean() > _MOVED_MIN)


def _survey(raw: memoryview, base: memoryview, form: _Form, columns: int) -> _Moved | None:
    if columns < _COLUMNS_MIN:
        return None
    step = max(1, columns // _SURVEY_WORDS)
    activity, state = way.survey(raw, base, form.width, columns, step)
    return _Moved(columns, activity, -(-columns // step), state)


def _order(raw: memoryview, base: memoryview, form: _Form, moved: _Moved | None) -> Order:
    """Return how the words of a block are best ordered: by exponent, and by kinds of rows where these moved unlike."""
    if moved is None:
        return Order(form.width, form.shift, form.bits)
    columns, activity, looked_at, state = moved
    # The square root spreads low activities, where few words moved, and keeps high ones together.
    level = np.floor(_KIND_STEPS * np.sqrt(activity / looked_at)).astype(np.int64) + 2
    changed = activity[state == CHANGED] / looked_at
    if changed.size and changed.var() < _SPREAD_MIN * min(max(2 * float(changed.mean()), 0.1), 5.0) / looked_at:
        level[state == CHANGED] = 2  # no further apart than rows of one kind are by chance
    level[state == SHRUNK] = 1
    level[state == UNCHANGED] = 0
    rows_min = max(2, -(-_KIND_WORDS_MIN // columns))
    kinds, kind_count = _merge(level, rows_min)
    trend = None
    shrunk = np.flatnonzero(level == 1)
    if form.mantissa and shrunk.size >= rows_min:
        chosen = shrunk[:: max(1, shrunk.size * columns >> (min(form.mantissa, _ENTRY_BITS_MAX) + _TREND_SAMPLE_BITS))]
        source, target = (words_of(data, form.width).reshape(-1, columns)[chosen].reshape(-1) for data in (base, raw))
        trend = _fit_trend(source, target, form, int(kinds[shrunk[0]]))
    return Order(form.width, form.shift, form.bits, columns, kinds if kind_count > 1 else None, kind_count, trend)


def _merge(level: NDArray[np.int64], rows_min: int) -> tuple[Bytes, int]:
    """Return (kind of each row, how many kinds): levels in their order, small ones together with what follows."""
    counts = np.bincount(level)
    kind_of = np.zeros(counts.size, np.uint8)
    kind = held = 0
    for place, rows in enumerate(counts.tolist()):
        special = place < 2
        if held >= rows_min and rows and kind < KINDS_MAX - 1 and (rows >= rows_min or not special):
            kind += 1
            held = 0
        kind_of[place] = kind
        held += rows
    if 0 < held < rows_min and kind > 0 and counts.size > 2:  # what is left over goes with what lies before it
        kind_of[kind_of == kind] = kind - 1
        kind -= 1
    return kind_of[level], kind + 1


def _fit_trend(source: Words, target: Words, form: _Form, kind: int) -> Trend | None:
    """Return by how much words moved, by the mantissa they had; None where they did not."""
    moved: NDArray[np.int64] = (target - source).view(f"<i{form.width}").astype(np.int64)
    mantissa = source.astype(np.int64) & ((1 << form.mantissa) - 1)
    usual = np.abs(moved) <= 1 << (form.mantissa - 1)  # not those that fell to zero
    moved, mantissa = moved[usual], mantissa[usual]
    if not moved.any():
        return None
    entry_bits = min(form.mantissa, _ENTRY_BITS_MAX, max(0, moved.size.bit_length() - 4))
    drop = form.mantissa - entry_bits
    away = mantissa - mantissa.mean()
    variance = float(away @ away)
    fit = float(away @ moved) / variance if variance else 0.0
    slope = round(fit * (1 << 32)) if drop else 0
    if abs(slope) >= 1 << 31:
        return None
    place = mantissa >> drop
    left = moved - ((slope * (mantissa & ((1 << drop) - 1))) >> 32)
    many = np.bincount(place, minlength=1 << entry_bits)
    total = np.bincount(place, weights=left, minlength=1 << entry_bits)
    centre = (np.arange(1 << entry_bits) << drop).astype(np.float64)
    straight = float(moved.mean()) + fit * (centre - float(mantissa.mean()))
    entries = np.rint(np.where(many > 0, total / np.maximum(many, 1), straight)).astype(np.int32)
    if not entries.any() and not slope:
        return None
    return Trend(kind, form.mantissa, drop, slope, entries)


def _trend_bytes(trend: Trend) -> bytes:
    steps = np.diff(trend.entries, prepend=np.int32(0)).astype("<u4")
    lanes = ((steps << 1) ^ (steps.view("<i4") >> 31).view("<u4")).astype("<u4").view(np.uint8).reshape(-1, 4)
    header = _TREND_HEADER.pack(trend.kind, trend.mantissa, trend.drop, trend.slope)
    return header + bytes(lanes.T.tobytes())


def _trend_bytes_max() -> int:
    return _TREND_HEADER.size + (4 << _ENTRY_BITS_MAX)


def _parse_trend(data: Buffer, width: int, kind_count: int, *, given: int) -> Trend | None:
    if not given:
        if data:
            raise Corrupt("a delta frame has a trend that its header does not name")
        return None
    if len(data) < _TREND_HEADER.size:
        raise Corrupt("the trend of a delta frame is cut off")
    kind, mantissa, drop, slope = _TREND_HEADER.unpack_from(data)
    bits = mantissa - drop
    if kind >= kind_count or not 0 < mantissa <= min(_MANTISSA_BITS_MAX, 8 * width) or not 0 <= bits <= _ENTRY_BITS_MAX:
        raise Corrupt("the trend of a delta frame contradicts itself")
    if len(data) != _TREND_HEADER.size + (4 << bits):
        raise Corrupt("the trend of a delta frame has another length than it says")
    lanes = np.frombuffer(data, np.uint8, offset=_TREND_HEADER.size).reshape(4, -1)
    steps = np.ascontiguousarray(lanes.T).reshape(-1).view("<u4")
    steps = (steps >> 1) ^ (0 - (steps & 1))
    return Trend(kind, mantissa, drop, slope, np.cumsum(steps, dtype=np.uint32).view(np.int32))


def _read_words(reader: Reader, lengths: Counts, width: int) -> Words:
    """Return the sorted differences of a frame. Raises Corrupt."""
    modes = np.frombuffer(reader.take(int(np.count_nonzero(lengths))), np.uint8)
    if modes.size and int(((1 << (modes >> 6)) + (modes & 63)).max()) > 8 * width:
        raise Corrupt("a context of a delta frame splits off more bits than a word has")
    symbol_bytes, low_bytes = packed_sizes(lengths, modes)
    symbols = np.frombuffer(reader.take(symbol_bytes), np.uint8)
    low = np.frombuffer(reader.take(low_bytes), np.uint8)
    total = int(lengths.sum(dtype=np.int64))
    escapes = np.frombuffer(reader.take(_at_most(reader, total)), np.uint8)
    lanes = np.frombuffer(reader.take(_at_most(reader, total * width)), np.uint8)
    if lanes.size % width:
        raise Corrupt("a delta frame has a part of a far word")
    far = words_of(lanes.reshape(width, -1).T.tobytes(), width)
    try:
        return way.unpack(Packed(symbols, low, escapes, far), lengths, modes, width)
    except ValueError as error:
        message = f"the symbols of a delta frame do not fit its escapes: {error}"
        raise Corrupt(message) from error


def _lanes(words: Words) -> bytes:
    return words.view(np.uint8).reshape(-1, words.dtype.itemsize).T.tobytes()


def _at_most(reader: Reader, limit: int) -> int:
    length = reader.length()
    if length > limit:
        message = f"a stream of a delta frame declares {length} bytes, {limit} are the most there can be"
        raise Corrupt(message)
    return length


def _find_factors(raw: memoryview, base: memoryview, dtype: str, columns: int) -> bytes | None:
    from understudy.coding import lowrank

    return lowrank.find(raw, base, dtype, columns)


def _predict(base: memoryview, factors: Buffer, dtype: str, columns: int) -> Buffer:
    from understudy.coding import lowrank

    return lowrank.predict(base, factors, dtype, columns)


def _name(data: memoryview) -> str:
    try:
        return bytes(data).decode("ascii")
    except UnicodeDecodeError as error:
        raise Corrupt("a delta frame names a dtype that is no text") from error
