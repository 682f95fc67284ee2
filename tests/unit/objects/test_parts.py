from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import Corrupt
from understudy.objects.parts import exactly, regroup


@given(st.lists(st.binary(max_size=40)), st.integers(1, 30))
def test_regrouped_parts_are_the_same_bytes_in_full_chunks_but_the_last(parts: list[bytes], count: int) -> None:
    chunks = list(regroup(parts, count))
    assert b"".join(parts) == b"".join(chunks)
    assert all(count == len(chunk) for chunk in chunks[:-1])
    assert (not any(parts)) == (b"" == chunks[-1])
    assert count >= len(chunks[-1])


def test_the_last_chunk_waits_until_nothing_follows() -> None:
    def parts():
        yield b"1234"
        seen.append("asked again")

    seen: list[str] = []
    assert [b"1234"] == list(regroup(parts(), 4))
    assert ["asked again"] == seen


@pytest.mark.parametrize("size", [0, 5, 7, 100])
def test_parts_that_do_not_add_up_are_corrupt(size: int) -> None:
    with pytest.raises(Corrupt, match=f"was to have {size} bytes"):
        list(exactly([b"123", b"", b"456"], size, "file"))


def test_more_bytes_than_said_are_not_passed_on() -> None:
    passed = exactly([b"123", b"456"], 4, "file")
    assert b"123" == next(passed)
    with pytest.raises(Corrupt, match="and more came"):
        next(passed)
