"""Small blocks of weights of every dtype, and what training does to them. Seeded."""

from __future__ import annotations

import numpy as np

#: Bytes of a word.
KINDS = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1,
    "I16": 2, "I32": 4, "I64": 8, "": 1,
}  # fmt: skip
SIGMA = 0.02


def to_words(values, dtype):  # noqa: PLR0911 - a dtype, a line
    """Return the bytes of float64 values in a dtype; formats that numpy lacks by their bits."""
    if dtype == "F64":
        return values.astype("<f8").tobytes()
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    if dtype == "BF16":
        bits = values.astype("<f4").view("<u4")
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()
    if dtype.startswith("F8_E5M2"):
        return (values.astype("<f2").view("<u2") >> 8).astype("u1").tobytes()
    if dtype.startswith("F8"):
        return ((values * 256).astype("<f2").view("<u2") >> 7).astype("u1").tobytes()
    width = KINDS[dtype]
    return np.rint(values / SIGMA * 20).astype(f"<i{width}").tobytes()


def weights(dtype, count, seed=1):
    """Return that many normal weights."""
    return to_words(np.random.default_rng(seed).standard_normal(count) * SIGMA, dtype)


def nudged(base, dtype, part=0.05, seed=2):
    """Return the words of a base, some units in the last place away where ``part`` of a draw says so; any dtype."""
    width = KINDS[dtype]
    words = np.frombuffer(base, f"<u{width}", count=len(base) // width).copy()
    rng = np.random.default_rng(seed)
    moved = np.rint(rng.standard_normal(words.size) * 3).astype("<i8").astype(words.dtype)
    moved[rng.random(words.size) < 1 - 10 * part] = 0
    words += moved
    words[rng.random(words.size) < 0.003] ^= words.dtype.type(1 << (8 * width - 1))  # some change their sign
    return words.tobytes() + base[words.nbytes :]


def decayed(base, dtype, columns, seed=3):
    """Return a base whose rows were trained, or shrank by decay, or stayed, a third each."""
    width = KINDS[dtype]
    rows = np.frombuffer(base, f"<u{width}").reshape(-1, columns).copy()
    which = np.random.default_rng(seed).integers(0, 3, len(rows))
    trained = np.frombuffer(nudged(base, dtype, part=0.09), rows.dtype).reshape(-1, columns)
    digits = {"F32": 23, "BF16": 7, "F16": 10}[dtype]
    mantissa = rows.astype(np.int64) & ((1 << digits) - 1)
    shrunk = rows - ((mantissa + (1 << digits)) * 0.012).astype(rows.dtype)
    return np.where((which == 0)[:, None], trained, np.where((which == 1)[:, None], shrunk, rows)).tobytes()
