"""Both frames decoded by what docs/formats.md says and nothing of ours: numpy and zstandard."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import zstandard

from tests.unit.coding.weights import KINDS, decayed, nudged, weights
from understudy.coding import delta, planes


def streams_of(frame, at, count):
    parts = []
    for _ in range(count):
        (many,) = struct.unpack_from("<H", frame, at)
        parts.append([struct.unpack_from("<BII", frame, at + 2 + 9 * n) for n in range(many)])
        at += 2 + 9 * many
    found = []
    for listed in parts:
        plain = b""
        for mode, length, coded in listed:
            piece = frame[at : at + coded]
            plain += zstandard.decompress(piece) if mode == 1 else piece
            assert length <= len(plain)
            at += coded
        found.append(np.frombuffer(plain, np.uint8))
    assert at == len(frame)
    return found


def planes_by_hand(frame, raw_length):
    version, width, tail = frame[:3]
    assert 1 == version
    kinds = frame[3 : 3 + 2 * width]
    streams = streams_of(frame, 3 + 2 * width, sum(1 + kind for kind in kinds[::2]) + 1)
    words = np.zeros(raw_length // width, "<u8")
    for place in range(width):
        plane = streams.pop(0)
        if kinds[2 * place] == 1:
            distance = np.stack([plane & 15, plane >> 4], axis=1).reshape(-1)[: words.size]
            distance[distance == 15] = streams.pop(0)
            plane = np.uint8(kinds[2 * place + 1]) - distance
        words = words << 8 | plane
    if width > 1:
        words = words >> 1 | (words & 1) << (8 * width - 1)
    assert tail == streams[0].size
    return words.astype(f"<u{width}").tobytes() + streams[0].tobytes()


def bits_of(stream, each, count):
    bits = np.unpackbits(stream, bitorder="little")[: each * count].reshape(count, each)
    return (bits.astype(np.uint64) << np.arange(each, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)


def unzigzag(values):
    return (values >> np.uint64(1)) ^ (np.uint64(0) - (values & np.uint64(1)))


def delta_by_hand(frame, base_bytes):
    version, width, shift, bits, flags, _, tail, name, columns = struct.unpack_from("<8BI", frame)
    assert (1, 0) == (version, name)
    _, kinds, trend, modes, symbols, low, escapes, far, rest = streams_of(frame, 12, 9)
    base = np.frombuffer(base_bytes, f"<u{width}", count=len(base_bytes) // width).astype(np.uint64)
    kind = np.repeat(kinds, columns) if flags & 2 else np.zeros(base.size, np.uint8)
    context = kind.astype(np.uint64) * np.uint64(2**bits) + (base >> np.uint64(shift)) % np.uint64(2**bits)
    far = far.reshape(width, -1).T.astype(np.uint64) @ (256 ** np.arange(width, dtype=np.uint64))
    words, at, low_at, escape_at, far_at = base.copy(), 0, 0, 0, 0
    for one, mode in zip(np.unique(context), modes.tolist(), strict=True):
        places = np.flatnonzero(context == one)
        each, dropped = 1 << (mode >> 6), mode & 63
        size = -(-places.size * each // 8)
        value = bits_of(symbols[at : at + size], each, places.size)
        at += size
        for n in np.flatnonzero(value == 2**each - 1):
            value[n] += np.uint64(escapes[escape_at])
            if escapes[escape_at] == 255:
                value[n] += far[far_at]
                far_at += 1
            escape_at += 1
        size = -(-places.size * dropped // 8)
        value = value * np.uint64(2**dropped) + bits_of(low[low_at : low_at + size], dropped, places.size)
        low_at += size
        words[places] += unzigzag(value)
    if flags & 4:
        of_kind, mantissa, drop, slope = struct.unpack_from("<BBBxi", trend.tobytes())
        steps = unzigzag(trend[8:].reshape(4, -1).T.astype(np.uint64) @ (256 ** np.arange(4, dtype=np.uint64)))
        entries = np.cumsum(steps.astype(np.int64)).astype(np.int32).astype(np.int64)
        lowest = base[kind == of_kind].astype(np.int64) % 2**mantissa
        words[kind == of_kind] += (entries[lowest >> drop] + (slope * (lowest % 2**drop) >> 32)).astype(np.uint64)
    assert (escapes.size, far.size, tail) == (escape_at, far_at, rest.size)
    return words.astype(f"<u{width}").tobytes() + rest.tobytes()


@pytest.mark.parametrize("dtype", KINDS)
def test_a_planes_frame_is_read_by_what_the_page_says(dtype):
    raw = weights(dtype, 33_001) + b"end"[: KINDS[dtype] - 1]
    frame = planes.encode(raw, KINDS[dtype], dense=True)
    assert frame is not None
    assert raw == planes_by_hand(frame, len(raw))


@pytest.mark.parametrize("dtype", KINDS)
def test_a_delta_frame_is_read_by_what_the_page_says(dtype):
    base = weights(dtype, 33_001) + b"end"[: KINDS[dtype] - 1]
    raw = nudged(base, dtype)
    frame = delta.encode(raw, base, dtype, 0)
    assert frame is not None
    assert raw == delta_by_hand(frame, base)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_kinds_of_rows_and_a_trend_are_read_by_what_the_page_says(dtype):
    base = weights(dtype, 600 * 128)
    raw = decayed(base, dtype, columns=128)
    frame = delta.encode(raw, base, dtype, 128)
    assert frame is not None
    assert 6 == frame[4], "both kinds of rows and a trend are in this frame"
    assert raw == delta_by_hand(frame, base)
