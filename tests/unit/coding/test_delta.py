"""Deltas: exact for every value and base, close to what a change carries, and hostile frames are refused."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.coding.ways import NAMES, taken
from tests.unit.coding.weights import KINDS, SIGMA, decayed, nudged, to_words, weights
from understudy.coding import delta
from understudy.errors import Corrupt

small = settings(max_examples=60, derandomize=True, deadline=None, database=None)
WIDTHS = {"": 1, "F16": 2, "BF16": 2, "F32": 4, "I32": 4, "F64": 8, "I64": 8, "F8_E4M3": 1}


@pytest.fixture(params=NAMES)
def way(request, monkeypatch):
    with taken(request.param) as chosen:
        monkeypatch.setattr(delta, "way", chosen)
        yield


def tuned(dtype, percent, count=1 << 19):
    """Return (base, tuned): normal weights, and those nudged by a part of their sigma."""
    rng = np.random.default_rng(5)
    base = rng.standard_normal(count) * SIGMA
    return to_words(base, dtype), to_words(base + rng.standard_normal(count) * SIGMA * percent / 100, dtype)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("dtype", "percent", "most"),
    # The entropy of the differences, given the exponents, is 27.9, 20.0 and 14.8 % in bf16.
    [("BF16", 1.5, 0.286), ("BF16", 0.6, 0.208), ("BF16", 0.3, 0.153), ("F16", 0.3, 0.325), ("F32", 0.3, 0.57)],
)
def test_a_fine_tune_shrinks_to_what_it_changed(dtype, percent, most):
    base, raw = tuned(dtype, percent)
    frame = delta.encode(raw, base, dtype, 1024)
    assert frame is not None
    assert len(raw) * most > len(frame)
    assert raw == delta.decode(frame, base, len(raw))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", KINDS)
def test_a_base_that_is_the_block_costs_next_to_nothing(dtype):
    raw = weights(dtype, 1 << 16)
    frame = delta.encode(raw, raw, dtype, 256)
    assert frame is not None
    assert len(frame) < 400
    assert raw == delta.decode(frame, raw, len(raw))


@pytest.mark.usefixtures("way")
def test_rows_that_only_shrank_cost_what_the_others_carry():
    base = weights("F32", 3000 * 256)
    rows = np.frombuffer(base, "<u4").reshape(-1, 256)
    mantissa = (rows & 0x7FFFFF) + (1 << 23)
    shrunk = rows - (mantissa * 6e-5).astype("<u4")
    trained = np.frombuffer(tuned("F32", 0.3, rows.size)[1], "<u4").reshape(-1, 256)
    trained = rows + (trained - np.frombuffer(tuned("F32", 0.3, rows.size)[0], "<u4").reshape(-1, 256))
    raw = np.where(np.arange(3000)[:, None] % 5 == 0, trained, shrunk).tobytes()
    by_rows, blind = delta.encode(raw, base, "F32", 256), delta.encode(raw, base, "F32", 0)
    assert by_rows is not None
    assert blind is not None
    assert len(by_rows) * 2 < len(blind)
    assert raw == delta.decode(by_rows, base, len(raw))


@pytest.mark.usefixtures("way")
def test_rows_that_nothing_touched_cost_a_bit_at_most():
    base = weights("BF16", 4000 * 128)
    moved = np.frombuffer(nudged(base, "BF16", part=0.09), "<u2").reshape(-1, 128)
    still = np.frombuffer(base, "<u2").reshape(-1, 128)
    raw = np.where(np.arange(4000)[:, None] % 10 == 0, moved, still).tobytes()
    frame, alone = (
        delta.encode(raw, base, "BF16", 128),
        delta.encode(moved[::10].tobytes(), still[::10].tobytes(), "BF16", 0),
    )
    assert frame is not None
    assert alone is not None
    assert len(frame) < len(alone) + 4000 / 8 + 800


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("columns", [64, 77, 1000])
def test_trained_and_shrunk_and_still_rows_come_back(dtype, columns):
    base = weights(dtype, columns * 301)
    raw = decayed(base, dtype, columns)
    frame = delta.encode(raw, base, dtype, columns)
    assert frame is not None
    assert raw == delta.decode(frame, base, len(raw))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("dtype", "width"), WIDTHS.items())
def test_every_pattern_of_bits_comes_back_against_every_other(dtype, width):
    # All of 16 bits: NaN payloads, infinities, denormals, zeros; each against one that is near, and one that is not.
    words = np.arange(1 << 16, dtype=f"<u{max(width, 2)}") << (8 * (max(width, 2) - 2))
    for moved in (words[::-1], words ^ 1, np.roll(words, 1)):
        base, raw = words.tobytes() + bytes(300_000), moved.tobytes() + bytes(300_000)
        frame = delta.encode(raw, base, dtype, 0)
        assert frame is not None
        assert raw == delta.decode(frame, base, len(raw))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("dtype", "width"), WIDTHS.items())
@pytest.mark.parametrize("size", [1, 3, 5, 7, 9])
def test_odd_sizes_keep_their_tail(dtype, width, size):
    base = weights("I8", 400 * width + size)
    raw = base[:-3] + b"end"
    frame = delta.encode(raw, base, dtype, 10)
    assert frame is not None
    assert raw == delta.decode(frame, base, len(raw))


def test_a_base_of_another_length_is_refused():
    with pytest.raises(ValueError, match="3 bytes, 4"):
        delta.encode(b"abcd", b"abc", "BF16", 0)
    frame = delta.encode(bytes(1000), bytes(1000), "BF16", 0)
    assert frame is not None
    with pytest.raises(Corrupt, match="base of 998"):
        delta.decode(frame, bytes(998), 1000)


def test_a_base_that_has_nothing_to_do_with_the_block_is_not_worth_a_frame():
    rng = np.random.default_rng(7)
    raw, base = (rng.integers(0, 256, 1 << 16, np.uint8).tobytes() for _ in range(2))
    assert [None] * len(WIDTHS) == [delta.encode(raw, base, dtype, 0) for dtype in WIDTHS]
    assert [None] * 2 == [delta.encode(raw, raw, "BF16", 0) for raw in (b"", b"a")]


@pytest.mark.usefixtures("way")
def test_a_merged_adapter_is_kept_as_factors():
    rng = np.random.default_rng(4)
    values = (rng.standard_normal((512, 512)) * SIGMA).astype("<f4")
    step = rng.standard_normal((512, 8)) @ rng.standard_normal((8, 512)) * 2e-4
    base, raw = values.tobytes(), (values + step.astype("<f4")).astype("<f4").tobytes()
    frame, blind = delta.encode(raw, base, "F32", 512), delta.encode(raw, base, "F32", 0)
    assert frame is not None
    assert blind is not None
    assert len(frame) * 3 < len(blind)
    assert raw == delta.decode(frame, base, len(raw))


@pytest.mark.usefixtures("way")
@given(
    pair=st.integers(0, 400).flatmap(
        lambda n: st.tuples(st.binary(min_size=n, max_size=n), st.binary(min_size=n, max_size=n))
    ),
    times=st.integers(1, 5),
    dtype=st.sampled_from(list(WIDTHS)),
    columns=st.sampled_from([0, 1, 2, 8, 40]),
)
@small
def test_what_comes_out_is_what_went_in(pair, times, dtype, columns):
    raw, base = pair[0] * times + bytes(2000), pair[1] * times + bytes(2000)
    frame = delta.encode(raw, base, dtype, columns)
    assert frame is None or raw == delta.decode(frame, base, len(raw))


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize(("rows", "columns"), [(1, 7), (3, 64), (331, 100), (120, 512), (24, 1000)])
def test_all_ways_make_the_same_frame_and_read_it(dtype, rows, columns, monkeypatch):
    base = weights(dtype, rows * columns)
    moved = [nudged(base, dtype), nudged(base, dtype, part=0.001)]
    if dtype in {"F32", "F16", "BF16"}:
        moved.append(decayed(base, dtype, columns))
    for raw in moved:
        frames = []
        for name in NAMES:
            with taken(name) as way:
                monkeypatch.setattr(delta, "way", way)
                frames.append(delta.encode(raw, base, dtype, columns))
        assert 1 == len(set(frames))
        for name in NAMES:
            with taken(name) as way:
                monkeypatch.setattr(delta, "way", way)
                assert frames[0] is None or raw == delta.decode(frames[0], base, len(raw))


def test_many_threads_make_the_frames_that_one_makes():
    pairs = [(weights("BF16", 20_000, seed=seed), seed) for seed in range(8)]
    blocks = [(nudged(base, "BF16", seed=seed), base) for base, seed in pairs]
    alone = [delta.encode(raw, base, "BF16", 100) for raw, base in blocks]
    with ThreadPoolExecutor(8) as pool:
        assert alone * 4 == list(pool.map(lambda block: delta.encode(*block, "BF16", 100), blocks * 4))
        frames = list(zip(alone, blocks, strict=True)) * 4
        assert [raw for raw, _ in blocks] * 4 == list(
            pool.map(lambda held: delta.decode(held[0], held[1][1], 40_000), frames)
        )


@cache
def hostile_frames():
    base = weights("BF16", 96 * 64) + b"t"
    found = [delta.encode(nudged(base, "BF16"), base, "BF16", 0)]
    rows = weights("F32", 300 * 64)
    found.append(delta.encode(decayed(rows, "F32", 64), rows, "F32", 64))
    return [(frame, ground) for frame, ground in zip(found, (base, rows), strict=True) if frame is not None]


@pytest.mark.usefixtures("way")
@given(data=st.data(), which=st.integers(0, 1))
@small
def test_a_damaged_frame_is_corrupt_or_of_the_right_length(data, which):
    frame, base = hostile_frames()[which]
    # The front has all that says how long something is.
    at = data.draw(st.one_of(st.integers(0, 200), st.integers(0, len(frame) - 1)))
    damaged = data.draw(
        st.sampled_from(
            [
                frame[:at],
                frame[:at] + bytes([frame[at] ^ data.draw(st.integers(1, 255))]) + frame[at + 1 :],
                frame[:at] + data.draw(st.binary(min_size=1, max_size=9)) + frame[at:],
                frame + b"more",
            ]
        )
    )
    try:
        assert len(base) == len(delta.decode(damaged, base, len(base)))
    except Corrupt:
        return


@pytest.mark.usefixtures("way")
@given(head=st.binary(min_size=11, max_size=11), rest=st.binary(max_size=120), base=st.binary(max_size=64))
@small
def test_any_bytes_are_corrupt_or_of_the_right_length(head, rest, base):
    try:
        assert len(base) == len(delta.decode(b"\x01" + head + rest, base, len(base)))
    except Corrupt:
        return


def by_hand(streams, *header):
    directory = b"".join(
        struct.pack("<HBII", 1, 0, len(stream), len(stream)) if stream else b"\0\0" for stream in streams
    )
    return struct.pack("<8BI", 1, 2, 0, 0, *header) + directory + b"".join(streams)


@pytest.mark.usefixtures("way")
def test_a_kind_of_row_that_there_is_not_is_corrupt():
    def frame(kinds):
        return by_hand([b"", kinds, b"", b"\x00\x00", b"\x00\x00", b"", b"", b"", b""], 2, 2, 0, 0, 1)

    assert bytes(4) == delta.decode(frame(b"\x00\x01"), bytes(4), 4)
    for kinds in (b"\x00\x02", b"\xff\x01"):
        with pytest.raises(Corrupt, match="kind that there is not"):
            delta.decode(frame(kinds), bytes(4), 4)
    with pytest.raises(Corrupt, match="contradicts itself"):
        delta.decode(by_hand([b"", b"", b"", b"\x00", b"\x00", b"", b"", b"", b""], 0, 2, 0, 0, 0), bytes(4), 4)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("escapes", "far", "fits"),
    [(b"\x05\xff", b"\x01\x00", True), (b"\x05", b"", False), (b"\x05\x06\x07", b"", False), (b"\x05\xff", b"", False),
     (b"\x05\x06", b"\x01\x00", False), (b"\x05\xff", b"\x01", False)],
)  # fmt: skip
def test_escapes_that_do_not_fit_the_symbols_are_corrupt(escapes, far, fits):
    # Two words of one context, both escapes of one bit.
    frame = by_hand([b"", b"", b"", b"\x00", b"\x03", b"", escapes, far, b""], 0, 1, 0, 0, 0)
    if fits:
        # 1 + 5 is 6, so 3 more; 1 + 255 + 1 is 257, so 129 less.
        assert np.array([13, 10 - 129], "<i2").tobytes() == delta.decode(frame, np.array([10, 10], "<u2").tobytes(), 4)
        return
    with pytest.raises(Corrupt):
        delta.decode(frame, bytes(4), 4)


@pytest.mark.parametrize(
    "header",
    [
        b"", b"\x01", struct.pack("<8BI", 2, 2, 7, 8, 0, 1, 0, 0, 0), struct.pack("<8BI", 1, 3, 7, 8, 0, 1, 0, 0, 0),
        struct.pack("<8BI", 1, 2, 9, 8, 0, 1, 0, 0, 0), struct.pack("<8BI", 1, 2, 7, 8, 8, 1, 0, 0, 0),
        struct.pack("<8BI", 1, 2, 7, 8, 0, 0, 0, 0, 0), struct.pack("<8BI", 1, 2, 7, 8, 0, 17, 0, 0, 0),
        struct.pack("<8BI", 1, 2, 7, 8, 2, 2, 0, 0, 0), struct.pack("<8BI", 1, 2, 7, 8, 2, 2, 0, 0, 3),
        struct.pack("<8BI", 1, 2, 7, 8, 1, 1, 0, 0, 2), struct.pack("<8BI", 1, 2, 7, 8, 1, 1, 0, 200, 2),
        struct.pack("<8BI", 1, 2, 7, 8, 0, 1, 1, 0, 0),
    ],
)  # fmt: skip
def test_a_header_that_makes_no_sense_is_corrupt(header):
    with pytest.raises(Corrupt):
        delta.decode(header + bytes(18), bytes(8), 8)
