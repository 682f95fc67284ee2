"""Packs: they describe themselves, and what does not is refused in a sentence."""

from __future__ import annotations

import struct

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.errors import Corrupt, Unsupported
from understudy.objects.memory import MemoryStore
from understudy.vault.chunks import CodedChunk, chunk_id
from understudy.vault.coders import decode, encode
from understudy.vault.packs import MAGIC, PackBuilder, pack_key, pack_name, read_trailer


def pack_of(plain_parts, again=0):
    builder = PackBuilder()
    for plain in plain_parts:
        coder, frame = encode(memoryview(plain))
        builder.add(CodedChunk(chunk_id(plain), len(plain), coder, frame))
    return builder.seal(again=again)


def stored(data, name=None):
    store = MemoryStore()
    key = pack_key(name or chunk_id(data).hex())
    return store, store.create(key, data)


def with_trailer(frames, content):
    trailer = zstandard.ZstdCompressor().compress(content)
    return frames + trailer + struct.pack("<Q", len(trailer)) + MAGIC


@given(st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=20))
@settings(max_examples=40)
def test_a_pack_tells_what_it_holds_and_gives_it_back(parts):
    sealed = pack_of(parts)
    store, info = stored(sealed.data)
    assert sealed.name == chunk_id(sealed.data).hex()
    assert sealed.locations == read_trailer(store, info)
    for plain, place in zip(parts, sealed.locations, strict=True):
        frame = sealed.data[place.offset : place.offset + place.length]
        assert plain == decode(place.coder, frame, place.raw_length)


def test_a_trailer_longer_than_the_first_read_is_read_whole():
    parts = [struct.pack("<Q", number) for number in range(5000)]
    sealed = pack_of(parts)
    store, info = stored(sealed.data)
    assert len(sealed.data) > 200_000
    assert 5000 == len(read_trailer(store, info))


def test_sealing_again_gives_the_same_chunks_another_name():
    builder = PackBuilder()
    builder.add(CodedChunk(chunk_id(b"abc"), 3, "raw", b"abc"))
    first, second = builder.seal(), builder.seal(again=1)
    assert first.name != second.name
    assert first.data[:3] == second.data[:3] == b"abc"
    store, info = stored(second.data)
    assert second.locations == read_trailer(store, info)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data[:-1] + b"!", "does not end as a pack does"),
        (lambda data: data[:-16] + struct.pack("<Q", 1 << 60) + MAGIC, "does not fit"),
        (lambda data: data[:-17] + b"\0" + data[-16:], "cannot be decoded"),
        (lambda data: b"x" + data, "lists .* bytes of chunks"),
        (lambda data: data[:10], "which no pack has"),
    ],
)
def test_a_damaged_end_is_corrupt(spoil, words):
    store, info = stored(spoil(pack_of([b"abc" * 100, b"def"]).data))
    with pytest.raises(Corrupt, match=words):
        read_trailer(store, info)


@pytest.mark.parametrize(
    "chunks",
    [
        [{"id": "00" * 32, "offset": 1, "length": 3, "raw_length": 3, "coder": "raw", "base": None}],
        [{"id": "00" * 32, "offset": 0, "length": 3, "raw_length": 1 << 40, "coder": "raw", "base": None}],
        [{"id": "00" * 31, "offset": 0, "length": 3, "raw_length": 3, "coder": "raw", "base": None}],
        [{"id": "00" * 32, "offset": 0, "length": -3, "raw_length": 3, "coder": "raw", "base": None}],
        [{"id": "00" * 32, "offset": 0, "length": True, "raw_length": 3, "coder": "raw", "base": None}],
        [{"offset": 0}],
        ["x"],
        7,
    ],
)
def test_a_trailer_that_lies_is_corrupt(chunks):
    store, info = stored(with_trailer(b"abc", orjson.dumps({"format": 1, "chunks": chunks})))
    with pytest.raises(Corrupt):
        read_trailer(store, info)


def test_a_later_format_asks_for_an_upgrade():
    store, info = stored(with_trailer(b"", orjson.dumps({"format": 2})))
    with pytest.raises(Unsupported, match=r"[Uu]pgrade"):
        read_trailer(store, info)


def test_only_a_pack_key_names_a_pack():
    name = "ab" * 32
    assert name == pack_name(f"packs/ab/{name}")
    for key in (f"packs/cd/{name}", f"packs/{name}", "packs/ab/x", f"packs/AB/{name.upper()}", f"x/ab/{name}"):
        assert pack_name(key) is None
