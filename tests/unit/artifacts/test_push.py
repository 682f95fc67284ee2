"""Push: only what is new is read and sent, a version is visible whole or not at all, and what is no model is held."""

from __future__ import annotations

import hashlib
import json
import re
import struct

import numpy as np
import pytest

from tests.faults import FaultyStore
from tests.models import layers, model_files, safetensors
from understudy.artifacts.catalog import all_manifests, find_manifest
from understudy.artifacts.hydrate import hydrate
from understudy.artifacts.replicate import push
from understudy.errors import Corrupt, NotFound, Unreachable
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.vault.index import load_index
from understudy.vault.store import open_vault
from understudy.vault.verify import verify


def put_model(store, version="1", files=None, model="m"):
    for path, data in (files or model_files()).items():
        store.put(f"{model}/{version}/{path}", data)


def keys(vault, prefix=""):
    return [info.key for info in vault.store.list(prefix)]


@pytest.fixture
def source():
    store = MemoryStore("source")
    put_model(store)
    return store


@pytest.fixture
def vault():
    return open_vault(FaultyStore(MemoryStore("vault")))


def test_a_first_push_keeps_every_file_with_its_sha256(source, vault):
    [report] = push(source, vault)
    manifest = find_manifest(vault, "m")
    expected = {path: hashlib.sha256(data).hexdigest() for path, data in model_files().items()}
    assert expected == {file.path: file.sha256 for file in manifest.files}
    assert ("changed", "1", 5, 4) == (report.verdict, report.version, report.items_total, report.items_new)
    assert report.sentence.startswith("m 1: 5 files 271 kB; 1 known, 4 new, ")
    assert report.sentence.endswith("; sha256 5/5")
    assert verify(vault, deep=True).ok
    stored = sum(info.size for info in vault.store.list()) - len(vault.store.get("format.json"))
    assert stored == report.bytes_sent


def test_an_unchanged_push_reads_no_model_bytes_and_no_index(source, vault):
    push(source, vault)
    watched = FaultyStore(source)
    vault.bare.keys.clear()
    [report] = push(watched, vault)
    assert "m 1: unchanged, 0 of 5 files new, 0 B sent" == report.sentence
    assert ("unchanged", 0, 0) == (report.verdict, report.bytes_read, report.bytes_sent)
    assert {"list"} == set(watched.calls)
    verified = ("head", "pointers/verified/vault.json")  # whether a verification found anything lost
    assert [("list", "artifacts/"), verified, ("get", "artifacts/m/1/00000001.json")] == vault.bare.keys


def test_a_version_with_one_layer_changed_crosses_in_that_layer(source, vault):
    push(source, vault)
    put_model(source, "2", model_files(changed=2))
    [report] = push(source, vault)
    assert 65536 * 0.8 < report.bytes_sent < 65536 * 1.2
    assert ("2", 1) == (report.version, report.items_new)
    manifest = find_manifest(vault, "m", "2")
    assert ("1", 1) == (manifest.parent.version, manifest.parent.revision)


def test_a_file_that_is_already_known_is_not_read_again(source, vault):
    push(source, vault)
    source.put("m/1/config.json", b'{"layers": 5}')
    [report] = push(source, vault)
    assert 13 == report.bytes_read
    assert "m 1 revision 2: 5 files" in report.sentence
    assert 2 == find_manifest(vault, "m").revision


def test_equal_bytes_written_again_send_only_a_manifest(source, vault):
    push(source, vault)
    before = keys(vault)
    put_model(source)
    [report] = push(source, vault)
    assert ["artifacts/m/1/00000002.json"] == sorted(set(keys(vault)) - set(before))
    assert 0 == report.items_new
    assert find_manifest(vault, "m", "1", 1).digest == find_manifest(vault, "m", "1", 2).digest


def test_a_removed_file_makes_a_new_revision(source, vault):
    push(source, vault)
    source.delete("m/1/README.md")
    push(source, vault)
    assert "README.md" not in {file.path for file in find_manifest(vault, "m").files}


def test_many_models_and_versions_come_in_their_order(vault):
    source = MemoryStore()
    for model, version in (("b", "10"), ("b", "9"), ("a", "1")):
        put_model(source, version, model=model)
    assert [("a", "1"), ("b", "9"), ("b", "10")] == [(report.name, report.version) for report in push(source, vault)]
    assert [("a", "1"), ("b", "10")] == [(report.name, report.version) for report in push(source, vault)]
    assert ["b"] == [report.name for report in push(source, vault, model="b")]
    assert "9" == find_manifest(vault, "b", "10").parent.version


def test_a_model_that_is_not_there_is_not_found(source, vault):
    with pytest.raises(NotFound, match="no model 'other'"):
        push(source, vault, model="other")
    with pytest.raises(NotFound, match="no model"):
        push(MemoryStore(), vault)


