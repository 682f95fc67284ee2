"""A tensor that changed crosses as the difference to its lineage parent, and comes back bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from tests.faults import FaultyStore
from tests.models import bfloat16, safetensors
from understudy.artifacts.bases import Base, Bases
from understudy.artifacts.catalog import find_manifest
from understudy.artifacts.headers import Headers
from understudy.artifacts.hydrate import hydrate
from understudy.artifacts.replicate import push
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.vault.chunks import Chunk
from understudy.vault.index import load_index
from understudy.vault.packs import pack_key
from understudy.vault.reading import chain_of
from understudy.vault.store import open_vault
from understudy.vault.verify import verify
from understudy.vault.writing import ChunkWriter

SHAPE = (512, 256)
ALONE = 0.675 * 2 * SHAPE[0] * SHAPE[1]


def weights(seed=0):
    return np.random.default_rng(seed).standard_normal(SHAPE, dtype=np.float32) * np.float32(0.02)


def nudged(before, *, size=0.0003, seed=1):
    return before + np.random.default_rng(seed).standard_normal(before.shape, dtype=np.float32) * np.float32(size)


def put(store, version, tensors, *, name="model.safetensors"):
    store.put(f"m/{version}/{name}", safetensors(tensors))


def rows(vault):
    return [location for _, found in load_index(vault).by_pack() for location in found]


def served(vault, version):
    target = MemoryStore("target")
    hydrate(vault, target, model="m", version=version)
    return {info.key: target.get(info.key) for info in target.list(f"m/{version}/")}


def kept(source, version):
    return {info.key: source.get(info.key) for info in source.list(f"m/{version}/")}


@pytest.fixture
def source():
    return MemoryStore("source")


@pytest.fixture
def folder(tmp_path):
    """A source that keeps no versions."""
    return FileStore(str(tmp_path))


@pytest.fixture
def vault():
    return open_vault(FaultyStore(MemoryStore("vault")))


def test_a_nudged_tensor_crosses_as_a_difference_and_comes_back_bit_for_bit(source, vault):
    put(source, "1", {"w": bfloat16(weights())})
    push(source, vault)
    put(source, "2", {"w": bfloat16(nudged(weights()))})
    [report] = push(source, vault)
    [delta] = [location for location in rows(vault) if location.base]
    assert "delta" == delta.coder
    assert 0.6 * ALONE > delta.length
    assert report.bytes_sent < 0.7 * ALONE
    assert kept(source, "2") == served(vault, "2")
    assert verify(vault, deep=True).ok


def test_versions_of_one_run_are_differences_too(source, vault):
    for version in range(1, 4):
        put(source, str(version), {"w": bfloat16(nudged(weights(), size=0.0001, seed=version))})
    push(source, vault)
    assert 2 == sum(location.base is not None for location in rows(vault))
    for version in range(1, 4):
        assert kept(source, str(version)) == served(vault, str(version))


def test_a_restore_reads_at_most_twice_what_a_version_takes_alone(source, vault):
    current = weights()
    for version in range(1, 9):
        put(source, str(version), {"w": bfloat16(current)})
        current = nudged(current, seed=version)
    push(source, vault)
    index = load_index(vault)
    chains = [chain_of(index, location, "w") for location in rows(vault)]
    assert 2 < max(len(chain) for chain in chains)
    assert all(sum(place.length for place in chain) <= 2 * chain[-1].length for chain in chains)
    for version in range(1, 9):
        assert kept(source, str(version)) == served(vault, str(version))


def test_other_weights_under_the_same_name_are_coded_alone(source, vault):
    put(source, "1", {"w": bfloat16(weights())})
    put(source, "2", {"w": bfloat16(weights(seed=7))})
    push(source, vault)
    assert [] == [location for location in rows(vault) if location.base]


def test_the_base_is_read_from_the_vault_where_the_source_has_it_no_more(folder, vault):
    put(folder, "1", {"w": bfloat16(weights())})
    push(folder, vault)
    folder.delete("m/1/model.safetensors")
    put(folder, "2", {"w": bfloat16(nudged(weights()))})
    [report] = push(folder, vault)
    size = len(folder.get("m/2/model.safetensors"))
    assert 1 == sum(location.base is not None for location in rows(vault))
    assert size < report.bytes_read < size + 1.1 * ALONE
    assert kept(folder, "2") == served(vault, "2")


def test_a_base_that_was_changed_at_the_source_is_not_believed(folder, vault):
    put(folder, "1", {"w": bfloat16(weights())})
    push(folder, vault)
    put(folder, "1", {"w": bfloat16(weights(seed=5))})
    folder.put("m/2/config.json", b"{}")
    put(folder, "2", {"w": bfloat16(nudged(weights()))})
    bases = Bases(folder, writer := ChunkWriter(vault), Headers(writer))
    parent = find_manifest(vault, "m", "1")
    file = parent.files[0]
    [(name, length)] = file.chunks[-1:]
    place = writer.find(bytes.fromhex(name))
    base = Base(Chunk(place.id, length), place, file, file.size - length)
    assert bfloat16(weights()).tobytes() == bytes(bases.read([base])[0])
    assert place.length == bases.bytes_read


def test_bases_that_lie_side_by_side_are_one_request(folder, vault, monkeypatch):
    tensors = {name: bfloat16(weights(seed=seed)) for seed, name in enumerate("abc")}
    put(folder, "1", tensors)
    push(folder, vault)
    put(folder, "2", {name: bfloat16(nudged(weights(seed=seed))) for seed, name in enumerate("abc")})
    asked = []
    read = folder.get_range

    def get_range(key, start, length, **more):
        asked.append((key, length))
        return read(key, start, length, **more)

    monkeypatch.setattr(folder, "get_range", get_range)
    push(folder, vault)
    assert 3 == sum(location.base is not None for location in rows(vault))
    assert [sum(len(tensor.tobytes()) for tensor in tensors.values())] == [
        length for key, length in asked if key == "m/1/model.safetensors"
    ]
    assert kept(folder, "2") == served(vault, "2")


def test_a_base_that_nobody_has_any_more_costs_bytes_alone(folder, vault):
    put(folder, "1", {"w": bfloat16(weights())})
    push(folder, vault)
    first = find_manifest(vault, "m", "1").files[0]
    location = load_index(vault).find(bytes.fromhex(first.chunks[-1][0]))
    damaged = bytearray(vault.store.get(pack_key(location.pack)))
    damaged[location.offset + 100] ^= 1
    vault.bare.put(pack_key(location.pack), bytes(damaged))
    folder.delete("m/1/model.safetensors")
    put(folder, "2", {"w": bfloat16(nudged(weights()))})
    push(folder, vault)
    assert [] == [location for location in rows(vault) if location.base]
    assert kept(folder, "2") == served(vault, "2")


def test_a_tensor_that_moved_to_another_shard_and_changed_is_a_difference(source, vault):
    a, b = weights(seed=1), weights(seed=2)
    put(source, "1", {"a": bfloat16(a), "b": bfloat16(b)})
    push(source, vault)
    source.put("m/2/first.safetensors", safetensors({"a": bfloat16(a)}))
    source.put("m/2/second.safetensors", safetensors({"b": bfloat16(nudged(b))}))
    push(source, vault, accept_change="sharded")
    [delta] = [location for location in rows(vault) if location.base]
    assert delta.length < 0.6 * ALONE
    assert kept(source, "2") == served(vault, "2")


def test_a_flipped_byte_in_a_base_is_found_in_what_stands_on_it(source, vault):
    put(source, "1", {"w": bfloat16(weights())})
    push(source, vault)
    put(source, "2", {"w": bfloat16(nudged(weights()))})
    push(source, vault)
    [delta] = [location for location in rows(vault) if location.base]
    base = load_index(vault).find(delta.base)
    data = bytearray(vault.store.get(pack_key(base.pack)))
    data[base.offset + base.length // 2] ^= 4
    vault.bare.put(pack_key(base.pack), bytes(data))
    found = verify(vault, deep=True)
    assert any("m/2/model.safetensors" in problem for problem in found.problems)
