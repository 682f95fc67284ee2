"""Merged adapters: found again, predicted bit for bit by arithmetic that has no order, and hostile factors refused."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from tests.unit.coding.ways import taken
from understudy.coding import lowrank
from understudy.errors import Corrupt

pytestmark = pytest.mark.usefixtures("way")


@pytest.fixture(params=["numpy", "native"])
def way(request, monkeypatch):
    with taken(request.param) as chosen:
        monkeypatch.setattr(lowrank, "way", chosen)
        yield


ROWS, COLUMNS, RANK = 160, 192, 4
DTYPES = ("BF16", "F16", "F32")


def words_of(values, dtype):
    values = np.asarray(values, dtype=np.float32)
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def values_of(data, dtype):
    if dtype == "BF16":
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, dtype={"F16": "<f2", "F32": "<f4"}[dtype]).astype(np.float32)


def ints_of(data, dtype):
    return np.frombuffer(data, dtype="<u4" if dtype == "F32" else "<u2").astype(np.int64)


def merged(dtype, *, rows=ROWS, columns=COLUMNS, rank=RANK, percent=2.0, nudge=0.0, seed=1):
    """Return (raw, base): an adapter of that rank merged into normal weights, and all nudged, by percent of sigma."""
    random = np.random.default_rng(seed)
    base = words_of(random.standard_normal((rows, columns)) * 0.02, dtype)
    weights = values_of(base, dtype).reshape(rows, columns).astype(np.float64)
    if rank:
        product = random.standard_normal((rows, rank)) @ random.standard_normal((rank, columns))
        weights = weights + product * (0.02 * percent / 100 / product.std())
    weights = weights + random.standard_normal((rows, columns)) * (0.02 * nudge / 100)
    return words_of(weights, dtype), base


def read_by_hand(section):
    """Return (exponent, left, right) of a section, as docs/formats.md has it, in Python's own integers."""
    version, rank, exponent, rows, columns = struct.unpack_from("<BBhII", section)
    assert version == 1
    shifts, place, matrices = section[12 : 12 + rank], 12 + rank, []
    for length in (rows, columns):
        planes, place = section[place], place + 1
        folded = [0] * (rank * length)
        for plane in range(planes):
            (size,) = struct.unpack_from("<I", section, place)
            stored, place = section[place + 4 : place + 4 + size], place + 4 + size
            plain = stored if size == rank * length else zstandard.decompress(stored)
            folded = [value | byte << 8 * plane for value, byte in zip(folded, plain, strict=True)]
        signed = [value >> 1 if value % 2 == 0 else -(value + 1 >> 1) for value in folded]
        matrices.append([signed[start : start + length] for start in range(0, rank * length, length)])
    assert place == len(section)
    left = [[value << shift for value in row] for row, shift in zip(matrices[0], shifts, strict=True)]
    return exponent, left, matrices[1]


