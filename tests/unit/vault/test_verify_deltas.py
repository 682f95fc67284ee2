"""Verify follows what a chunk is decoded from, reads it back by sample or whole, and an estimate counts it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.models import bfloat16, safetensors
from understudy.artifacts.catalog import find_manifest
from understudy.artifacts.estimate import restore_cost
from understudy.artifacts.hydrate import hydrate
from understudy.artifacts.replicate import push
from understudy.objects.memory import MemoryStore
from understudy.vault.index import load_index
from understudy.vault.packs import pack_key
from understudy.vault.rounds import Sample, place
from understudy.vault.store import open_vault
from understudy.vault.verify import verify

SHAPE = (512, 256)
LAYERS = 3


def weights(seed):
    return np.random.default_rng(seed).standard_normal(SHAPE, dtype=np.float32) * np.float32(0.02)


def model(nudge):
    tensors = {}
    for number in range(LAYERS):
        change = np.random.default_rng(100 + number).standard_normal(SHAPE, dtype=np.float32) * np.float32(nudge)
        tensors[f"layer.{number}"] = bfloat16(weights(number) + change)
    return safetensors(tensors)


@pytest.fixture
def vault():
    """A vault in which version 2 is differences to version 1, each version in a pack of its own."""
    source, vault = MemoryStore("source"), open_vault(MemoryStore("vault"))
    for version, nudge in (("1", 0.0), ("2", 0.0003)):
        source.put(f"m/{version}/model.safetensors", model(nudge))
        push(source, vault)
    assert LAYERS == len(deltas(vault))
    return vault


def deltas(vault):
    return [row for _, rows in load_index(vault).by_pack() for row in rows if row.base is not None]


def base_pack(vault):
    index = load_index(vault)
    return pack_key(index.find(deltas(vault)[0].base).pack)


def only(key):
    """Return the sample of one night that reads this object and no other."""
    before = int(place(key), 16) - 1
    return Sample(1e-9, 1, f"{before:016x}")


def flip(vault, key, at):
    data = bytearray(vault.store.get(key))
    data[at] ^= 4
    vault.store.put(key, bytes(data))


def test_a_sound_vault_with_differences_is_clean_by_listing_by_sample_and_whole(vault):
    sample = only(pack_key(deltas(vault)[0].pack))
    for found in (verify(vault), verify(vault, sample=sample), verify(vault, deep=True)):
        assert () == found.problems


def test_a_sample_of_a_pack_of_differences_reads_what_they_are_decoded_from(vault):
    pack = pack_key(deltas(vault)[0].pack)
    found = verify(vault, sample=only(pack))
    index = load_index(vault)
    bases = sum(index.find(row.base).length for row in deltas(vault))
    assert 1 == found.objects
    assert vault.store.head(pack).size + bases == found.bytes_read


def test_a_lost_base_is_found_quickly_with_every_version_that_needs_it(vault):
    vault.store.delete(base_pack(vault))
    [problem] = verify(vault).problems
    assert problem.startswith(f"pack {base_pack(vault)[-64:]} is missing: 7 chunks of m/1/model.safetensors")
    assert "m/2/model.safetensors (revision 1)" in problem


def test_a_flipped_byte_of_a_base_is_found_in_the_pack_of_the_base_and_of_the_difference(vault):
    index = load_index(vault)
    first = deltas(vault)[0]
    base = index.find(first.base)
    flip(vault, pack_key(base.pack), base.offset + base.length // 2)
    assert verify(vault).ok, "no listing shows it"
    found = verify(vault, sample=only(pack_key(first.pack)))
    assert (pack_key(base.pack),) == found.damaged, "the pack of the difference is as it was sent"
    [problem] = found.problems
    assert f"pack {first.pack} does not hold what the index says: 1 chunk in it cannot be decoded, 1 of them" in problem
    whole = verify(vault, deep=True)
    assert (pack_key(base.pack),) == whole.damaged
    assert {first.pack, base.pack} == {words.split()[1] for words in whole.problems if words.startswith("pack ")}


def test_the_differences_behind_a_damaged_one_are_read_all_the_same(vault):
    index = load_index(vault)
    for row in deltas(vault)[:2]:
        base = index.find(row.base)
        flip(vault, pack_key(base.pack), base.offset + base.length // 2)
    [problem] = verify(vault, sample=only(pack_key(deltas(vault)[0].pack))).problems
    assert "2 chunks in it cannot be decoded, 2 of them needed" in problem


def test_a_difference_that_nothing_needs_may_outlive_its_base(vault):
    vault.store.delete("artifacts/m/2/00000001.json")
    lost = base_pack(vault)
    vault.store.delete("artifacts/m/1/00000001.json")
    vault.store.delete(lost)
    assert verify(vault, sample=only(pack_key(deltas(vault)[0].pack))).ok


# ---------------------------------------------------------------------- the estimate


def test_a_restore_reads_what_was_estimated(vault):
    for version in ("1", "2"):
        cost = restore_cost(load_index(vault), find_manifest(vault, "m", version))
        report = hydrate(vault, MemoryStore("target"), model="m", version=version)
        assert report.bytes_read == cost.bytes_read
        assert (report.bytes_total, 0) == (cost.size, cost.missing)


def test_an_estimate_names_what_others_are_decoded_from_and_how_long_it_takes(vault):
    index = load_index(vault)
    cost = restore_cost(index, find_manifest(vault, "m", "2"), rate=1e6)
    assert sum(index.find(row.base).length for row in deltas(vault)) == cost.bases
    assert sum(row.length for row in deltas(vault)) < cost.own
    assert 2 == cost.packs
    assert cost.size / 1e6 == cost.seconds
    assert "of them to decode others from 2 packs, about 0.8s as the last one went" in cost.sentence


def test_an_estimate_says_when_the_restore_would_fail(vault):
    cost = restore_cost(load_index(open_vault(MemoryStore())), find_manifest(vault, "m", "1"))
    assert (cost.chunks, 0, None) == (cost.missing, cost.bytes_read, cost.seconds)
    assert cost.sentence.endswith("4 of 4 chunks are in no pack: it would fail")
