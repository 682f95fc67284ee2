"""Hydrate: plain files equal to the source's, the pointer last, and never a wrong file."""

from __future__ import annotations

import hashlib
import os

import orjson
import pytest

from tests.faults import FaultyStore
from tests.models import model_files
from tests.unit.artifacts.test_push import put_model
from understudy.artifacts.catalog import find_manifest
from understudy.artifacts.hydrate import hydrate, verify_hydrated
from understudy.artifacts.manifest import encode_manifest, manifest_key, model_digest
from understudy.artifacts.pointer import read_pointer
from understudy.artifacts.replicate import push
from understudy.errors import Conflict, Corrupt, NotFound, NotReady, Unreachable
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.vault.seal import unseal
from understudy.vault.store import open_vault, to_json


@pytest.fixture
def vault():
    source = MemoryStore("source")
    put_model(source, "1")
    put_model(source, "2", model_files(changed=3))
    vault = open_vault(FaultyStore(MemoryStore("vault")))
    push(source, vault)
    return vault


@pytest.fixture(params=["memory", "file"])
def target(request, tmp_path):
    return FaultyStore(MemoryStore("target") if request.param == "memory" else FileStore(tmp_path))


def files_at(target, version="1"):
    return {path: target.get(f"m/{version}/{path}") for path in model_files()}


