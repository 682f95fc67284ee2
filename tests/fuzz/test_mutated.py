"""Every parser of what others wrote, fed with mutated valid input: an error of ours, or a right result, never more.

The examples are the same in every run (derandomized). ``make fuzz`` runs the same targets under atheris, for as long as
one likes.
"""

from __future__ import annotations

import struct

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, example, valid
from understudy.vault.packs import MAGIC
from understudy.vault.signing import split

small = settings(max_examples=60, derandomize=True, deadline=None, database=None)

edits = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), st.integers(0, 1 << 20), st.integers(1, 255)),
        st.tuples(st.just("cut"), st.integers(0, 1 << 20), st.integers(1, 64)),
        st.tuples(st.just("put"), st.integers(0, 1 << 20), st.binary(min_size=1, max_size=12)),
        st.tuples(st.just("twice"), st.integers(0, 1 << 20), st.integers(1, 200)),
        st.tuples(st.just("end"), st.integers(0, 1 << 20), st.just(0)),
    ),
    min_size=1,
    max_size=4,
)

hostile = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.sampled_from(
        [0, -1, 1 << 31, 1 << 32, 1 << 63, 0.5, "", "..", "../x", "/", "a\0b", "\u202e", "x" * 300, [], {}]
    ),
    st.text(max_size=8),
    st.lists(st.integers(-2, 5), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(-2, 5), max_size=2),
)


def edited(data, changes):
    for kind, place, what in changes:
        at = place % (len(data) + 1)
        if kind == "flip" and at < len(data):
            data = data[:at] + bytes([data[at] ^ what]) + data[at + 1 :]
        elif kind == "cut":
            data = data[:at] + data[at + what :]
        elif kind == "put":
            data = data[:at] + what + data[at:]
        elif kind == "twice":
            data = data[: at + what] + data[at:]
        elif kind == "end":
            data = data[:at]
    return data


def places(value, path=()):
    """Every place in a JSON value, as the keys that lead there."""
    found = [path] if path else []
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        found += places(each, (*path, key))
    return found


def replaced(value, path, other):
    if not path:
        return other
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = replaced(copied[path[0]], path[1:], other)
    return copied


@pytest.mark.parametrize("target", TARGETS)
def test_the_valid_example_is_taken(target):
    assert TARGETS[target](example(target))


@pytest.mark.parametrize("target", TARGETS)
@small
@given(changes=edits)
def test_any_edit_of_the_bytes_is_refused_by_us_or_read_rightly(target, changes):
    TARGETS[target](edited(example(target), changes))


@pytest.mark.parametrize("target", TARGETS)
@small
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused_by_us_or_read_rightly(target, data):
    TARGETS[target](data)


@pytest.mark.parametrize("target", ["manifest", "vectors", "features", "set", "document"])
@small
@given(number=st.integers(0, 1 << 20), other=hostile, again=st.integers(0, 1 << 20), another=hostile)
def test_any_value_anywhere_in_a_manifest_is_refused_by_us_or_read_rightly(target, number, other, again, another):
    value = orjson.loads(split(example(target))[0])
    for place, chosen in ((number, other), (again, another)):
        paths = places(value)
        if paths:
            value = replaced(value, paths[place % len(paths)], chosen)
    TARGETS[target](orjson.dumps(value))


@small
@given(number=st.integers(0, 1 << 20), other=hostile, data=st.binary(max_size=30))
def test_any_value_anywhere_in_a_header_is_refused_by_us_or_read_rightly(number, other, data):
    whole = valid()["header"]
    length = struct.unpack("<Q", whole[:8])[0]
    value = orjson.loads(whole[8 : 8 + length])
    paths = places(value)
    text = orjson.dumps(replaced(value, paths[number % len(paths)], other))
    TARGETS["header"](struct.pack("<Q", len(text)) + text + whole[8 + length :] + data)


@small
@given(number=st.integers(0, 1 << 20), other=hostile)
def test_any_value_anywhere_in_a_trailer_is_refused_by_us_or_read_rightly(number, other):
    whole = valid()["trailer"]
    length = struct.unpack("<Q", whole[-16:-8])[0]
    value = orjson.loads(zstandard.ZstdDecompressor().decompress(whole[-16 - length : -16]))
    paths = places(value)
    made = zstandard.ZstdCompressor().compress(orjson.dumps(replaced(value, paths[number % len(paths)], other)))
    TARGETS["trailer"](whole[: -16 - length] + made + struct.pack("<Q", len(made)) + MAGIC)
