"""The native part: what it is given is checked before it is touched, and it can be left out."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from tests.unit.coding.ways import NAMES, taken
from understudy.coding import native, transforms
from understudy.coding.native import WAYS
from understudy.coding.transforms import Order, Trend

needs_native = pytest.mark.skipif(
    not native.AVAILABLE, reason="the native part is not installed: make setup builds it where there is cargo"
)
ORDER = Order(2, 7, 8)


def sorted_in_all_ways(raw, base, order):
    """Return (counts, differences by context) as each way gives them; each must give the raw bytes back."""
    found = []
    for name in NAMES:
        with taken(name) as way:
            counts = way.count(base, order)
            ordered = way.sort(raw, base, order, counts)
            assert raw == way.unsort(ordered, base, order, counts)
            found.append((counts.tobytes(), ordered.tobytes()))
    return found


@pytest.mark.parametrize("value", ["off", "OFF", "0"])
def test_it_can_be_turned_off(value):
    program = "from understudy.coding import native; print(native.AVAILABLE, sorted(native.WAYS))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"UNDERSTUDY_NATIVE": value, "PYTHONPATH": ":".join(sys.path)},
    )
    assert "False ['numpy']" == done.stdout.strip()


@needs_native
def test_both_ways_offer_the_same():
    offered = {name: {each for each in dir(way) if not each.startswith("_")} for name, way in WAYS.items()}
    assert offered["numpy"] == offered["native"]


@needs_native
def test_calls_that_would_reach_beyond_a_buffer_are_refused():
    module = native._native
    out, lie = np.zeros(8, np.uint8), (2, 7, 8, 0, None, 1)
    counts = np.zeros(4 * 256 * 4, np.uint8)
    four = np.array([4], "<u4").view(np.uint8)
    for call in (
        lambda: module.split(bytes(8), 3, out),
        lambda: module.split(bytes(7), 2, np.zeros(7, np.uint8)),
        lambda: module.split(bytes(8), 2, np.zeros(6, np.uint8)),
        lambda: module.split(bytes(8), 2, bytes(8)),
        lambda: module.split(np.zeros(16, np.uint8)[::2], 2, out),
        lambda: module.split(out, 2, out),
        lambda: module.join([bytes(4), bytes(3)], 2),
        lambda: module.join([bytes(4)], 2),
        lambda: module.join_pairs(bytes(2), b"", 1, [], 1),
        lambda: module.join_pairs(bytes(2), b"", 1, [bytes(5)], 2),
        lambda: module.join_pairs(bytes(2), b"", 1, [bytes(4), bytes(4)], 2),
        lambda: module.join_pairs(bytes(2), b"", 1, [bytes(4), bytes(3), bytes(4)], 4),
        lambda: module.join_pairs(b"\xff\x00", b"\x10", 1, [bytes(4)], 2),
        lambda: module.join_pairs(b"\xff\x00", b"\x10\x10\x10", 1, [bytes(4)], 2),
        lambda: module.pair(bytes(8), 1, np.zeros(3, np.uint8)),
        lambda: module.unpair(bytes(3), b"", 1, out),
        lambda: module.survey(bytes(8), bytes(8), 2, 0, 1, np.zeros(4, np.uint8), np.zeros(1, np.uint8)),
        lambda: module.survey(bytes(8), bytes(8), 2, 1 << 62, 1, np.zeros(4, np.uint8), np.zeros(1, np.uint8)),
        lambda: module.survey(bytes(8), bytes(6), 2, 4, 1, np.zeros(4, np.uint8), np.zeros(1, np.uint8)),
        lambda: module.count(bytes(8), (2, 9, 8, 0, None, 1), counts),
        lambda: module.count(bytes(8), (2, 7, 8, 0, None, 2), counts),
        lambda: module.count(bytes(8), (2, 7, 8, 3, b"\0", 1), counts),
        lambda: module.count(bytes(8), (2, 7, 8, 4, b"\1", 1), counts),
        lambda: module.count(bytes(8), lie, counts[:-4]),
        lambda: module.count(bytes(7), lie, counts),
        lambda: module.sort(bytes(8), bytes(8), lie, counts, None, out),
        lambda: module.sort(bytes(8), bytes(6), lie, counts, None, out),
        lambda: module.unsort(bytes(8), bytes(8), lie, counts, None),
        lambda: module.unsort(bytes(8), bytes(8), lie, counts, (0, 24, 0, 0, bytes(4))),
        lambda: module.unsort(bytes(8), bytes(8), lie, counts, (0, 7, 0, 0, np.zeros(4, np.uint8))),
        lambda: module.choose_modes(bytes(6), 2, four, bytes(8), out[:1]),
        lambda: module.choose_modes(bytes(6), 2, four, transforms.PLOGP.view(np.uint8), out[:1]),
        lambda: module.pack(bytes(8), 2, four, b"\xff", out, out[:0]),
        lambda: module.pack(bytes(8), 2, four, b"\x00", np.zeros(2, np.uint8), np.zeros(0, np.uint8)),
        lambda: module.pack(bytes(6), 2, four, b"\x00", np.zeros(1, np.uint8), np.zeros(0, np.uint8)),
        lambda: module.rounded(bytes(8), 2, bytes(24), out),
        lambda: module.rounded(bytes(8), 2, bytes(32), out[:6]),
        lambda: module.rounded(bytes(8), 8, bytes(8), out),
        lambda: module.rounded(out, 2, bytes(32), out),
        lambda: module.difference(bytes(4), bytes(2), 2, out),
        lambda: module.difference(bytes(4), bytes(4), 2, out[:4]),
        lambda: module.difference(bytes(4), bytes(4), 1, out),
        lambda: module.unpack(b"\1", b"", b"", b"", 2, four, b"\0", out),
        lambda: module.unpack(b"\0", b"", b"\1", b"", 2, four, b"\0", out),
        lambda: module.unpack(b"\0", b"", b"", b"\1\2", 2, four, b"\0", out),
        lambda: module.unpack(b"", b"", b"", b"", 2, four, b"\0", out),
        lambda: module.unpack(b"\0", b"", b"", b"", 2, four, b"\0", np.zeros(9, np.uint8)[1:]),
    ):
        with pytest.raises(ValueError, match=r"^[a-z ,]+$"):
            call()


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("order", [ORDER, Order(4, 23, 8)], ids=["2 bytes", "4 bytes"])
def test_counts_of_another_base_harm_nothing(name, order):
    words = np.arange(0, 4000, dtype=f"<u{order.width}") << (order.shift - 2)
    base, other = words.tobytes(), np.full(4000, 7, words.dtype).tobytes()
    with taken(name) as way:
        counts = way.count(other, order)
        ordered = way.sort(base, base, order, counts)
        assert 4000 == ordered.size
        assert len(base) == len(way.unsort(ordered, base, order, counts))


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("words", [0, 1, 15, 16, 17, 63, 64, 65, 129, 1000])
def test_rare_and_common_contexts_of_any_number_of_words_go_where_numpy_puts_them(width, words):
    rng = np.random.default_rng(words)
    exponents = np.where(rng.random(words) < 0.9, rng.integers(100, 104, words), rng.integers(0, 256, words))
    form = Order(width, 7 if width == 2 else 23, 8)
    base = (exponents.astype(f"<u{width}") << form.shift).tobytes()
    raw = rng.integers(0, 256, words * width, dtype=np.uint8).tobytes()
    assert 1 == len(set(sorted_in_all_ways(raw, base, form)))


def test_a_trend_is_the_same_number_in_all_ways():
    rng = np.random.default_rng(3)
    base = rng.integers(0, 1 << 32, 64 * 100, dtype=np.uint32).astype("<u4").tobytes()
    raw = rng.integers(0, 1 << 32, 64 * 100, dtype=np.uint32).astype("<u4").tobytes()
    kinds = rng.integers(0, 3, 100).astype(np.uint8)
    for slope in (-(1 << 31), -12345, 0, (1 << 31) - 1):
        trend = Trend(1, 23, 13, slope, rng.integers(-(1 << 31), 1 << 31, 1024).astype(np.int32))
        order = Order(4, 23, 8, 64, kinds, 3, trend)
        assert 1 == len(set(sorted_in_all_ways(raw, base, order)))
