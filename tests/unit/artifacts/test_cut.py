"""Cutting: lossless, at tensor boundaries, by content; a hostile header is refused, never followed."""

from __future__ import annotations

import json
import struct

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.models import layers, safetensors
from understudy.artifacts.cut import ContentCutter, cut_tensors
from understudy.artifacts.layouts.safetensors import header_length, read_layout
from understudy.errors import Corrupt
from understudy.vault.chunks import BLOCK_BYTES, chunk_id


def lengths_of(data):
    length = header_length(data[:8], len(data))
    return [cut.length for cut in cut_tensors(read_layout(data[8 : 8 + length], len(data)), len(data))]


def ids_of(data, lengths):
    ids, offset = [], 0
    for length in lengths:
        ids.append(chunk_id(data[offset : offset + length]))
        offset += length
    assert offset == len(data)
    return ids


def tensor(start, stop, dtype="U8", shape=None):
    return {"dtype": dtype, "shape": [stop - start] if shape is None else shape, "data_offsets": [start, stop]}


def file_of(header, data=b""):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def test_the_header_and_every_tensor_are_their_own_chunks():
    data = safetensors(layers(3))
    header = struct.unpack("<Q", data[:8])[0]
    assert [8 + header, 65536, 65536, 65536] == lengths_of(data)


def test_an_unchanged_tensor_keeps_its_id_when_the_header_moves_every_byte():
    plain = safetensors(layers(6))
    moved = safetensors(layers(6), metadata={"note": "x" * 1001})
    before, after = ids_of(plain, lengths_of(plain)), ids_of(moved, lengths_of(moved))
    assert before[1:] == after[1:]
    assert before[0] != after[0]


def test_a_long_tensor_is_cut_into_blocks():
    data = safetensors({"big": np.zeros((3, 1 << 20), np.float32), "empty": np.zeros((0, 3), np.float32)})
    assert [BLOCK_BYTES] * 3 == lengths_of(data)[1:]


def test_a_hole_between_tensors_is_kept():
    data = file_of({"a": tensor(0, 3), "b": tensor(5, 9)}, b"aaa--bbbb")
    assert [3, 2, 4] == lengths_of(data)[1:]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "at least 8"),
        (b"\x01\x02", "at least 8"),
        (struct.pack("<Q", (1 << 64) - 1), "the limit is"),
        (struct.pack("<Q", 100_000_001) + b"{}", "the limit is"),
        (struct.pack("<Q", 50) + b"{}", "only 10 in all"),
        (file_of(b"{not json"), "not JSON"),
        (file_of(b"[" * 100_000 + b"]" * 100_000), "not JSON|not an object"),
        (file_of([]), "not an object"),
        (file_of({"a": tensor(0, 4), "b": tensor(3, 6)}, b"abcdef"), "overlap"),
        (file_of({"a": tensor(0, 9)}, b"abc"), "beyond the 3 bytes"),
        (file_of({"a": tensor(0, 3)}, b"abcd"), "has .* bytes, its header and tensors make"),
        (file_of({"a": tensor(0, 1 << 70)}, b"abc"), "offsets|beyond"),
        (file_of({"a": {"dtype": "U8", "shape": [3], "data_offsets": [-1, 2]}}, b"abc"), "not numbers in order"),
        (file_of({"a": {"dtype": "U8", "shape": [3], "data_offsets": [3, 0]}}, b"abc"), "not numbers in order"),
        (file_of({"a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3.0]}}, b"abc"), "not numbers in order"),
        (file_of({"a": {"dtype": "U8", "shape": [3], "data_offsets": [0]}}, b"abc"), "without"),
        (file_of({"a": {"dtype": "U8", "shape": [3]}}, b"abc"), "without"),
        (file_of({"a": 7}, b"abc"), "without"),
        (file_of({"a": tensor(0, 3, shape=[4])}, b"abc"), "does not give"),
        (file_of({"a": tensor(0, 3, "BF16", [1])}, b"abc"), "does not give"),
        (file_of({"a": tensor(0, 3, shape=[1] * 65)}, b"abc"), "no shape"),
        (file_of({"a": tensor(0, 3, shape=["3"])}, b"abc"), "not numbers"),
    ],
)
def test_a_hostile_header_is_refused_in_a_sentence(data, words):
    with pytest.raises(Corrupt, match=words):
        lengths_of(data)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 40) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
described = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["U8", "F32", "new"]) | values, "shape": values, "data_offsets": values}
)


