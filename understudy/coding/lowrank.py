"""Differences of low rank: an adapter (LoRA) that was merged into a matrix is found again, as two thin factors.

What is merged is W' = round(W + B A), with few columns in B. ``find`` estimates B and A from W and W' and keeps them as
integers; ``predict`` computes round(W + B A) from W, and what little it misses the caller codes as a residual. The
prediction must be the same on every machine, so it never depends on the order of a floating-point sum: the product is
one of integers, held in float64 and exact while every partial sum stays below 2^53, and what follows is one rounding
to float32 (or float64), one addition, one rounding to the words' type, each as IEEE 754 says.

The range finder is that of Halko, Martinsson and Tropp (arXiv 0909.4061); what a rank costs and saves is weighed with
the rounding of W' as the noise, whose size is known exactly.
"""

from __future__ import annotations

import contextlib
import math
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import zstandard

from understudy.coding.floats import FLOATS
from understudy.coding.native import way
from understudy.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from understudy.coding.floats import Float, Floats
    from understudy.coding.transforms import Words

Buffer: TypeAlias = "bytes | bytearray | memoryview"

#: No difference of a higher rank is looked for, or accepted.
RANK_MAX = 64

_VERSION = 1
_HEADER = struct.Struct("<BBhII")  # version, rank, exponent, rows, columns
_PLANE = struct.Struct("<I")
#: Bounds of the exponent: the product is then zero or a normal float32, far from what some machines flush to zero.
_EXPONENT_MIN, _EXPONENT_MAX = -100, 30
_SHIFT_MAX = 40
_EXACT_BELOW = 2.0**53
_BLOCK_BYTES_MAX = 16 << 20

#: Root mean square of a difference that is looked at; squares of others do not fit into float32.
_DIFFERENCE_MIN, _DIFFERENCE_MAX = 2.0**-50, 2.0**40
_SIDE_MIN = 24  # rows or columns: below, factors are as long as what they save
#: Words of a block and rows of its sample, which has three times as many columns: what the look may cost.
_SAMPLE_SIDES = ((1_000_000, 128), (250_000, 64), (0, 40))
_FLAT = 0.8  # of the effective rank that pure noise has: no need to look at the spectrum
_PLATEAU_MIN = 0.3  # of the noise: what ranks too many leave where there is nothing but noise
_SAVING_MIN = 0.2  # of the difference's bits; less is not worth the CPU time of those who restore
_CHECKED_ROWS = 24
_PANEL_WORDS = 1 << 16  # computed at once: what it takes stays in the second-level cache


@dataclass(frozen=True, slots=True)
class _Factors:
    """The product is ``left @ right * 2**exponent``: integers in float64, shapes (rows, rank) and (rank, columns)."""

    exponent: int
    left: NDArray[np.float64]
    right: NDArray[np.float64]


