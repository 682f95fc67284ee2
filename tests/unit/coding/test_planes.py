"""Planes: every value comes back bit for bit, weights shrink as far as they can, hostile frames are refused."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.coding.ways import NAMES, taken
from tests.unit.coding.weights import KINDS, weights
from understudy.coding import planes, transforms
from understudy.errors import Corrupt

small = settings(max_examples=60, derandomize=True, deadline=None, database=None)
COUNT = 1 << 17


@pytest.fixture(params=NAMES)
def way(request, monkeypatch):
    with taken(request.param) as chosen:
        monkeypatch.setattr(planes, "way", chosen)
        yield


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(
    ("dtype", "most"),
    # The order-0 bound of normal weights is 0.664 for bf16, 0.832 for fp32.
    [("BF16", 0.668), ("F32", 0.836), ("F16", 0.85), ("F64", 0.92), ("F8_E4M3", 0.86), ("F8_E5M2", 0.72), ("I8", 0.85)],
)
def test_normal_weights_shrink_to_what_their_exponents_carry(dtype, most):
    raw = weights(dtype, COUNT)
    frame = planes.encode(raw, KINDS[dtype])
    assert frame is not None
    assert len(raw) * most > len(frame)
    assert raw == planes.decode(frame, len(raw))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("width", planes.WIDTHS)
def test_every_pattern_of_bits_comes_back(width):
    # All of 16 bits are all NaN payloads, infinities, denormals and zeros of bf16 and fp16; wider words begin so.
    words = np.arange(1 << 16, dtype=f"<u{max(width, 2)}")
    raw = (words << (8 * (words.itemsize - 2))).tobytes() + bytes(40_000)
    frame = planes.encode(raw, width, dense=True)
    assert frame is not None
    assert raw == planes.decode(frame, len(raw))


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("width", planes.WIDTHS)
@pytest.mark.parametrize("size", [*range(18), 255, 256, 257, 1023])
def test_odd_sizes_keep_their_tail(width, size):
    raw = bytes(400) + bytes(range(200, 200 + size % 50)) + bytes(size)
    frame = planes.encode(raw, width)
    assert frame is not None
    assert raw == planes.decode(frame, len(raw))


def test_nothing_and_less_than_a_word_are_not_worth_a_frame():
    assert [None] * 4 == [planes.encode(raw, 4) for raw in (b"", b"a", b"abc", b"abcd")]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dense", [False, True])
def test_noise_is_not_worth_a_frame(dense):
    noise = np.random.default_rng(7).integers(0, 256, 1 << 16, np.uint8).tobytes()
    assert [None] * 4 == [planes.encode(noise, width, dense=dense) for width in planes.WIDTHS]


def test_repeats_shrink_when_dense_though_their_bytes_look_like_noise():
    noise = np.random.default_rng(7).integers(0, 256, 1 << 14, np.uint8).tobytes()
    frame = planes.encode(noise * 8, 2, dense=True)
    assert frame is not None
    assert len(noise) * 2 > len(frame)
    assert noise * 8 == planes.decode(frame, len(noise) * 8)


def test_words_of_three_bytes_are_refused():
    with pytest.raises(ValueError, match="3 bytes"):
        planes.encode(b"abcdef", 3)


@pytest.mark.usefixtures("way")
@given(raw=st.binary(max_size=300), times=st.integers(1, 9), width=st.sampled_from(planes.WIDTHS), dense=st.booleans())
@small
def test_what_comes_out_is_what_went_in(raw, times, width, dense):
    frame = planes.encode(raw * times, width, dense=dense)
    assert frame is None or raw * times == planes.decode(frame, len(raw) * times)


@pytest.mark.parametrize("dtype", KINDS)
def test_all_ways_make_the_same_frame_and_read_it(dtype, monkeypatch):
    for count in (1, 7, 129, 40_001):
        raw = weights(dtype, count, seed=count) + b"x" * (KINDS[dtype] - 1)
        frames = []
        for name in NAMES:
            with taken(name) as way:
                monkeypatch.setattr(planes, "way", way)
                frames.append(planes.encode(raw, KINDS[dtype], dense=True))
        assert 1 == len(set(frames))
        for name in NAMES:
            with taken(name) as way:
                monkeypatch.setattr(planes, "way", way)
                assert frames[0] is None or raw == planes.decode(frames[0], len(raw))


def test_many_threads_make_the_frames_that_one_makes():
    blocks = [weights("BF16", 20_000, seed=seed) for seed in range(16)]
    alone = [planes.encode(block, 2) for block in blocks]
    with ThreadPoolExecutor(8) as pool:
        assert alone * 4 == list(pool.map(lambda block: planes.encode(block, 2), blocks * 4))
        assert blocks * 4 == list(pool.map(lambda frame: planes.decode(frame, 40_000), alone * 4))


@cache
def hostile_frame():
    raw = weights("BF16", 700) + b"t"
    return raw, planes.encode(raw, 2)


@pytest.mark.usefixtures("way")
@given(data=st.data())
@small
def test_a_damaged_frame_is_corrupt_or_of_the_right_length(data):
    raw, frame = hostile_frame()
    at = data.draw(st.integers(0, len(frame) - 1))
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
    for length in (len(raw), len(raw) + 1, 0, 1 << 20):
        try:
            assert length == len(planes.decode(damaged, length))
        except Corrupt:
            continue


@pytest.mark.usefixtures("way")
@given(frame=st.binary(max_size=120), length=st.integers(0, 200))
@small
def test_any_bytes_are_corrupt_or_of_the_right_length(frame, length):
    try:
        assert length == len(planes.decode(b"\x01" + frame, length))
    except Corrupt:
        return


def test_a_bomb_is_refused_by_what_it_declares():
    bomb = zstandard.ZstdCompressor(level=3).compress(bytes(1 << 28))
    part = struct.pack("<HBII", 1, 1, 1000, len(bomb)) + struct.pack("<H", 0)
    with pytest.raises(Corrupt, match="declares 268435456 bytes, 1000 were expected"):
        planes.decode(bytes([1, 1, 0, 0, 0]) + part + bomb, 1000)


def paired(pairs, far):
    directory = b"".join(struct.pack("<HBII", 1, 0, len(part), len(part)) for part in (pairs, far))
    return bytes([1, 1, 0, 1, 200]) + directory + struct.pack("<H", 0) + pairs + far


@pytest.mark.usefixtures("way")
def test_far_bytes_that_do_not_fit_the_pairs_are_corrupt():
    assert bytes([200, 185, 100]) == planes.decode(paired(b"\xf0\x0f", bytes([15, 100])), 3)
    for far in (b"", b"\x0f", b"\x0f\x0f\x0f"):
        with pytest.raises(Corrupt, match="far bytes"):
            planes.decode(paired(b"\xf0\x0f", far), 3)


def test_a_frame_of_more_than_it_declares_is_corrupt():
    whole = paired(b"\xf0\x0f", bytes([15, 100]))
    with pytest.raises(Corrupt, match="of 37 bytes declares 33"):
        planes.decode(whole + b"more", 3)
    with pytest.raises(Corrupt, match="declares 2 bytes, 3 were expected"):
        planes.decode(whole, 5)
    with pytest.raises(Corrupt, match="more far bytes than bytes"):
        planes.decode(paired(b"\xf0\x0f", bytes(4)), 3)


def test_exponents_go_two_to_a_byte_and_mantissas_stay_as_they_are():
    frame = planes.encode(weights("BF16", COUNT), 2)
    assert frame is not None
    assert (1, 0) == (frame[3], frame[5])
    words = np.frombuffer(weights("BF16", COUNT), "<u2")
    assert frame.endswith(((words << 1) | (words >> 15)).astype(np.uint8).tobytes())


@pytest.mark.parametrize(
    "frame", [b"", b"\x01", b"\x02\x02\x00", b"\x01\x03\x00", b"\x01\x02\x02", b"\x01\x01\x00\x07\x00"]
)
def test_a_header_that_makes_no_sense_is_corrupt(frame):
    with pytest.raises(Corrupt):
        planes.decode(frame, 8)


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("count", [1, 2, 127, 4096, 4097, 32_768, 70_001])
def test_a_plane_in_pairs_is_joined_as_it_would_be_apart(width, count):
    # Parts of 64 KiB, blocks of 4096 words, strides of 128: far bytes lie on both sides of every seam.
    random = np.random.default_rng(count)
    planes_ = [random.integers(0, 256, count, np.uint8) for _ in range(width)]
    planes_[0] = np.where(random.random(count) < 0.02, planes_[0], np.uint8(120) - planes_[0] % 15)
    pairs, far = transforms.pair(planes_[0], 120)
    expected = transforms.join(planes_, width)
    for name in NAMES:
        with taken(name) as way:
            assert expected == way.join_pairs(pairs, far, 120, planes_[1:], width), name
            for wrong in (far[:-1], np.append(far, np.uint8(20))):
                if wrong.size != far.size:
                    with pytest.raises(ValueError, match="far bytes"):
                        way.join_pairs(pairs, wrong, 120, planes_[1:], width)
