"""Which share is read tonight: after so many nights it was everything, whatever came and went."""

from __future__ import annotations

import math
import random

import pytest

from understudy.vault.rounds import Sample, choose, is_place, place, share_done

GB = 10**9


def objects(count, *, seed=1, prefix="packs/"):
    sizes = random.Random(seed)
    return {f"{prefix}{number:05d}": sizes.randrange(1, 64 << 20) for number in range(count)}


def nights(found, share, *, bytes_max=10**15, cursor="", grow=None):
    """Return what each night of one round read, until the round ends."""
    read = []
    while True:
        chosen = choose(found.items(), Sample(share, bytes_max, cursor))
        read.append(chosen.keys)
        cursor = chosen.cursor
        if not cursor:
            return read
        if grow is not None:
            found |= grow(len(read))


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 1.0])
def test_after_so_many_nights_everything_was_read_once(share):
    found = objects(1000)
    read = nights(found, share)
    assert set(found) == set().union(*read)
    assert len(found) == sum(len(each) for each in read)
    assert len(read) <= math.ceil(1 / share) + 1


def test_what_is_there_when_a_round_begins_is_read_although_the_vault_grows_each_night():
    found = objects(300)
    at_first = set(found)
    read = nights(found, 0.05, grow=lambda night: objects(10, seed=night, prefix=f"packs/{night}-"))
    assert at_first <= set().union(*read)


def test_a_night_reads_no_more_than_its_bound_save_one_long_object():
    found = objects(200) | {"packs/long": 5 * GB}
    for chosen in nights(found, 1.0, bytes_max=GB):
        assert len(chosen) == 1 or sum(found[key] for key in chosen) <= GB
    assert set(found) == set().union(*nights(found, 1.0, bytes_max=GB))


def test_a_night_is_no_row_of_neighbours():
    found = objects(1000)
    first = nights(found, 0.05)[0]
    numbers = sorted(int(key[-5:]) for key in first)
    assert numbers[0] < 200
    assert numbers[-1] > 800


def test_one_object_is_read_even_of_a_small_vault_and_none_of_an_empty_one():
    assert 1 == len(choose(objects(3).items(), Sample(0.01, GB)).keys)
    empty = choose((), Sample(0.01, GB))
    assert (frozenset(), "") == (empty.keys, empty.cursor)


def test_a_place_whose_object_is_gone_is_gone_on_from():
    found = objects(100)
    ordered = sorted(found, key=place)
    del found[ordered[50]]
    chosen = choose(found.items(), Sample(0.0001, GB, place(ordered[50])))
    assert frozenset({ordered[51]}) == chosen.keys


def test_what_was_damaged_is_read_again_wherever_the_round_stands():
    found = objects(100)
    ordered = sorted(found, key=place)
    sample = Sample(0.0001, GB, place(ordered[50]), frozenset({ordered[3], "packs/gone"}))
    assert frozenset({ordered[51], ordered[3]}) == choose(found.items(), sample).keys


def test_how_far_a_round_is_can_be_said():
    assert (0.0, 0.5) == (share_done(""), share_done("8" + 15 * "0"))
    assert [True, True, False, False, False] == [is_place(each) for each in ("", 16 * "f", 15 * "f", "F" * 16, None)]
