"""Verify: clean when all is there; every kind of damage is found and named, quickly or deeply."""

from __future__ import annotations

import dataclasses
from hashlib import sha256

import orjson
import pytest
from blake3 import blake3

from tests.models import model_files
from understudy.artifacts.manifest import manifest_key
from understudy.artifacts.replicate import push
from understudy.errors import Corrupt, Denied, InvalidConfig
from understudy.objects.memory import MemoryStore
from understudy.vault.seal import unseal
from understudy.vault.store import open_vault, to_json
from understudy.vault.verify import verify


@pytest.fixture
def vault():
    source = MemoryStore("source")
    for version, changed in (("1", None), ("2", 1)):
        for path, data in model_files(changed=changed).items():
            source.put(f"m/{version}/{path}", data)
    vault = open_vault(MemoryStore("vault"))
    push(source, vault)
    return vault


def only(vault, prefix):
    return next(info.key for info in vault.store.list(prefix))


def packs(vault):
    return [info.key for info in sorted(vault.store.list("packs/"), key=lambda info: -info.size)]


def flip(vault, key, at):
    data = bytearray(vault.store.get(key))
    data[at] ^= 4
    vault.store.put(key, bytes(data))


def test_a_sound_vault_is_clean(vault):
    for deep in (False, True):
        result = verify(vault, deep=deep)
        assert (True, ()) == (result.ok, result.problems)
        assert (2, 2, 0) == (result.manifests, result.packs, result.orphans)
        result.require()
    assert result.sentence.startswith("vault: 2 manifests, 6 files, 9 chunks in 2 packs, ")
    assert "all well (deep, " in result.sentence
    assert result.as_json()["ok"]


def test_an_empty_vault_is_clean():
    assert verify(open_vault(MemoryStore()), deep=True).ok


@pytest.mark.parametrize("error", [Denied, InvalidConfig])
@pytest.mark.parametrize("prefix", ["artifacts", "index", "sets", "vectors", "packs", "pointers/x"])
def test_lost_permission_is_no_damage(vault, prefix, error, monkeypatch):
    vault.put_once("sets/s/00000001.json", to_json({"a": 1}))
    vault.put_once("vectors/i/00000001/manifest.json", to_json({"parts": []}))
    vault.store.put("pointers/x.json", b"{}")
    for name in ("get", "get_range"):
        plain = getattr(vault.store, name)

        def refusing(key, *more, plain=plain, **named):
            if key.startswith(prefix):
                raise error(f"{key} is not for you")
            return plain(key, *more, **named)

        monkeypatch.setattr(vault.store, name, refusing)
    with pytest.raises(error, match="is not for you"):
        verify(vault, deep=True)


def test_a_missing_pack_is_found_quickly_with_the_files_that_need_it(vault):
    lost = packs(vault)[0]
    vault.store.delete(lost)
    result = verify(vault, deep=False)
    [problem] = result.problems
    assert f"pack {lost[-64:]} is missing: " in problem
    assert "m/1/model.safetensors (revision 1)" in problem
    with pytest.raises(Corrupt, match="is missing"):
        result.require()


def test_a_truncated_pack_is_found_quickly(vault):
    key = packs(vault)[1]
    data = vault.store.get(key)
    vault.store.put(key, data[:-1])
    [problem] = verify(vault, deep=False).problems
    words = f"has {len(data) - 1} bytes, {len(data)} were written: 1 chunk of m/2/model.safetensors (revision 1)"
    assert words in problem


def test_a_flipped_byte_is_found_quickly_where_the_store_lists_a_crc32c():
    class Listing(MemoryStore):
        crc = "AAAAAA=="

        def list(self, prefix=""):
            return iter([dataclasses.replace(info, crc32c=self.crc) for info in super().list(prefix)])

        def create(self, key, data):
            return dataclasses.replace(super().create(key, data), crc32c=self.crc)

    source = MemoryStore()
    for path, data in model_files().items():
        source.put(f"m/1/{path}", data)
    listing = open_vault(Listing())
    push(source, listing)
    assert verify(listing, deep=False).ok
    listing.bare.crc = "AAAAAB=="
    [problem] = verify(listing, deep=False).problems
    assert "has CRC32C AAAAAB==, AAAAAA== was written" in problem


