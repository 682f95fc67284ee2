from __future__ import annotations

import hashlib

import pytest

from tests.models import model_files
from understudy.artifacts.hydrate import hydrate, verify_hydrated
from understudy.artifacts.pull import diff_versions, pull
from understudy.artifacts.replicate import push
from understudy.errors import Corrupt, NotFound, Refused
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.vault.store import open_vault

V1, V2 = model_files(), {**model_files(changed=2), "added.json": b"{}"}
del V2["README.md"]


@pytest.fixture(scope="module")
def vault():
    source, made = MemoryStore("source"), open_vault(MemoryStore("vault"))
    for version, files in (("1", V1), ("2", V2)):
        for path, data in files.items():
            source.put(f"m/{version}/{path}", data)
        push(source, made, accept_change="a test")
    return made


def files_in(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_version_is_restored_file_by_file_and_nothing_else_is_left(vault, tmp_path):
    report = pull(vault, tmp_path / "new" / "place", model="m", version="1")
    assert {f"m/1/{path}": data for path, data in V1.items()} == files_in(tmp_path / "new" / "place")
    assert f"sha256 {len(V1)}/{len(V1)}" == report.proven


def test_pulled_again_a_damaged_file_is_made_right_and_the_others_are_kept(vault, tmp_path):
    pull(vault, tmp_path, model="m", version="2")
    path = tmp_path / "m" / "2" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    report = pull(vault, tmp_path, model="m", version="2")
    assert 1 == report.items_new
    assert hashlib.sha256(V2["model.safetensors"]).digest() == hashlib.sha256(path.read_bytes()).digest()


@pytest.mark.parametrize("mark", ["pointers/m.json", ".understudy/lock"])
def test_a_folder_that_is_a_store_is_refused_and_stays_as_it_was(vault, tmp_path, mark):
    (tmp_path / mark).parent.mkdir()
    (tmp_path / mark).write_bytes(b"{}")
    with pytest.raises(Refused, match="that folder is a store") as refused:
        pull(vault, tmp_path, model="m", version="1")
    assert 4 == refused.value.exit_code
    assert {mark: b"{}"} == files_in(tmp_path)


def test_a_serving_bucket_serves_on_after_a_pull_into_it_was_asked_for(vault, tmp_path):
    serving = FileStore(tmp_path)
    hydrate(vault, serving, model="m", version="2")
    with pytest.raises(Refused, match="that folder is a store"):
        pull(vault, tmp_path, model="m", version="1")
    assert "2" == verify_hydrated(vault, serving, model="m").version


def test_a_pull_that_was_stopped_is_completed_by_the_same_one(vault, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("understudy.artifacts.pull.PlainFolder.replace", stop)
        with pytest.raises(KeyboardInterrupt):
            pull(vault, tmp_path, model="m", version="1")
    (tmp_path / ".understudy-pull").mkdir(exist_ok=True)  # a kill leaves it
    (tmp_path / ".understudy-pull" / "1-2-3").write_bytes(b"half")
    assert 0 == pull(vault, tmp_path, model="m", version="1").items_new
    assert {f"m/1/{path}": data for path, data in V1.items()} == files_in(tmp_path)


def test_an_unknown_version_says_what_there_is(vault, tmp_path):
    with pytest.raises(NotFound, match="It holds 1, 2"):
        pull(vault, tmp_path, model="m", version="3")


def test_a_damaged_pack_restores_nothing(tmp_path):
    source, store = MemoryStore("source"), MemoryStore("vault")
    for path, data in V1.items():
        source.put(f"m/1/{path}", data)
    push(source, open_vault(store))
    pack = next(info.key for info in store.list("packs/"))
    data = bytearray(store.get(pack))
    data[100] ^= 1
    store.put(pack, bytes(data))
    with pytest.raises(Corrupt):
        pull(open_vault(store), tmp_path, model="m")
    assert "m/1/model.safetensors" not in files_in(tmp_path)


def test_the_difference_names_files_and_counts_new_chunks_alone(vault):
    lines, changes = diff_versions(vault, "m", "1", "2")
    found = {each["path"]: each for each in changes}
    words = {"added.json": "added", "README.md": "removed", "model.safetensors": "changed"}
    assert words == {path: each["change"] for path, each in found.items()}
    layer = 64 * 256 * 4
    assert layer == found["model.safetensors"]["new_bytes"]
    assert "m 1 -> 2: 3 files differ, 3 are the same; 65.5 kB of new chunks" == lines[0]


def test_a_version_does_not_differ_from_itself(vault):
    assert (["m 1 -> 1: no difference, 5 files"], []) == diff_versions(vault, "m", "1", "1")
