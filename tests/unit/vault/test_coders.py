"""Coders: what comes out is what went in, and a frame that lies about its length is refused before it is made."""

from __future__ import annotations

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import Corrupt, Unsupported
from understudy.vault.chunks import RAW_BYTES_MAX
from understudy.vault.coders import decode, encode


@given(st.binary(max_size=5000), st.integers(1, 50))
@settings(max_examples=60)
def test_what_comes_out_is_what_went_in(part, times):
    plain = part * times
    coder, frame = encode(memoryview(plain))
    assert plain == decode(coder, frame, len(plain))


def test_what_does_not_shrink_is_stored_raw():
    noise = zstandard.ZstdCompressor(level=19).compress(bytes(range(256)) * 400)
    assert ("raw", noise) == encode(memoryview(noise))
    assert "zstd" == encode(memoryview(b"a" * 1000))[0]


def test_every_frame_is_a_standard_one_that_declares_its_length():
    _, frame = encode(memoryview(b"a" * 1000))
    assert 1000 == zstandard.get_frame_parameters(frame).content_size


def test_an_unknown_coder_is_named_and_asks_for_an_upgrade():
    with pytest.raises(Unsupported, match=r"'planes7'.*[Uu]pgrade"):
        decode("planes7", b"x", 1)


def test_a_bomb_is_refused_by_what_its_header_declares():
    bomb = zstandard.ZstdCompressor(level=3).compress(bytes(1 << 28))
    assert len(bomb) < 200_000
    with pytest.raises(Corrupt, match="268435456"):
        decode("zstd", bomb, 1000)
    with pytest.raises(Corrupt, match="the limit is"):
        decode("zstd", bomb, 1 << 28)


def test_a_bomb_that_declares_nothing_is_refused():
    packer = zstandard.ZstdCompressor(level=3, write_content_size=False).compressobj()
    bomb = packer.compress(bytes(RAW_BYTES_MAX)) + packer.flush()
    with pytest.raises(Corrupt, match="no size"):
        decode("zstd", bomb, 1000)


@pytest.mark.parametrize("frame", [b"", b"\x28\xb5\x2f\xfd", b"not zstd at all", b"\x28\xb5\x2f\xfd\x04\x00"])
def test_a_damaged_frame_is_corrupt(frame):
    with pytest.raises(Corrupt):
        decode("zstd", frame, 10)


def test_a_cut_frame_and_a_frame_with_more_behind_it_are_corrupt():
    _, frame = encode(memoryview(b"abc" * 1000))
    for wrong in (frame[:-1], frame + b"x", frame + frame):
        with pytest.raises(Corrupt):
            decode("zstd", wrong, 3000)


def test_a_raw_chunk_of_another_length_is_corrupt():
    with pytest.raises(Corrupt, match="3 bytes, 4"):
        decode("raw", b"abc", 4)