def find(raw: Buffer, base: Buffer, dtype: str, columns: int) -> bytes | None:
    """Return the factors of the difference, ready to be stored; None where it has no low rank, or nothing is saved.

    Ordinary fine-tunes are told by a sample, in well under a millisecond per MiB.

    Args:
        raw: the words to be predicted, at most 16 MiB.
        base: the words that ``predict`` will be given, as many.
        dtype: as safetensors names it; other than BF16, F16 and F32 give None.
        columns: words in a row, of which the block holds whole ones; 0 where that is not so gives None.
    """
    kind = FLOATS.get(dtype)
    if kind is None or columns < _SIDE_MIN or len(raw) != len(base) or len(raw) > _BLOCK_BYTES_MAX:
        return None
    rows, rest = divmod(len(raw), columns * kind.width)
    if rest or rows < _SIDE_MIN:
        return None
    after = np.frombuffer(raw, dtype=kind.word).reshape(rows, columns)
    before = np.frombuffer(base, dtype=kind.word).reshape(rows, columns)
    with _one_thread(), np.errstate(all="ignore"):
        looks = _look(kind, after, before)
        if looks is None:
            return None
        rank, noise = looks
        fitted = _fit(kind, after, before, rank, noise)
        if fitted is None:
            return None
        section, factors = fitted
        checked = slice(None, None, -(-rows // _CHECKED_ROWS))
        chosen = _Factors(factors.exponent, factors.left[checked], factors.right)
        predicted = _apply(kind, before[checked], chosen)
        was, left = (_bits(after[checked], words) for words in (before[checked], predicted))
    if (left + 8 * len(section) / after.size) > (1 - _SAVING_MIN) * was:
        return None
    return section


def predict(base: Buffer, factors: Buffer, dtype: str, columns: int) -> memoryview:
    """Return the predicted words, as many bytes as ``base``: the same on every machine.

    Args:
        base: the words that ``find`` was given.
        factors: what ``find`` returned.
        dtype: of the words, as for ``find``.
        columns: words in a row, as for ``find``.

    Raises Corrupt when the factors are damaged, or not of such a block.
    """
    kind = FLOATS.get(dtype)
    if kind is None:
        raise Corrupt("low-rank factors stand beside words that are no floats")
    if len(base) > _BLOCK_BYTES_MAX:
        raise Corrupt(f"low-rank factors of a block of {len(base)} bytes; the limit is {_BLOCK_BYTES_MAX}")
    rows, rest = divmod(len(base), max(1, columns) * kind.width)
    if columns <= 0 or rest:
        raise Corrupt(f"low-rank factors of a block of {len(base)} bytes, which is not rows of {columns} words")
    read = _read(factors, rows, columns)
    words = np.frombuffer(base, dtype=kind.word).reshape(rows, columns)
    with _one_thread(), np.errstate(all="ignore"):
        return _apply(kind, words, read).data.cast("B")


def _apply(kind: Float, words: Words, factors: _Factors) -> Words:
    """Return round(words + product), shape (rows, columns); NaN and infinities stay."""
    rows, columns = words.shape
    predicted = np.empty((rows, columns), dtype=kind.word)
    left = factors.left * 2.0**factors.exponent  # a power of two: as exact as the integers
    height = max(1, _PANEL_WORDS // columns)
    product = np.empty((min(height, rows), columns))
    for start in range(0, rows, height):
        panel = words[start : start + height]
        added = np.matmul(left[start : start + height], factors.right, out=product[: len(panel)])
        predicted[start : start + height] = way.rounded(panel, added, kind)
    return predicted


def _grains(kind: Float, words: Words) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (distances of words' values to the next, how often each occurs; both shape (exponents that occur,))."""
    most = kind.exponent >> kind.digits
    counts = np.bincount(
        ((words & np.array(kind.exponent, dtype=kind.word)) >> kind.digits).reshape(-1), minlength=most
    )
    exponents = np.flatnonzero(counts[:most])
    distances = 2.0 ** (np.maximum(exponents, 1) - (most // 2 + kind.digits))
    return distances, counts[exponents] / max(1, counts[exponents].sum())


def _sampled(after: Words, before: Words) -> tuple[Words, Words, float]:
    """Return (words of a sample, of rows that changed at all; the base's; the share of such rows)."""
    rows, columns = after.shape
    side = next(side for words, side in _SAMPLE_SIDES if after.size >= words)
    sample = np.s_[:: -(-rows // side), :: -(-columns // (3 * side))]
    after, before = np.ascontiguousarray(after[sample]), np.ascontiguousarray(before[sample])
    changed = (after != before).any(axis=1)
    share = float(changed.mean())
    # The keys between queries and values, say: rows that tell nothing, and cost nothing.
    return (after, before, 1.0) if share == 1 else (after[changed], before[changed], share)


def _look(kind: Float, after: Words, before: Words) -> tuple[int, float] | None:
    """Return (rank to look for, variance of the rounding) from a sample; None where no rank would pay."""
    rows, columns = after.shape
    after, before, share = _sampled(after, before)
    (height, width), rows = after.shape, int(rows * share)
    if height < _SIDE_MIN:
        return None
    difference, total = way.difference(after, before, kind)
    scale = math.sqrt(total / difference.size)
    if not _DIFFERENCE_MIN < scale < _DIFFERENCE_MAX:
        return None
    difference /= difference.dtype.type(scale)
    gram = difference @ difference.T
    trace = float(np.trace(gram))
    if trace * trace > _FLAT / (1 / height + 1 / width) * float(np.vdot(gram, gram)):
        return None
    values = np.maximum(np.linalg.eigvalsh(gram)[::-1].astype(np.float64), 0)
    most = min(RANK_MAX, min(height, width) * 3 // 4)
    ranks = np.arange(most + 1)
    # What is left after the first r, per word; a fit of r takes its share of the noise with it.
    tails = trace - np.concatenate([[0.0], np.cumsum(values[:most])])
    tails /= (height - ranks) * (width - ranks)
    grains, shares = _grains(kind, after)
    grains = grains / scale
    noise = float((grains * grains) @ shares) / 12
    taken = noise * ranks * (1 / rows + 1 / columns)
    # Much less than the noise of rounding is left where few words changed at all: there is no more to be had.
    missed = np.maximum(np.abs(tails - noise), 0.01 * noise) + taken
    bits = 0.5 * np.log2(2 * math.pi * math.e * (missed[:, None] / grains**2 + 1 / 12)) @ shares
    strength = np.concatenate([[0.0], values[:most] / (height * width)])
    error = np.sqrt(np.maximum(taken, noise * 1e-6) / 16 / (2 * np.maximum(ranks, 1)))
    held = np.cumsum(np.where(ranks > 0, np.log2(1 + np.sqrt(strength) / error) + 1, 0)) * (rows + columns)
    costs = bits * rows * columns + held
    best = int(costs.argmin())
    further = min(most, best + (height - best) // 3)
    if not best or costs[best] > (1 - _SAVING_MIN) * costs[0] or tails[further] < _PLATEAU_MIN * noise:
        return None
    # Where few words changed, the difference costs less than its size tells.
    if costs[best] > (1 - _SAVING_MIN) * _bits(after[::4], before[::4]) * rows * columns:
        return None
    return best, noise * scale * scale


def _fit(kind: Float, after: Words, before: Words, rank: int, noise: float) -> tuple[bytes, _Factors] | None:
    """Return the factors, as stored and as they will be read; None where none stands out of the noise."""
    difference, total = way.difference(after, before, kind)
    rows, columns = difference.shape
    square = total / difference.size
    if not _DIFFERENCE_MIN < math.sqrt(square) < _DIFFERENCE_MAX:
        return None
    for wide in (rank + max(8, rank // 4), RANK_MAX + 16):
        tried = min(wide, rows, columns)
        left, right, squares = _span(difference, tried)
        # What no component takes is noise too, where sums are fine enough to tell.
        rest = square - float(squares.sum()) / difference.size
        if rest > square * (1e-5 if difference.dtype == np.float32 else 1e-14):
            noise = max(noise, rest)
        # A component that is longer than any that noise alone would give.
        edge = 1.1 * noise * (math.sqrt(rows) + math.sqrt(columns)) ** 2
        kept = min(int((squares > edge).sum()), RANK_MAX)
        if kept < tried - 2:
            break
    if not kept:
        return None
    left, right, squares = left[:, :kept], right[:kept], squares[:kept]
    # Rounding the factors may add a sixteenth of the variance that the fit itself takes from the noise.
    error = math.sqrt(noise * kept * (1 / rows + 1 / columns) / 16)
    for _ in range(12):
        made = _quantize(left, right, squares, error)
        if made is not None:
            return made
        error *= 2
    return None


def _span(difference: Floats, rank: int) -> tuple[Floats, Floats, Floats]:
    """Return (left, right, squares): the best product of that rank, near enough, strongest component first.

    ``right`` has orthonormal rows; ``squares`` are the squared lengths of the columns of ``left``.
    """
    # Some of the rows tell nearly what all rows span: this start saves one of three passes over the whole.
    few = difference[:: max(1, len(difference) // (4 * rank))]
    spread = np.random.default_rng(0).standard_normal((len(few), rank)).astype(difference.dtype)
    rows = _orthonormal(few.T @ spread)
    columns = _orthonormal(difference @ rows.astype(difference.dtype))
    image = (difference.T @ columns.astype(difference.dtype)).astype(np.float64)
    squares, turn = np.linalg.eigh(image.T @ image)
    squares, turn = np.maximum(squares[::-1], 1e-300), turn[:, ::-1]
    lengths = np.sqrt(squares)
    return columns @ (turn * lengths), (image @ (turn / lengths)).T, squares


def _orthonormal(matrix: Floats) -> NDArray[np.float64]:
    """Return as many orthonormal columns that span what the columns of a tall matrix do, near enough."""
    wide = matrix.astype(np.float64)
    try:  # by the factor of their products, a fifth of the time that Householder's way takes for so few columns
        return wide @ np.linalg.inv(np.linalg.cholesky(wide.T @ wide)).T
    except np.linalg.LinAlgError:  # fewer directions than columns
        return np.linalg.qr(wide)[0]


def _quantize(left: Floats, right: Floats, squares: Floats, error: float) -> tuple[bytes, _Factors] | None:
    """Return factors as integers with that standard error of the product; None where they would not be exact."""
    rows, rank = left.shape
    columns = right.shape[1]
    if not error > 0 or not np.isfinite(left).all() or not np.isfinite(right).all():
        return None
    first = math.floor(math.log2(error * math.sqrt(6 * columns / rank)))
    second = np.floor(np.log2(error * math.sqrt(6 * rows / rank) / np.sqrt(squares))).astype(np.int64)
    exponent = first + int(second.min())
    shifts = second - second.min()
    if not _EXPONENT_MIN <= exponent <= _EXPONENT_MAX or shifts.max() > _SHIFT_MAX:
        return None
    whole_left = np.rint(left * 2.0**-first).T
    whole_right = np.rint(right * 2.0 ** -second[:, None].astype(np.float64))
    if max(np.abs(whole_left).max(), np.abs(whole_right).max()) >= 2**30:
        return None
    factors = _scaled(exponent, shifts, whole_left, whole_right)
    if factors is None:
        return None
    parts = [_HEADER.pack(_VERSION, rank, exponent, rows, columns), shifts.astype(np.uint8).tobytes()]
    return b"".join([*parts, *_stored(whole_left), *_stored(whole_right)]), factors


def _scaled(exponent: int, shifts: NDArray[Any], left: NDArray[Any], right: NDArray[Any]) -> _Factors | None:
    """Return factors from integers by component, shapes (rank, rows) and (rank, columns); None if not surely exact."""
    scaled = left * (2.0 ** shifts.astype(np.float64))[:, None]
    bound = float((np.abs(scaled).max(axis=1) * np.abs(right).max(axis=1)).sum())
    if bound >= _EXACT_BELOW:
        return None
    return _Factors(exponent, np.ascontiguousarray(scaled.T), np.ascontiguousarray(right, dtype=np.float64))


def _stored(whole: Floats) -> list[bytes]:
    """Return integers as they are stored: zigzag, apart into byte planes, each a zstd frame where that is shorter."""
    signed = whole.astype(np.int64)
    folded = ((signed << 1) ^ (signed >> 63)).astype("<u4").reshape(-1)
    planes = max(1, (int(folded.max()).bit_length() + 7) // 8)
    parts = [bytes([planes])]
    for plane in range(planes):
        plain = np.ascontiguousarray(folded.view(np.uint8)[plane::4]).tobytes()
        frame = _CONTEXTS.compressor.compress(plain)
        chosen = frame if len(frame) < len(plain) else plain
        parts += [_PLANE.pack(len(chosen)), chosen]
    return parts


def _read(section: Buffer, rows: int, columns: int) -> _Factors:
    """Return the factors of a block of that shape. Raises Corrupt."""
    data = memoryview(section).cast("B")
    if len(data) < _HEADER.size:
        raise Corrupt("low-rank factors end within their header")
    version, rank, exponent, said_rows, said_columns = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise Corrupt(f"low-rank factors are of version {version}, {_VERSION} was expected")
    if (said_rows, said_columns) != (rows, columns):
        raise Corrupt(f"low-rank factors are of {said_rows} x {said_columns} words, the block has {rows} x {columns}")
    # Longer than the block itself, factors would save nothing and take memory that no block needs.
    if not 1 <= rank <= RANK_MAX or rank * (rows + columns) > rows * columns:
        raise Corrupt(f"low-rank factors claim rank {rank} in a block of {rows} x {columns} words")
    if not _EXPONENT_MIN <= exponent <= _EXPONENT_MAX:
        raise Corrupt(f"low-rank factors have the exponent {exponent}")
    shifts = np.frombuffer(data[_HEADER.size : _HEADER.size + rank], dtype=np.uint8)
    if len(shifts) != rank or shifts.max() > _SHIFT_MAX:
        raise Corrupt("low-rank factors have no shift for each component")
    left, place = _loaded(data, _HEADER.size + rank, rank, rows)
    right, place = _loaded(data, place, rank, columns)
    if place != len(data):
        raise Corrupt(f"low-rank factors are followed by {len(data) - place} more bytes")
    factors = _scaled(exponent, shifts, left, right)
    if factors is None:
        raise Corrupt("low-rank factors are too long to be multiplied exactly")
    return factors


def _loaded(data: memoryview, place: int, rank: int, length: int) -> tuple[NDArray[np.int64], int]:
    """Return integers, shape (rank, length), that begin at a place, and the place after them. Raises Corrupt."""
    count = rank * length
    planes = data[place] if place < len(data) else 0
    if not 1 <= planes <= 4:
        raise Corrupt(f"low-rank factors have {planes} planes")
    place += 1
    folded = np.zeros((count, 4), dtype=np.uint8)
    for plane in range(planes):
        if place + _PLANE.size > len(data):
            raise Corrupt("low-rank factors end before a plane")
        (size,) = _PLANE.unpack_from(data, place)
        place += _PLANE.size
        if size > min(count, len(data) - place):
            raise Corrupt(f"low-rank factors have a plane of {size} bytes, with {len(data) - place} left")
        stored = data[place : place + size]
        place += size
        folded[:, plane] = np.frombuffer(stored if size == count else _inflated(stored, count), dtype=np.uint8)
    unsigned = folded.reshape(-1).view("<u4").astype(np.int64)
    return ((unsigned >> 1) ^ -(unsigned & 1)).reshape(rank, length), place


def _inflated(frame: memoryview, count: int) -> bytes:
    """Return exactly that many bytes of a zstd frame. Raises Corrupt."""
    try:
        # The library allocates what the frame's own header declares: that must be checked before it does.
        if zstandard.get_frame_parameters(frame).content_size != count:
            raise Corrupt(f"a plane of low-rank factors does not declare {count} bytes")
        plain: bytes = _CONTEXTS.decompressor.decompress(frame, max_output_size=count, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Corrupt(f"a plane of low-rank factors cannot be decoded: {error}") from error
    if len(plain) != count:
        raise Corrupt(f"a plane of low-rank factors gives {len(plain)} bytes, not {count}")
    return plain


def _bits(words: Words, predicted: Words) -> float:
    """Estimate the bits a word that the integer difference costs: the entropy of its length, and its lower digits."""
    # Wide enough for every difference, and no wider: this is done to every block.
    whole, real = (np.int32, np.float32) if words.itemsize <= 2 else (np.int64, np.float64)
    signed = words.astype(whole) - predicted.astype(whole)
    _, lengths = np.frexp(np.abs(signed).astype(real))
    counts = np.bincount(lengths.reshape(-1))
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum() + np.maximum(lengths - 1, 0).mean() + (signed != 0).mean())


class _Contexts(threading.local):
    """Contexts of zstd, which threads must not share."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=_BLOCK_BYTES_MAX)


class _BlasThreads:
    """Holds BLAS to one thread while any block is computed.

    Blocks are coded by many threads at once; BLAS with threads of its own on top takes ten times the CPU time, most of
    it waiting. The number is the process's: the first block sets it, and the last one sets it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._libraries: list[tuple[Any, Callable[[int], object]]] | None = None
        self._numbers: list[int] = []

    def take(self) -> None:
        with self._lock:
            if not self._users:
                if self._libraries is None:
                    self._libraries = _blas_libraries()
                self._numbers = [library.num_threads for library, _ in self._libraries]
                self._set([1] * len(self._numbers))
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._set(self._numbers)

    def _set(self, numbers: list[int]) -> None:
        for (_, change), number in zip(self._libraries or (), numbers, strict=True):
            change(number)


def _blas_libraries() -> list[tuple[Any, Callable[[int], object]]]:
    """Return each BLAS in the process, and what sets the number of its threads from any thread.

    threadpoolctl (3.8) lets the first thread that limits OpenBLAS do so alone, for as long as it lives, and ignores all
    others without a word. Blocks begin and end in any thread, so OpenBLAS's own function is called.
    """
    from threadpoolctl import ThreadpoolController

    found = []
    for library in ThreadpoolController().lib_controllers:
        if library.user_api != "blas":
            continue
        change = library.set_num_threads
        for name in _OPENBLAS_SETTERS if library.internal_api == "openblas" else ():
            change = getattr(library.dynlib, name, change)
        found.append((library, change))
    return found


_OPENBLAS_SETTERS = tuple(
    f"{prefix}openblas_set_num_threads{suffix}" for prefix in ("", "scipy_") for suffix in ("", "64_", "_64")
)
_BLAS = _BlasThreads()
_CONTEXTS = _Contexts()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    _BLAS.take()
    try:
        yield
    finally:
        _BLAS.leave()