def predicted_by_hand(base, section, dtype, place):
    """Return the word that is predicted at a (row, column), by whole numbers up to the one sum."""
    exponent, left, right = read_by_hand(section)
    row, column = place
    whole = sum(one[row] * other[column] for one, other in zip(left, right, strict=True))
    product = float(Fraction(whole) * Fraction(2) ** exponent)  # exact: below 2^53
    weight = float(values_of(base, dtype)[row * COLUMNS + column])
    if dtype == "F32":
        return words_of(np.float32(weight + product), dtype)
    return words_of(np.float32(np.float32(product) + np.float32(weight)), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_merged_adapter_is_found_and_most_words_are_predicted(dtype):
    raw, base = merged(dtype)
    section = lowrank.find(raw, base, dtype, COLUMNS)
    assert section is not None
    assert RANK == section[1]
    assert len(raw) // 3 > len(section)
    predicted = lowrank.predict(base, section, dtype, COLUMNS)
    missed = ints_of(raw, dtype) != ints_of(predicted, dtype)
    assert 0.3 > missed.mean()
    # Where words are not much finer than the noise that the factors come from.
    large = np.abs(values_of(raw, dtype)) > 0.005
    assert 1 == np.abs(ints_of(raw, dtype) - ints_of(predicted, dtype))[large].max()


def test_an_adapter_beside_a_small_nudge_of_all_weights_is_found_with_its_own_rank():
    raw, base = merged("F16", rows=512, columns=512, rank=8, nudge=0.05)
    section = lowrank.find(raw, base, "F16", 512)
    assert section is not None
    assert 8 == section[1]


def test_two_adapters_in_a_fused_matrix_are_found_beside_rows_that_did_not_change():
    parts = [merged("BF16", seed=1), merged("BF16", rank=0, seed=2), merged("BF16", seed=3)]
    raw, base = (b"".join(pair[which] for pair in parts) for which in (0, 1))
    section = lowrank.find(raw, base, "BF16", COLUMNS)
    assert section is not None
    assert 2 * RANK == section[1]
    predicted = lowrank.predict(base, section, "BF16", COLUMNS)
    third = len(raw) // 3
    assert 0.02 > (ints_of(predicted, "BF16") != ints_of(raw, "BF16"))[third // 2 : third].mean()


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_ordinary_fine_tune_has_no_factors(dtype):
    for nudge in (1.5, 0.3, 0.05):
        assert lowrank.find(*merged(dtype, rank=0, nudge=nudge), dtype, COLUMNS) is None


@pytest.fixture
def fits(monkeypatch):
    """Return the fits that are tried, which are what takes time."""
    tried = []
    fit = lowrank._fit
    monkeypatch.setattr(lowrank, "_fit", lambda *given: tried.append(given[3]) or fit(*given))
    return tried


def test_an_embedding_of_which_few_rows_moved_much_has_no_factors(fits):
    """A few long rows have a low rank, and the short ones, rounded away, lack the noise that would tell."""
    random = np.random.default_rng(4)
    base = words_of(random.standard_normal((2800, 384)) * 0.02, "BF16")
    lengths = np.exp(2 * random.standard_normal((2800, 1))) * 2e-5
    shared = random.standard_normal((2800, 8)) @ random.standard_normal((8, 384)) / 8**0.5
    moved = lengths * (0.8 * shared + 0.6 * random.standard_normal((2800, 384)))
    raw = words_of(values_of(base, "BF16").reshape(2800, 384) + moved, "BF16")
    assert lowrank.find(raw, base, "BF16", 384) is None
    assert [] == fits


def test_a_spectrum_that_falls_off_but_has_no_end_has_no_factors(fits):
    random = np.random.default_rng(5)
    base = words_of(random.standard_normal((512, 512)) * 0.02, "BF16")
    left, right = (np.linalg.qr(random.standard_normal((512, 512)))[0] for _ in range(2))
    falling = (left * np.arange(1, 513) ** -0.5) @ right
    weights = values_of(base, "BF16").reshape(512, 512) + falling * (0.0003 / falling.std())
    assert lowrank.find(words_of(weights, "BF16"), base, "BF16", 512) is None
    assert [] == fits


def test_a_sample_that_misleads_is_found_out(fits):
    """Every seventh row, which is what the sample of such a block sees, has the adapter; the others have noise."""
    raw, base = (bytearray(data) for data in merged("BF16", rows=272))
    noisy, _ = merged("BF16", rows=272, rank=0, nudge=3.0)
    row = 2 * COLUMNS
    for number in range(272):
        if number % 7:
            raw[number * row : (number + 1) * row] = noisy[number * row : (number + 1) * row]
    assert lowrank.find(raw, base, "BF16", COLUMNS) is None
    assert [RANK] == fits


def test_a_rank_that_does_not_pay_has_no_factors():
    assert lowrank.find(*merged("BF16", rank=64), "BF16", COLUMNS) is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_blocks_have_no_factors(dtype):
    _, base = merged(dtype)
    assert lowrank.find(base, base, dtype, COLUMNS) is None


def test_what_is_no_matrix_of_floats_has_no_factors():
    raw, base = merged("BF16")
    assert lowrank.find(b"", b"", "BF16", COLUMNS) is None
    assert lowrank.find(raw, base, "BF16", 0) is None
    assert lowrank.find(raw, base, "BF16", COLUMNS + 1) is None
    assert lowrank.find(raw, base[:-2], "BF16", COLUMNS) is None
    assert lowrank.find(raw, base, "BF16", len(raw) // 2) is None
    assert lowrank.find(raw, base, "BF16", 1) is None
    assert lowrank.find(raw, base, "I16", COLUMNS) is None
    assert lowrank.find(raw, base, "", COLUMNS) is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_prediction_is_what_whole_numbers_give(dtype):
    raw, base = merged(dtype)
    section = lowrank.find(raw, base, dtype, COLUMNS)
    predicted = lowrank.predict(base, section, dtype, COLUMNS)
    width = len(base) // (ROWS * COLUMNS)
    for place in np.ndindex(3, 5):
        row, column = place[0] * 71, place[1] * 41
        at = (row * COLUMNS + column) * width
        assert predicted_by_hand(base, section, dtype, (row, column)) == predicted[at : at + width]


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinities_of_the_base_stay_bit_for_bit_and_harm_no_neighbour(dtype):
    raw, base = merged(dtype)
    section = lowrank.find(raw, base, dtype, COLUMNS)
    plain = ints_of(lowrank.predict(base, section, dtype, COLUMNS), dtype)
    wild = ints_of(base, dtype).copy()
    exponent = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}[dtype]
    sign = 0x80000000 if dtype == "F32" else 0x8000
    chosen = {0: exponent, 7: exponent | sign, 500: exponent | 1, ROWS * COLUMNS - 1: exponent | sign | 3}
    for place, word in chosen.items():
        wild[place] = word
    given = wild.astype("<u4" if dtype == "F32" else "<u2").tobytes()
    got = ints_of(lowrank.predict(given, section, dtype, COLUMNS), dtype)
    assert list(chosen.values()) == [int(got[place]) for place in chosen]
    others = np.ones(len(plain), dtype=bool)
    others[list(chosen)] = False
    assert (plain[others] == got[others]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_adapter_is_found_beside_values_that_are_no_numbers(dtype):
    raw, base = merged(dtype, rows=640, columns=384)
    broken = values_of(raw, dtype).copy()
    broken[[0, 99, 5000]] = [np.nan, np.inf, -np.inf]
    section = lowrank.find(words_of(broken, dtype), base, dtype, 384)
    assert section is not None
    missed = ints_of(words_of(broken, dtype), dtype) != ints_of(lowrank.predict(base, section, dtype, 384), dtype)
    assert 0.3 > missed.mean()


@pytest.mark.parametrize(("dtype", "tiny"), [("BF16", 0x0001), ("F32", 0x007F_FFFF)])
def test_zeros_of_either_sign_and_subnormals_count_as_zero(dtype, tiny):
    """Some machines flush subnormals to zero: the prediction must not tell them apart."""
    raw, base = merged(dtype)
    section = lowrank.find(raw, base, dtype, COLUMNS)
    word, sign = ("<u4", 0x80000000) if dtype == "F32" else ("<u2", 0x8000)
    results = []
    for filler in (0, sign, tiny, tiny | sign):
        words = ints_of(base, dtype).copy()
        words[:COLUMNS] = filler
        results.append(lowrank.predict(words.astype(word).tobytes(), section, dtype, COLUMNS))
    assert results[:1] * 4 == results
    assert 0 < np.abs(values_of(results[0], dtype)[:COLUMNS]).max()


def test_half_precision_counts_its_subnormals():
    raw, base = merged("F16")
    section = lowrank.find(raw, base, "F16", COLUMNS)
    words = ints_of(base, "F16").astype("<u2")
    words[5] = 0x0155
    predicted = lowrank.predict(words.tobytes(), section, "F16", COLUMNS)
    assert predicted_by_hand(words.tobytes(), section, "F16", (0, 5)) == predicted[10:12]


def test_any_readable_buffer_serves():
    raw, base = merged("BF16")
    section = lowrank.find(memoryview(raw), bytearray(base), "BF16", COLUMNS)
    assert lowrank.find(raw, base, "BF16", COLUMNS) == section
    expected = lowrank.predict(base, section, "BF16", COLUMNS)
    assert expected == lowrank.predict(bytearray(base), memoryview(section), "BF16", COLUMNS)


def test_many_threads_get_the_same_and_blas_gets_its_own_threads_back():
    raw, base = merged("BF16")
    section = lowrank.find(raw, base, "BF16", COLUMNS)
    expected = lowrank.predict(base, section, "BF16", COLUMNS)
    # In the main thread, which is from then on the only one that threadpoolctl itself would obey.
    with threadpool_limits(2, user_api="blas"):
        with ThreadPoolExecutor(4) as pool:
            sections = list(pool.map(lambda _: lowrank.find(raw, base, "BF16", COLUMNS), range(12)))
            predictions = list(pool.map(lambda _: lowrank.predict(base, section, "BF16", COLUMNS), range(12)))
        after = blas_threads()
    assert [section] * 12 == sections
    assert [expected] * 12 == predictions
    assert {2} == after


def blas_threads():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_blas_has_one_thread_while_a_block_is_computed_in_whichever_thread(monkeypatch):
    raw, base = merged("BF16")
    section = lowrank.find(raw, base, "BF16", COLUMNS)
    seen = []
    apply = lowrank._apply
    monkeypatch.setattr(lowrank, "_apply", lambda *given: seen.append(blas_threads()) or apply(*given))
    with threadpool_limits(2, user_api="blas"):
        lowrank.predict(base, section, "BF16", COLUMNS)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lowrank.predict, base, section, "BF16", COLUMNS).result()
    assert [{1}, {1}] == seen


def section_of(*, version=1, rank=1, exponent=-20, rows=ROWS, columns=COLUMNS, shifts=None, left=None, right=None):
    """Return a section of ones, or what is given instead."""
    ones = b"\x01" + struct.pack("<I", rank * rows) + b"\x02" * (rank * rows)
    others = b"\x01" + struct.pack("<I", rank * columns) + b"\x02" * (rank * columns)
    header = struct.pack("<BBhII", version, rank, exponent, rows, columns)
    shifts = bytes(rank) if shifts is None else shifts
    return header + shifts + (ones if left is None else left) + (others if right is None else right)


def test_a_section_made_by_hand_is_read():
    base = words_of(np.full((ROWS, COLUMNS), 0.5), "F32")
    assert words_of(np.full((ROWS, COLUMNS), 0.5 + 2.0**-20), "F32") == lowrank.predict(
        base, section_of(), "F32", COLUMNS
    )


@pytest.mark.parametrize(
    ("dtype", "filler"), [("BF16", 0x8000), ("BF16", 0x8001), ("F16", 0x8000), ("F32", 0x8000_0001)]
)
def test_what_counts_as_zero_is_predicted_as_plus_zero_where_the_product_is_zero(dtype, filler):
    word = "<u4" if dtype == "F32" else "<u2"
    base = np.full(ROWS * COLUMNS, filler, dtype=word).tobytes()
    nothing = b"\x01" + struct.pack("<I", ROWS) + bytes(ROWS)
    assert bytes(len(base)) == lowrank.predict(base, section_of(left=nothing), dtype, COLUMNS)


@pytest.mark.parametrize(("weight", "expected"), [(1.0, 1.0), (1 + 2.0**-7, 1 + 2.0**-6), (-1.0, -1 + 2.0**-8)])
def test_a_tie_goes_to_the_even_word(weight, expected):
    """The product is half of the distance of two bf16 above 1, and all of that below 1."""
    base = words_of(np.full((ROWS, COLUMNS), weight), "BF16")
    predicted = lowrank.predict(base, section_of(exponent=-8), "BF16", COLUMNS)
    assert {expected} == set(values_of(predicted, "BF16").tolist())


HUGE = b"\x04" + 4 * (struct.pack("<I", ROWS) + b"\xfe" * ROWS)


@pytest.mark.parametrize(
    ("section", "why"),
    [
        (b"", "header"),
        (section_of(version=2), "version 2"),
        (section_of(rank=0, left=b"", right=b""), "rank 0"),
        (section_of(rank=65), "rank 65"),
        (section_of(rows=ROWS + 1), f"{ROWS + 1} x"),
        (section_of(columns=1), "x 1 words"),
        (section_of(exponent=-101), "exponent -101"),
        (section_of(exponent=31), "exponent 31"),
        (section_of(shifts=b"\x29"), "shift"),
        (section_of(shifts=b"")[:12], "shift"),
        (section_of() + b"\x00", "1 more bytes"),
        (section_of(right=b""), "0 planes"),
        (section_of(left=b"\x05"), "5 planes"),
        (section_of(left=b"\x01\xff"), "a plane of"),
        (section_of(left=b"\x01\xff", right=b""), "before a plane"),
        (section_of(left=b"\x01" + struct.pack("<I", ROWS + 1) + bytes(ROWS + 1)), f"plane of {ROWS + 1} bytes"),
        (section_of(left=b"\x01" + struct.pack("<I", 3) + b"abc"), "decoded"),
        (section_of(left=HUGE, right=b"\x04" + 4 * (struct.pack("<I", COLUMNS) + b"\xfe" * COLUMNS)), "exactly"),
        (section_of(left=HUGE, shifts=b"\x28"), "exactly"),
    ],
)
def test_damaged_factors_are_refused_in_a_sentence(section, why):
    _, base = merged("BF16")
    with pytest.raises(Corrupt, match=why):
        lowrank.predict(base, section, "BF16", COLUMNS)


def test_a_frame_that_says_more_than_it_may_is_refused_before_it_is_unpacked():
    _, base = merged("BF16")
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(ROWS))
    for frame in (zstandard.compress(bytes(1 << 20)), zstandard.compress(bytes(ROWS - 1)), unsized):
        assert len(frame) < ROWS
        with pytest.raises(Corrupt, match="declare"):
            lowrank.predict(base, section_of(left=b"\x01" + struct.pack("<I", len(frame)) + frame), "BF16", COLUMNS)


def test_factors_longer_than_their_block_are_refused():
    base = bytes(2 * 64)
    section = section_of(rank=2, rows=64, columns=1)
    with pytest.raises(Corrupt, match="rank 2 in a block of 64 x 1"):
        lowrank.predict(base, section, "BF16", 1)


def test_factors_of_what_is_no_matrix_of_floats_are_refused():
    _, base = merged("BF16")
    longer = base + bytes(2)
    for dtype, columns, block in (
        ("I16", COLUMNS, base),
        ("BF16", 0, base),
        ("BF16", -1, base),
        ("BF16", COLUMNS, longer),
    ):
        with pytest.raises(Corrupt):
            lowrank.predict(block, section_of(), dtype, columns)
    with pytest.raises(Corrupt, match="limit"):
        lowrank.predict(bytes((16 << 20) + 2), section_of(), "BF16", 1)


WHOLE = lowrank.find(*merged("BF16", rows=64, columns=96, rank=2), "BF16", 96)


def test_a_section_cut_anywhere_is_refused():
    _, base = merged("BF16", rows=64, columns=96, rank=2)
    for end in range(len(WHOLE)):
        with pytest.raises(Corrupt):
            lowrank.predict(base, WHOLE[:end], "BF16", 96)


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, len(WHOLE) - 1), value=st.integers(0, 255), more=st.binary(max_size=8))
def test_a_changed_section_gives_as_many_bytes_or_is_refused(place, value, more):
    _, base = merged("BF16", rows=64, columns=96, rank=2)
    changed = WHOLE[:place] + bytes([value]) + more + WHOLE[place + 1 + len(more) :]
    try:
        predicted = lowrank.predict(base, changed, "BF16", 96)
    except Corrupt:
        return
    assert len(base) == len(predicted)
