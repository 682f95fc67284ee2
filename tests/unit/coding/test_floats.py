"""Words of floats as numbers: every way gives the same bits, for every kind of value."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.unit.coding.ways import NAMES, taken
from understudy.coding.floats import FLOATS

DTYPES = list(FLOATS)


def odd_words(kind, count=4096):
    """Return random words of which a part is zero, subnormal, infinite or no number."""
    rng = np.random.default_rng(7)
    words = rng.integers(0, 1 << 8 * kind.width, count, dtype=np.uint64).astype(kind.word)
    sign = 1 << (8 * kind.width - 1)
    few = [0, sign, 1, sign | 1, kind.exponent, sign | kind.exponent, kind.exponent | 1, kind.exponent - 1]
    words[: 16 * len(few)] = np.tile(np.array(few, kind.word), 16)
    return words.reshape(-1, 64)


def by_hand(word, product, kind):
    """Return round(word + product) of one finite word, by numpy's scalars."""
    plain = word if word & kind.vague else 0
    if kind.width == 4:
        return int((np.float64(product) + np.float64(np.uint32(plain).view("<f4"))).astype("<f4").view("<u4"))
    if kind.digits == 10:
        total = np.float32(product) + np.float32(np.uint16(plain).view("<f2"))
        return int(total.astype("<f2").view("<u2"))
    total = np.float32(product) + np.uint32(plain << 16).view("<f4")
    bits = int(total.view("<u4"))
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_added_is_rounded_alike_in_all_ways(dtype):
    kind = FLOATS[dtype]
    words = odd_words(kind)
    product = np.random.default_rng(1).standard_normal(words.shape) * 2.0 ** np.arange(-32, 32)
    found = []
    with np.errstate(all="ignore"):
        for name in NAMES:
            with taken(name) as way:
                found.append(way.rounded(words, product, kind).astype(kind.word))
        for word, added, result in zip(words.flat, product.flat, found[0].flat, strict=True):
            wild = int(word) & kind.exponent == kind.exponent
            assert (int(word) if wild else by_hand(int(word), float(added), kind)) == int(result)
    assert 1 == len({each.tobytes() for each in found})


@pytest.mark.parametrize("dtype", DTYPES)
def test_differences_are_those_of_the_values_and_zero_where_there_is_none(dtype):
    kind = FLOATS[dtype]
    before, after = odd_words(kind), odd_words(kind)[:, ::-1].copy()
    found = []
    for name in NAMES:
        with taken(name) as way, np.errstate(all="ignore"):
            moved, square = way.difference(after, before, kind)
        wide = moved.astype(np.float64)
        assert np.isfinite(moved).all()
        if math.isfinite(square):  # where only some squares of 16 bits go beyond float32, each way is as good
            assert square == pytest.approx(float(np.vdot(wide, wide)), rel=1e-5)
        found.append(moved.tobytes())
    assert 1 == len(set(found))