def without_end(files):
    return files | {"model.safetensors": files["model.safetensors"][:-1]}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without_end, "model.safetensors describes the tensor .* beyond"),
        (lambda files: files | {"model.safetensors": b"\x00"}, "at least 8"),
        (lambda files: files | {"model.safetensors": b""}, "model.safetensors is empty"),
        (lambda files: files | {"model.safetensors": struct.pack("<Q", 1 << 40)}, "the limit is"),
        (lambda files: files | {"config.json": b'{"layers'}, "config.json is not complete JSON"),
        (lambda files: files | {"tokenizer.json": b""}, "tokenizer.json is not complete JSON"),
        (lambda files: files | {"1_Pooling/config.json": b"{"}, "1_Pooling/config.json is not complete JSON"),
        (lambda files: {"config.json": files["config.json"]}, "no weights are yet"),
        (
            lambda files: files | {"model.safetensors.index.json": b'{"weight_map": {"a": "model-2.safetensors"}}'},
            "names model-2.safetensors, not there yet",
        ),
    ],
)
def test_a_version_that_is_not_whole_is_held_with_the_reason(vault, spoil, words):
    source = MemoryStore()
    put_model(source, "1")
    put_model(source, "2", spoil(model_files()))
    first, second = push(source, vault)
    assert "changed" == first.verdict
    assert "held" == second.verdict
    assert second.sentence.startswith("m 2: held, ")
    assert re.search(words, second.details["reason"]), second.details["reason"]
    assert not [key for key in keys(vault) if key.startswith("artifacts/m/2/")]
    put_model(source, "2", model_files(changed=1))
    for path in {path for path in spoil(model_files()) if path not in model_files()}:
        source.delete(f"m/2/{path}")
    assert "changed" == push(source, vault)[0].verdict


def test_a_missing_shard_is_noticed_although_its_list_stayed(vault):
    shards = {"a": "x.safetensors", "b": "y.safetensors"}
    files = {
        "model.safetensors.index.json": json.dumps({"weight_map": shards}).encode(),
        "x.safetensors": safetensors({"a": layers(1)["layer.0"]}),
        "y.safetensors": safetensors({"b": layers(1, seed=2)["layer.0"]}),
    }
    source = MemoryStore()
    put_model(source, "1", files)
    assert ["changed"] == [report.verdict for report in push(source, vault)]
    source.delete("m/1/y.safetensors")
    assert ["held"] == [report.verdict for report in push(source, vault)]


class Meddling(FaultyStore):
    """Writes to the source while a push reads from it."""

    def __init__(self, store, meddle, times=1):
        super().__init__(store)
        self.meddle, self.times = meddle, times

    def get_range(self, key, start, length, *, version=None):
        data = super().get_range(key, start, length, version=version)
        if key.endswith("model.safetensors") and length > 100_000 and self.times:
            self.times -= 1
            self.meddle()
        return data


def test_a_file_changed_while_it_is_read_is_read_again(tmp_path, vault):
    source = FileStore(tmp_path)
    put_model(source)
    other = model_files(changed=0)["model.safetensors"]
    [report] = push(Meddling(source, lambda: source.put("m/1/model.safetensors", other)), vault)
    assert "changed" == report.verdict
    sha256 = {file.path: file.sha256 for file in find_manifest(vault, "m").files}["model.safetensors"]
    assert hashlib.sha256(other).hexdigest() == sha256
    assert verify(vault, deep=True).ok


def test_a_pinned_version_is_read_whatever_is_written_meanwhile(source, vault):
    other = model_files(changed=0)["model.safetensors"]
    push(Meddling(source, lambda: source.put("m/1/model.safetensors", other)), vault)
    sha256 = {file.path: file.sha256 for file in find_manifest(vault, "m").files}["model.safetensors"]
    assert hashlib.sha256(model_files()["model.safetensors"]).hexdigest() == sha256
    [report] = push(source, vault)
    assert "m 1 revision 2" in report.sentence


def test_a_file_that_keeps_changing_is_held(tmp_path, vault):
    source = FileStore(tmp_path)
    put_model(source)
    turns = iter(range(1000))
    meddle = lambda: source.put("m/1/model.safetensors", model_files(changed=next(turns))["model.safetensors"])  # noqa: E731
    [report] = push(Meddling(source, meddle, times=1000), vault)
    assert "m 1: held, model.safetensors keeps changing while it is read" == report.sentence
    assert [] == keys(vault, "artifacts/")


def test_a_version_that_vanishes_while_it_is_read_is_held(tmp_path, vault):
    source = FileStore(tmp_path)
    put_model(source)

    def remove():
        for info in list(source.list("m/1/")):
            source.delete(info.key)

    [report] = push(Meddling(source, remove), vault)
    assert "m 1: held, it was removed while it was read" == report.sentence


def test_a_manifest_is_written_after_its_chunks_are_in_the_index(source, vault):
    push(source, vault)
    written = [key.split("/")[0] for method, key in vault.bare.keys if method == "create"]
    assert ["format.json", "packs", "index", "artifacts"] == written