@given(st.dictionaries(st.text(max_size=4), values | described, max_size=4), st.binary(max_size=40))
@example({"a": {"dtype": "new", "shape": [1], "data_offsets": [0, 4]}}, b"abcd")
@settings(max_examples=100)
def test_any_header_is_either_refused_or_cut_without_loss(header, data):
    whole = file_of(orjson.dumps(header), data)
    try:
        lengths = lengths_of(whole)
    except Corrupt:
        return
    assert len(whole) == sum(lengths)
    assert all(0 < length <= BLOCK_BYTES for length in lengths)


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_any_bytes_are_refused_or_cut_without_loss(data):
    try:
        assert len(data) == sum(lengths_of(data))
    except Corrupt:
        return


def content_cuts(data, steps):
    cutter, cuts, offset = ContentCutter(), [], 0
    for step in steps:
        cuts += [bytes(cut) for cut in cutter.feed(data[offset : offset + step], last=False)]
        offset += step
    return cuts + [bytes(cut) for cut in cutter.feed(data[offset:], last=True)]


noise = np.random.default_rng(5).bytes(12 << 20)


@given(st.lists(st.integers(0, 5 << 20), max_size=8))
@settings(max_examples=15, deadline=None)
def test_content_cuts_do_not_depend_on_how_the_bytes_arrive(steps):
    whole = content_cuts(noise, [])
    assert whole == content_cuts(noise, steps)
    assert noise == b"".join(whole)
    assert max(len(cut) for cut in whole) <= BLOCK_BYTES


def test_an_insertion_moves_only_the_cuts_beside_it():
    before, after = set(content_cuts(noise, [])), set(content_cuts(noise[:100] + b"x" + noise[100:], []))
    assert len(after - before) <= 2


def test_an_empty_file_has_no_chunks():
    assert [] == ContentCutter().feed(b"", last=True)


# ------------------------------------------------------------------ what two readers would read differently


def raw_header(text, data=b""):
    return struct.pack("<Q", len(text)) + text + data


ONE = b'"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}'
TWO = b'"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}'


@pytest.mark.parametrize(
    "text",
    [
        b"{" + ONE + b"," + ONE + b"," + TWO + b"}",
        b'{"a":1,' + ONE + b"," + TWO + b"}",
        b'{"\\u0061":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},' + ONE + b"," + TWO + b"}",
        b"{" + ONE.replace(b'"shape"', b'"dtype":"U8","shape"') + b"," + TWO + b"}",
        b"{" + ONE.replace(b'"shape"', b'"\\u0064type":"I8","shape"') + b"," + TWO + b"}",
        b'{"__metadata__":{"x":"1"},"__metadata__":{"x":"2"},' + ONE + b"," + TWO + b"}",
        b'{"__metadata__":{"x":"1","x":"2"},' + ONE + b"," + TWO + b"}",
    ],
    ids=["tensor", "other kind", "escaped", "key", "escaped key", "metadata", "in metadata"],
)
def test_a_name_that_is_there_twice_is_refused(text):
    with pytest.raises(Corrupt, match="twice"):
        lengths_of(raw_header(text, b"aaab"))


@pytest.mark.parametrize(
    "text",
    [
        b"{" + ONE + b"," + TWO + b"}",
        b'{"__metadata__":{"dtype":"\\"dtype\\"","shape":"x"},' + ONE + b"," + TWO + b"}",
        b'{ "__metadata__" : {} , ' + ONE + b" , " + TWO + b" }  ",
        b"{" + ONE.replace(b'"U8"', b'"U8","more":"fields"') + b"," + TWO + b"}",
        b"{" + ONE.replace(b'"a"', b'"dtype"') + b"," + TWO + b"}",
    ],
)
def test_names_that_only_look_alike_are_accepted(text):
    assert [3, 1] == lengths_of(raw_header(text, b"aaab"))[1:]


def test_a_header_that_another_reader_could_not_follow_is_refused():
    deep = b"[" * 1000 + b"]" * 1000
    with pytest.raises(Corrupt, match=r"not every reader|not JSON"):
        lengths_of(raw_header(b'{"__metadata__":{"\\u0078":' + deep + b"}," + ONE + b"," + TWO + b"}", b"aaab"))


def test_tensors_are_described_by_dtype_and_shape_and_a_hole_is_named():
    data = safetensors({"a": np.zeros((2, 3), np.float32), "b": np.zeros((), np.float32)})
    layout = read_layout(data[8 : 8 + header_length(data[:8], len(data))], len(data))
    assert ({"a": ("F32", (2, 3)), "b": ("F32", ())}, None) == (layout.described, layout.hole)
    data = file_of({"a": tensor(0, 3), "b": tensor(5, 9)}, b"aaa--bbbb")
    assert "b" == read_layout(data[8 : 8 + header_length(data[:8], len(data))], len(data)).hole


def test_a_header_longer_than_what_is_looked_into_is_refused_before_it_is_read():
    with pytest.raises(Corrupt, match="more than the 16777216 that are looked into"):
        header_length(struct.pack("<Q", (16 << 20) + 1), 1 << 40)