@pytest.mark.parametrize("at", [0, 5, 1000, -1, -10, -20])
def test_any_flipped_byte_of_a_pack_is_found_deeply(vault, at):
    key = packs(vault)[0]
    flip(vault, key, at)
    assert verify(vault, deep=False).ok
    result = verify(vault, deep=True)
    words = f"pack {key[-64:]} holds other bytes than its name says"
    assert any(problem.startswith(words) for problem in result.problems)
    if at in (0, 5, 1000):
        assert any("cannot be restored: chunk " in problem for problem in result.problems)


def test_a_manifest_with_another_sha256_is_found(vault):
    key = manifest_key("m", "1", 1)
    value = orjson.loads(unseal(vault.store.get(key)))
    value["files"][0]["sha256"] = "00" * 32
    vault.store.put(key, orjson.dumps(value))
    [problem] = verify(vault, deep=False).problems
    assert f"{key} has a digest that its files do not give" == problem


def test_swapped_chunks_are_found_deeply_by_the_file_s_sha256(vault):
    key = manifest_key("m", "1", 1)
    value = orjson.loads(unseal(vault.store.get(key)))
    row = next(row for row in value["files"] if row["path"] == "model.safetensors")
    row["chunks"][1], row["chunks"][2] = row["chunks"][2], row["chunks"][1]
    vault.store.put(key, orjson.dumps(value))
    assert verify(vault, deep=False).ok
    [problem] = verify(vault, deep=True).problems
    assert problem.startswith("m/1/model.safetensors (revision 1) gives SHA-256")


def test_a_lost_index_is_found(vault):
    for info in list(vault.store.list("index/")):
        vault.store.delete(info.key)
    result = verify(vault, deep=False)
    assert 2 == result.orphans
    assert any("no index names any pack for it" in problem for problem in result.problems)


def test_a_damaged_index_and_a_damaged_manifest_are_named(vault):
    vault.store.put(only(vault, "index/"), b"PAR1")
    vault.store.put(manifest_key("m", "1", 1), b"{")
    problems = " ".join(verify(vault, deep=False).problems)
    assert "index/00000001/00000.parquet" in problems
    assert "artifacts/m/1/00000001.json is not JSON" in problems


def test_parquet_files_of_indexes_and_features_are_checked_too(vault):
    data, other = b"rows" * 100, b"vectors" * 100
    file = {"stored": "history/a.parquet", "size": 400, "blake3": blake3(data).hexdigest()}
    features = {"view": "v", "files": [file]}
    parts = [{"digest": "ab" * 32, "size": 700, "sha256": sha256(other).hexdigest()}]
    vault.put_once("offline/v/history/a.parquet", data)
    vault.put_once("features/v/00000001.json", to_json(features))
    vault.put_once(f"vectors/i/data/{'ab' * 32}.parquet", other)
    vault.put_once("vectors/i/00000001/manifest.json", to_json({"parts": parts}))
    assert () == verify(vault, deep=True).problems
    flip(vault, "offline/v/history/a.parquet", 3)
    flip(vault, f"vectors/i/data/{'ab' * 32}.parquet", 3)
    assert verify(vault, deep=False).ok
    assert 2 == len(verify(vault, deep=True).problems)
    vault.store.delete("offline/v/history/a.parquet")
    vault.store.put(f"vectors/i/data/{'ab' * 32}.parquet", other[:-1])
    assert 2 == len(verify(vault, deep=False).problems)


def test_verify_writes_nothing(vault):
    before = [(info.key, info.token) for info in vault.store.list()]
    verify(vault, deep=True)
    assert before == [(info.key, info.token) for info in vault.store.list()]