def test_the_files_are_the_source_s_and_the_pointer_says_so(vault, target):
    report = hydrate(vault, target, model="m", version="1")
    assert model_files() == files_at(target)
    pointer = orjson.loads(target.get("pointers/m.json"))
    assert ("m", "1", 1) == (pointer["model"], pointer["version"], pointer["revision"])
    assert find_manifest(vault, "m", "1").digest == pointer["digest"]
    for row in pointer["files"]:
        data = target.get(row["key"], version=row["version"])
        assert (row["size"], row["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert (5, 5, "sha256 5/5") == (report.items_total, report.items_new, report.proven)
    assert report.sentence.endswith("; sha256 5/5; serves nothing -> 1")


def test_the_pointer_moves_after_every_file(vault, target):
    hydrate(vault, target, model="m")
    writes = [key for method, key in target.keys if method in ("put_stream", "put", "replace", "create")]
    assert "pointers/m.json" == writes[-1]
    assert 6 == len(writes)


def test_a_second_run_writes_nothing_and_reads_no_chunks(vault, target):
    hydrate(vault, target, model="m")
    target.keys.clear()
    vault.bare.keys.clear()
    report = hydrate(vault, target, model="m")
    assert "m 2: unchanged, 5 of 5 files there, serves 2" == report.sentence
    assert ("unchanged", 0, 0) == (report.verdict, report.bytes_read, report.bytes_sent)
    assert not [key for method, key in target.keys if method in ("put_stream", "put", "replace", "create")]
    assert not [key for _, key in vault.bare.keys if key.startswith(("packs/", "index/"))]
    assert {"list", "head", "get"} == {method for method, _ in target.keys}


def test_files_of_a_run_that_was_cut_short_are_read_back_and_not_written_again(vault, target):
    target.fail("replace", key="pointers/")
    with pytest.raises(Unreachable):
        hydrate(vault, target, model="m")
    assert (None, None) == read_pointer(target, "m")
    target.heal()
    report = hydrate(vault, target, model="m")
    assert (0, 0) == (report.items_new, report.bytes_read)
    assert report.details["bytes_checked"] == report.bytes_total
    assert "2" == read_pointer(target, "m")[0].version


def test_a_file_that_was_touched_is_written_again(vault, target):
    hydrate(vault, target, model="m", version="1")
    size = len(model_files()["config.json"])
    target.put("m/1/config.json", b"x" * size)
    with pytest.raises(Corrupt, match=r"m/1/config.json .* another SHA-256"):
        verify_hydrated(vault, target, "m")
    report = hydrate(vault, target, model="m", version="1")
    assert 1 == report.items_new
    assert model_files() == files_at(target)
    assert "sha256 5/5" in verify_hydrated(vault, target, "m").sentence


def test_a_file_that_is_gone_fails_the_verification_and_is_written_again(vault, target):
    hydrate(vault, target, model="m", version="1")
    target.delete("m/1/config.json")
    with pytest.raises(Corrupt, match=r"m/1/config.json .* missing"):
        verify_hydrated(vault, target, "m")
    assert 1 == hydrate(vault, target, model="m", version="1").items_new


def test_nothing_served_is_not_found(vault, target):
    with pytest.raises(NotFound, match="serves no m"):
        verify_hydrated(vault, target, "m")


def test_serving_an_earlier_version_moves_the_pointer_back(vault, target):
    hydrate(vault, target, model="m")
    report = hydrate(vault, target, model="m", version="1")
    assert report.sentence.endswith("serves 2 -> 1")
    assert "1" == verify_hydrated(vault, target, "m").version


def test_what_the_newest_set_pins_is_served(vault, target):
    manifest = find_manifest(vault, "m", "1")
    pinned = {"name": "m", "version": "1", "revision": 1, "digest": manifest.digest}
    vault.put_once(
        "sets/s/00000001.json",
        to_json({"service": "s", "sequence": 1, "model": pinned, "index": None, "features": None, "held": []}),
    )
    assert "1" == hydrate(vault, target, model="m").version
    assert "2" == hydrate(vault, target, model="m", version="2").version


def test_an_unknown_model_version_or_revision_is_not_found(vault, target):
    for names in ({"model": "x"}, {"model": "m", "version": "7"}, {"model": "m", "version": "1", "revision": 9}):
        with pytest.raises(NotFound):
            hydrate(vault, target, **names)


def pack_with(vault, wanted):
    from understudy.vault.index import load_index

    file = next(file for file in find_manifest(vault, "m", "1").files if file.path == wanted)
    return load_index(vault).find(bytes.fromhex(file.chunks[-1][0]))


@pytest.mark.parametrize("spoil", ["flip", "drop", "cut"])
def test_a_damaged_pack_is_named_with_chunk_and_file_and_no_wrong_file_appears(vault, target, spoil):
    place = pack_with(vault, "model.safetensors")
    key = f"packs/{place.pack[:2]}/{place.pack}"
    data = bytearray(vault.store.get(key))
    if spoil == "drop":
        vault.store.delete(key)
    elif spoil == "flip":
        data[place.offset + place.length // 2] ^= 1
        vault.store.put(key, bytes(data))
    else:
        vault.store.put(key, bytes(data[: place.offset + 5]))
    with pytest.raises(Corrupt) as caught:
        hydrate(vault, target, model="m", version="1")
    assert place.pack in str(caught.value)
    assert "m/1/model.safetensors" in str(caught.value) or spoil != "flip"
    assert "chunk " in str(caught.value)
    assert "m/1/model.safetensors" not in {info.key for info in target.list()}
    assert (None, None) == read_pointer(target, "m")


def test_chunks_in_another_order_never_become_a_file(vault, target):
    manifest = find_manifest(vault, "m", "1")
    value = orjson.loads(encode_manifest(manifest))
    row = next(row for row in value["files"] if row["path"] == "model.safetensors")
    row["chunks"][1], row["chunks"][2] = row["chunks"][2], row["chunks"][1]
    vault.store.put(manifest_key("m", "1", 1), orjson.dumps(value))
    with pytest.raises(Corrupt, match=r"m/1/model.safetensors has SHA-256"):
        hydrate(vault, target, model="m", version="1")
    assert "m/1/model.safetensors" not in {info.key for info in target.list()}


@pytest.mark.parametrize("path", ["../../evil", "/evil", "..\\evil", "a/../../../evil"])
def test_a_hostile_path_writes_nothing(vault, target, path):
    value = orjson.loads(unseal(vault.store.get(manifest_key("m", "1", 1))))
    value["files"][0]["path"] = path
    value["digest"] = model_digest((row["path"], row["sha256"]) for row in value["files"])
    vault.store.put(manifest_key("m", "1", 1), orjson.dumps(value))
    with pytest.raises(Corrupt, match="names the file"):
        hydrate(vault, target, model="m", version="1")
    assert [] == list(target.list())


def test_a_chunk_that_no_index_knows_is_named(vault, target):
    for info in list(vault.store.list("index/")):
        vault.store.delete(info.key)
    with pytest.raises(Corrupt, match=r"chunk .* is in no pack"):
        hydrate(vault, target, model="m", version="1")


def test_another_run_that_moved_the_pointer_is_not_overwritten(vault, target):
    class Racing(FaultyStore):
        def replace(self, key, data, *, expected):
            hydrate(vault, self.store, model="m", version="2")
            return super().replace(key, data, expected=expected)

    with pytest.raises(Conflict, match="to 2 meanwhile"):
        hydrate(vault, Racing(target), model="m", version="1")
    assert "2" == read_pointer(target, "m")[0].version


def test_a_transient_fault_is_passed_on_and_the_next_run_finishes(vault, target):
    target.fail("put_stream", nth=3)
    with pytest.raises(Unreachable):
        hydrate(vault, target, model="m", version="1")
    target.heal()
    hydrate(vault, target, model="m", version="1")
    assert model_files() == files_at(target)


def test_a_pointer_that_an_instance_seeded_is_understood(vault, target):
    hydrate(vault, target, model="m", version="1")
    value = orjson.loads(target.get("pointers/m.json")) | {"revision": None}
    for row in value["files"]:
        del row["token"]
    target.put("pointers/m.json", to_json(value))
    report = hydrate(vault, target, model="m", version="1")
    assert 0 == report.items_new


def test_a_new_revision_never_overwrites_what_is_served_where_no_version_is_kept(tmp_path):
    source = MemoryStore("source")
    put_model(source, "1")
    vault = open_vault(MemoryStore("vault"))
    push(source, vault)
    plain, versioned = FileStore(tmp_path), MemoryStore("versioned")
    for target in (plain, versioned):
        hydrate(vault, target, model="m")
    put_model(source, "1", model_files(changed=3))
    push(source, vault)
    with pytest.raises(NotReady, match=r"revision 2 of m 1 would overwrite m/1/model\.safetensors"):
        hydrate(vault, plain, model="m")
    assert "sha256" in verify_hydrated(vault, plain, "m").proven
    assert "changed" == hydrate(vault, versioned, model="m").verdict


def test_a_file_damaged_in_place_is_found_and_replaced_when_all_is_read_back(vault, tmp_path):
    target = FileStore(tmp_path)
    hydrate(vault, target, model="m", version="1")
    path = tmp_path / "m" / "1" / "model.safetensors"
    kept = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with path.open("r+b") as file:  # the same file with the same time, as a bad disk leaves it
        file.write(data)
    os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))
    assert "unchanged" == hydrate(vault, target, model="m", version="1").verdict
    with pytest.raises(Corrupt, match=r"hydrate --full"):
        verify_hydrated(vault, target, "m")
    hydrate(vault, target, model="m", version="1", full=True)
    assert model_files() == files_at(target)