def test_a_push_that_failed_leaves_nothing_visible_and_the_next_sends_what_is_missing(source, vault):
    vault.bare.fail("create", key="index/")
    with pytest.raises(Unreachable):
        push(source, vault)
    assert [] == keys(vault, "artifacts/")
    found = verify(vault, deep=True)
    assert (True, 1) == (found.ok, found.orphans)
    packs = keys(vault, "packs/")
    vault.bare.heal()
    [report] = push(source, vault)
    assert packs == keys(vault, "packs/")
    assert 0 == report.items_new
    assert report.bytes_sent < 10_000
    found = verify(vault, deep=True)
    assert (True, 0) == (found.ok, found.orphans)


def test_a_pack_that_lies_about_itself_is_not_adopted(source, vault):
    name = hashlib.sha256(b"x").hexdigest()
    vault.store.put(f"packs/{name[:2]}/{name}", b"no pack at all, but long enough to have a footer")
    push(source, vault)
    assert name not in load_index(vault).packs
    [problem] = verify(vault, deep=True).problems
    assert f"pack {name} holds other bytes than its name says; no index names it" == problem


def test_chunks_of_a_lost_pack_are_sent_again_when_they_are_read(source, vault):
    push(source, vault)
    [pack] = keys(vault, "packs/")
    vault.store.delete(pack)
    assert not verify(vault, deep=False).ok
    put_model(source)  # new tokens: the files are read again
    push(source, vault)
    assert verify(vault, deep=True).ok
    target = MemoryStore()
    hydrate(vault, target, model="m")
    assert model_files() == {path: target.get(f"m/1/{path}") for path in model_files()}


def test_a_damaged_pack_in_the_way_is_passed_by_under_another_name(source, vault):
    push(source, vault)
    [pack] = keys(vault, "packs/")
    whole = vault.store.get(pack)
    vault.store.put(pack, whole[:-9])
    put_model(source)
    push(source, vault)
    assert 2 == len(keys(vault, "packs/"))
    assert verify(vault, deep=False).ok
    hydrate(vault, MemoryStore(), model="m")


def test_two_pushes_at_once_agree_on_one_revision(source, vault):
    class Racing(FaultyStore):
        raced = False

        def create(self, key, data):
            if key.startswith("artifacts/") and not self.raced:
                self.raced = True
                push(source, open_vault(self.store))
            return super().create(key, data)

    racing = Racing(vault.store)
    [report] = push(source, open_vault(racing))
    assert 1 == report.details["revision"]
    assert [1] == [manifest.revision for manifest in all_manifests(vault)]


def test_twenty_pushes_leave_few_index_sequences_to_read(vault):
    source = MemoryStore()
    for number in range(20):
        put_model(source, str(number), {"a.bin": bytes([number]) * 1000})
        push(source, vault)
    assert len(load_index(vault).live) <= 16
    assert verify(vault, deep=True).ok


def test_a_damaged_index_stops_a_push_in_a_sentence(source, vault):
    push(source, vault)
    vault.store.put("index/00000001/00000.parquet", b"PAR1 nonsense PAR1")
    put_model(source, "2", model_files(changed=1))
    with pytest.raises(Corrupt, match=r"index/00000001/00000.parquet"):
        push(source, vault)


def test_a_file_bigger_than_every_buffer_comes_back(vault):
    source = MemoryStore()
    opaque = np.random.default_rng(3).bytes(21 << 20)
    files = {"weights.bin": opaque, "model.safetensors": safetensors({"w": np.ones((5, 1 << 20), np.float32)})}
    put_model(source, "1", files)
    push(source, vault)
    target = MemoryStore()
    hydrate(vault, target, model="m")
    assert files == {path: target.get(f"m/1/{path}") for path in files}


def test_progress_reaches_its_total(source, vault):
    seen = []
    push(source, vault, progress=lambda what, done, total, unit, *_: seen.append((what, done, total, unit)))
    total = sum(len(data) for data in model_files().values())
    assert ("m 1", total, total, "bytes") == seen[-1]


def test_progress_says_what_was_known_what_was_coded_and_what_was_sent(source, vault):
    push(source, vault)
    put_model(source, "2", model_files(changed=1))
    told = []
    [report] = push(source, vault, progress=lambda _what, done, _total, _unit, counts: told.append((done, counts)))
    done, counts = told[-1]
    assert done == counts.known + counts.coded
    assert 64 * 256 * 4 == counts.coded
    assert [counts.sent <= report.bytes_sent for _, counts in told] == [True] * len(told)


def test_a_share_is_said_only_where_it_is_one(vault):
    tiny = MemoryStore("source")
    put_model(tiny, files={"notes.txt": b"abc"})
    (report,) = push(tiny, vault)
    assert report.bytes_sent > report.bytes_total == 3
    assert "%" not in report.sentence
    put_model(tiny, version="2")
    (report,) = push(tiny, vault)
    assert report.bytes_sent <= report.bytes_total
    assert " %) in " in report.sentence
