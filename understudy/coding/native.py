"""The native way of ``transforms``: same names, same results, several times quicker, and the GIL released.

The module ``understudy_native`` is built from ``native/`` and is not required: AVAILABLE tells whether it is there.
``UNDERSTUDY_NATIVE=off`` turns it off.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from understudy.coding import floats, transforms
from understudy.coding.transforms import RUNS, Packed, unsigned

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from understudy.coding.floats import Float, Floats
    from understudy.coding.transforms import Buffer, Bytes, Counts, Order, Trend, Words

#: The form of the calls into the native part; one that was built for another form is left alone.
_INTERFACE = 3


def _load() -> Any:  # noqa: ANN401 - a module that need not be there has no types
    if os.environ.get("UNDERSTUDY_NATIVE", "").lower() in {"off", "0", "no", "false"}:
        return None
    try:
        module = importlib.import_module("understudy_native")
    except ImportError:
        return None
    return module if getattr(module, "INTERFACE", None) == _INTERFACE else None


_native = _load()
#: Whether the native part is there, fits, and is not turned off.
AVAILABLE = _native is not None


_PLOGP = transforms.PLOGP.view(np.uint8)
#: Bits of the mantissa of float16, which the native part leaves to numpy.
_HALF_DIGITS = 10


class Way(Protocol):
    """What both ways offer; ``transforms`` and ``floats`` say what each does."""

    def split(self, raw: Buffer, width: int) -> list[Bytes]: ...  # noqa: D102
    def join(self, planes: list[Bytes], width: int) -> bytes: ...  # noqa: D102
    def join_pairs(self, pairs: Bytes, far: Bytes, top: int, others: list[Bytes], width: int) -> bytes: ...  # noqa: D102
    def pair(self, plane: Bytes, top: int) -> tuple[Bytes, Bytes]: ...  # noqa: D102
    def unpair(self, pairs: Bytes, far: Bytes, top: int, length: int) -> Bytes: ...  # noqa: D102
    def survey(self, raw: Buffer, base: Buffer, width: int, columns: int, step: int) -> tuple[Counts, Bytes]: ...  # noqa: D102
    def count(self, base: Buffer, order: Order) -> Counts: ...  # noqa: D102
    def sort(self, raw: Buffer, base: Buffer, order: Order, counts: Counts) -> Words: ...  # noqa: D102
    def unsort(self, ordered: Words, base: Buffer, order: Order, counts: Counts) -> bytes: ...  # noqa: D102
    def choose_modes(self, ordered: Words, lengths: Counts) -> Bytes: ...  # noqa: D102
    def pack(self, ordered: Words, lengths: Counts, modes: Bytes) -> Packed: ...  # noqa: D102
    def unpack(self, packed: Packed, lengths: Counts, modes: Bytes, width: int) -> Words: ...  # noqa: D102
    def rounded(self, words: Words, product: NDArray[np.float64], kind: Float) -> Words: ...  # noqa: D102
    def difference(self, after: Words, before: Words, kind: Float) -> tuple[Floats, float]: ...  # noqa: D102


class _Native:
    """The calls of the native part: what they write to is allocated here."""

    def split(self, raw: Buffer, width: int) -> list[Bytes]:
        planes = np.empty(memoryview(raw).nbytes, np.uint8)
        _native.split(raw, width, planes)
        return list(planes.reshape(width, -1))

    def join(self, planes: list[Bytes], width: int) -> bytes:
        raw: bytes = _native.join(planes, width)
        return raw

    def join_pairs(self, pairs: Bytes, far: Bytes, top: int, others: list[Bytes], width: int) -> bytes:
        raw: bytes = _native.join_pairs(pairs, far, top, others, width)
        return raw

    def pair(self, plane: Bytes, top: int) -> tuple[Bytes, Bytes]:
        pairs = np.empty((plane.size + 1) // 2, np.uint8)
        far = _native.pair(plane, top, pairs)
        return pairs, np.frombuffer(far, np.uint8)

    def unpair(self, pairs: Bytes, far: Bytes, top: int, length: int) -> Bytes:
        plane = np.empty(length, np.uint8)
        _native.unpair(pairs, far, top, plane)
        return plane

    def survey(self, raw: Buffer, base: Buffer, width: int, columns: int, step: int) -> tuple[Counts, Bytes]:
        rows = memoryview(raw).nbytes // width // columns
        activity, state = np.empty(rows, np.uint32), np.empty(rows, np.uint8)
        _native.survey(raw, base, width, columns, step, activity.view(np.uint8), state)
        return activity, state

    def count(self, base: Buffer, order: Order) -> Counts:
        counts = np.empty((RUNS, order.kind_count << order.bits), np.uint32)
        _native.count(base, _lie(order), _plain(counts))
        return counts

    def sort(self, raw: Buffer, base: Buffer, order: Order, counts: Counts) -> Words:
        ordered = np.empty(memoryview(raw).nbytes // order.width, unsigned(order.width))
        _native.sort(raw, base, _lie(order), _plain(counts), _given(order.trend), _plain(ordered))
        return ordered

    def unsort(self, ordered: Words, base: Buffer, order: Order, counts: Counts) -> bytes:
        raw: bytes = _native.unsort(_plain(ordered), base, _lie(order), _plain(counts), _given(order.trend))
        return raw

    def choose_modes(self, ordered: Words, lengths: Counts) -> Bytes:
        modes = np.empty(int(np.count_nonzero(lengths)), np.uint8)
        _native.choose_modes(_plain(ordered), ordered.itemsize, _plain(lengths), _PLOGP, modes)
        return modes

    def pack(self, ordered: Words, lengths: Counts, modes: Bytes) -> Packed:
        symbol_bytes, low_bytes = transforms.packed_sizes(lengths, modes)
        symbols, low = np.empty(symbol_bytes, np.uint8), np.empty(low_bytes, np.uint8)
        escapes, far = _native.pack(_plain(ordered), ordered.itemsize, _plain(lengths), modes, symbols, low)
        return Packed(symbols, low, np.frombuffer(escapes, np.uint8), transforms.words_of(far, ordered.itemsize))

    def unpack(self, packed: Packed, lengths: Counts, modes: Bytes, width: int) -> Words:
        ordered = np.empty(int(lengths.sum(dtype=np.int64)), unsigned(width))
        symbols, low, escapes, far = packed
        _native.unpack(symbols, low, escapes, _plain(far), width, _plain(lengths), modes, _plain(ordered))
        return ordered

    def rounded(self, words: Words, product: NDArray[np.float64], kind: Float) -> Words:
        if kind.digits == _HALF_DIGITS:
            return floats.rounded(words, product, kind)
        found: Words = np.empty(words.shape, kind.word)
        _native.rounded(_plain(words), kind.width, _plain(product), _plain(found))
        return found

    def difference(self, after: Words, before: Words, kind: Float) -> tuple[Floats, float]:
        if kind.digits == _HALF_DIGITS:
            return floats.difference(after, before, kind)
        moved: Floats = np.empty(after.shape, np.float64 if kind.width == 4 else np.float32)
        return moved, _native.difference(_plain(after), _plain(before), kind.width, _plain(moved))


def _plain(array: Words | Counts | Floats) -> Bytes:
    return array.reshape(-1).view(np.uint8)


def _lie(order: Order) -> tuple[int, int, int, int, Bytes | None, int]:
    return order.width, order.shift, order.bits, order.columns, order.kinds, order.kind_count


def _given(trend: Trend | None) -> tuple[int, int, int, int, Bytes] | None:
    if trend is None:
        return None
    return trend.kind, trend.mantissa, trend.drop, trend.slope, trend.entries.view(np.uint8)


class _Numpy:
    """The same names over numpy alone."""

    split = staticmethod(transforms.split)
    join = staticmethod(transforms.join)
    join_pairs = staticmethod(transforms.join_pairs)
    pair = staticmethod(transforms.pair)
    unpair = staticmethod(transforms.unpair)
    survey = staticmethod(transforms.survey)
    count = staticmethod(transforms.count)
    sort = staticmethod(transforms.sort)
    unsort = staticmethod(transforms.unsort)
    choose_modes = staticmethod(transforms.choose_modes)
    pack = staticmethod(transforms.pack)
    unpack = staticmethod(transforms.unpack)
    rounded = staticmethod(floats.rounded)
    difference = staticmethod(floats.difference)


#: Both ways by name; the native one only where it is AVAILABLE.
WAYS: dict[str, Way] = {"numpy": _Numpy()} | ({"native": _Native()} if AVAILABLE else {})
#: The way that is taken.
way: Way = WAYS.get("native", WAYS["numpy"])
