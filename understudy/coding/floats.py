"""What merged adapters are looked for in: the words of floats as numbers, in numpy.

The Rust crate in ``native/`` does the same, byte for byte, for bfloat16 and float32. Every result here is one that
IEEE 754 defines, whatever the machine: additions and roundings of single numbers, never sums in some order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from understudy.coding.transforms import Words

Floats: TypeAlias = "NDArray[np.floating[Any]]"

#: Words computed at once: what they take stays in the second-level cache.
_PANEL_WORDS = 1 << 16


@dataclass(frozen=True, slots=True)
class Float:
    """A float's words.

    Attributes:
        word: numpy's name of the unsigned integer.
        exponent: mask of its exponent.
        digits: bits of its mantissa.
        vague: mask of what is taken for +0 where all of it is zero: subnormals, which some machines flush, and zeros of
            either sign.
    """

    word: str
    exponent: int
    digits: int
    vague: int

    @property
    def width(self) -> int:
        """Bytes of a word."""
        return int(self.word[-1])


#: By dtype, as safetensors names it.
FLOATS = {
    "BF16": Float("<u2", 0x7F80, 7, 0x7F80),
    "F16": Float("<u2", 0x7C00, 10, 0x7FFF),
    "F32": Float("<u4", 0x7F80_0000, 23, 0x7F80_0000),
}


def values_of(words: Words, kind: Float) -> NDArray[np.float32]:
    """Return words as float32, which holds all three types exactly."""
    if kind.digits == 10:
        return words.view("<f2").astype(np.float32)
    if kind.width == 2:
        return (words.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return words.astype(np.uint32, copy=False).view(np.float32)


def rounded(words: Words, product: NDArray[np.float64], kind: Float) -> Words:
    """Return round(words + product), of one shape; NaN and infinities stay.

    float32 is added to as float64 and rounded once; 16-bit words are added to as float32, and then rounded.
    """
    exponent, vague = (np.array(mask, dtype=kind.word) for mask in (kind.exponent, kind.vague))
    unclear = (words & vague) == 0
    wild = (words & exponent) == exponent
    odd = unclear.any() or wild.any()
    plain = np.where(unclear, 0, words).astype(kind.word) if odd else words
    result: Words
    if kind.width == 4:
        result = (product + values_of(plain, kind)).astype(np.float32).view(np.uint32)
    else:
        total = product.astype(np.float32)
        total += values_of(plain, kind)
        result = total.astype("<f2").view("<u2") if kind.digits == 10 else _to_bf16(total)
    return np.where(wild, words, result).astype(kind.word) if odd else result.astype(kind.word, copy=False)


def difference(after: Words, before: Words, kind: Float) -> tuple[Floats, float]:
    """Return (after - before, with zero where that is no number; the sum of its squares).

    The rounding of 16-bit words is far above that of float32, which is enough for them; float32 itself takes float64.
    """
    moved: Floats = np.empty(after.shape, dtype=np.float64 if kind.width == 4 else np.float32)
    height = max(1, _PANEL_WORDS // max(1, after.shape[1]))
    square = 0.0
    for start in range(0, len(after), height):
        panel = slice(start, start + height)
        old, new = (values_of(words[panel], kind) for words in (before, after))
        part = np.subtract(new, old, out=moved[panel], dtype=moved.dtype)
        found = float(np.vdot(part, part))
        if not np.isfinite(found):
            np.nan_to_num(part, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
            found = float(np.vdot(part, part))
        square += found
    return moved, square


def _to_bf16(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return the words of bf16 nearest to float32, ties to even. What is no NaN gives none."""
    bits = values.view(np.uint32)
    even = bits >> np.uint32(16)
    even &= np.uint32(1)
    even += np.uint32(0x7FFF)
    even += bits
    even >>= np.uint32(16)
    return even
