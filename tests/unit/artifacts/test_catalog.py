"""The catalog at scale: manifests come one after another, damage is told of one and stops no other."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.faults import FaultyStore
from tests.models import model_files
from tests.unit.artifacts.test_manifest import file_named, manifest_of
from understudy.artifacts import catalog
from understudy.artifacts.catalog import Shelf, Unreadable, find_manifest, in_order, outlines, read_each, revisions
from understudy.artifacts.manifest import complaint_about_length, encode_manifest, manifest_key
from understudy.artifacts.replicate import push
from understudy.errors import Corrupt, NotFound
from understudy.objects.memory import MemoryStore
from understudy.vault.store import Vault, open_vault


@pytest.fixture
def vault():
    return open_vault(FaultyStore(MemoryStore("vault")))


def keep(vault, version, revision=1, model="m"):
    manifest = replace(manifest_of(file_named("a"), model=model, version=version), revision=revision)
    vault.put_once(manifest_key(model, version, revision), encode_manifest(manifest))


def spoil(vault, version, model="m"):
    vault.bare.put(manifest_key(model, version, 1), b"[]")


def put_version(source, version, model="m", changed=None):
    for path, data in model_files(changed=changed).items():
        source.put(f"{model}/{version}/{path}", data)


def test_manifests_come_in_the_order_of_their_versions(vault):
    for version in ("10", "9", "1"):
        keep(vault, version)
    keep(vault, "9", 2)
    found = read_each(vault, in_order(revisions(vault)))
    assert [("1", 1), ("9", 1), ("9", 2), ("10", 1)] == [(each.version, each.revision) for each in found]


def test_few_manifests_are_fetched_before_they_are_taken(vault, monkeypatch):
    for version in range(40):
        keep(vault, str(version))
    monkeypatch.setattr(catalog, "_READERS", 3)
    vault.bare.keys.clear()
    found = read_each(vault, in_order(revisions(vault)), ahead=3)
    next(found)
    assert len([key for method, key in vault.bare.keys if method == "get"]) <= 4
    assert 39 == len(list(found))


def test_long_manifests_are_fetched_one_at_a_time(vault, monkeypatch):
    for version in range(5):
        keep(vault, str(version))
    monkeypatch.setattr(catalog, "_AHEAD_BYTES_MAX", 10)
    vault.bare.keys.clear()
    found = read_each(vault, in_order(revisions(vault)))
    next(found)
    assert 1 == len([key for method, key in vault.bare.keys if method == "get"])
    assert 4 == len(list(found))


def test_a_damaged_manifest_is_named_between_the_others(vault):
    for version in ("1", "2", "3"):
        keep(vault, version)
    spoil(vault, "2")
    first, second, third = outlines(vault)
    assert ("1", "3") == (first.version, third.version)
    assert isinstance(second, Unreadable)
    assert "artifacts/m/2/00000001.json" in second.damage.message


def test_an_outline_has_files_only_where_they_are_asked_for(vault):
    keep(vault, "1")
    [whole], [short] = list(outlines(vault)), list(outlines(vault, files=False))
    assert ("a",) == tuple(path for path, _, _ in whole.files)
    assert ((), 1, 3) == (short.files, short.count, short.size)


def test_a_shelf_reads_a_manifest_once_and_keeps_few(vault):
    for version in ("1", "2", "3"):
        keep(vault, version)
    shelf = Shelf(vault)
    vault.bare.keys.clear()
    assert "1" == shelf.newest("m", "1").version == shelf.newest("m", "1").version
    assert shelf.newest("m", "4") is None
    assert 1 == len(vault.bare.keys)
    shelf.newest("m", "2")
    shelf.newest("m", "3")
    shelf.newest("m", "1")
    assert 4 == len(vault.bare.keys)


def test_a_parent_is_the_nearest_version_before_that_can_be_read(vault):
    for version in ("1", "2", "9", "11"):
        keep(vault, version)
    spoil(vault, "9")
    assert "2" == Shelf(vault).parent("m", "10").version
    assert Shelf(vault).parent("m", "1") is None


def test_a_damaged_version_is_left_and_the_others_go_on(vault):
    source = MemoryStore("source")
    put_version(source, "1")
    put_version(source, "1", model="other")
    push(source, vault)
    spoil(vault, "1")
    put_version(source, "2", changed=1)
    put_version(source, "2", model="other", changed=2)
    reports = push(source, vault)
    assert [("m", "1", "held"), ("m", "2", "changed"), ("other", "2", "changed")] == [
        (report.name, report.version, report.verdict) for report in reports
    ]
    assert "damaged" == reports[0].details["action"]
    assert reports[0].sentence.startswith("m 1: left as it is, artifacts/m/1/00000001.json")
    assert find_manifest(vault, "m", "2").parent is None


def test_a_damaged_manifest_of_the_model_that_was_named_is_raised_before_anything_is_sent(vault):
    source = MemoryStore("source")
    put_version(source, "1")
    push(source, vault)
    spoil(vault, "1")
    put_version(source, "2")
    with pytest.raises(Corrupt, match=r"artifacts/m/1/00000001\.json"):
        push(source, vault, model="m")
    assert {("m", "1")} == revisions(vault).keys()


def test_an_unchanged_push_asks_for_no_manifest_of_what_the_source_has_no_more(vault):
    source = MemoryStore("source")
    for version in ("1", "2", "3"):
        put_version(source, version)
    push(source, vault)
    for info in list(source.list("m/1/")) + list(source.list("m/2/")):
        source.delete(info.key)
    vault.bare.keys.clear()
    push(source, vault)
    assert ["artifacts/m/3/00000001.json"] == [key for method, key in vault.bare.keys if method == "get"]


def test_versions_beyond_what_is_kept_in_memory_are_listed_again(vault, monkeypatch):
    from understudy.artifacts import replicate

    monkeypatch.setattr(replicate, "_LISTED_FILES_MAX", 5)
    source = FaultyStore(MemoryStore("source"))
    for version in ("1", "2", "3"):
        put_version(source.store, version, changed=int(version))
    assert ["1", "2", "3"] == [report.version for report in push(source, vault)]
    assert ["", "m/2/", "m/3/"] == [key for method, key in source.keys if method == "list"]
    with pytest.raises(NotFound, match="no model"):
        push(MemoryStore("empty"), vault)


def test_a_version_of_too_many_files_is_held_before_it_is_read(vault, monkeypatch):
    from understudy.artifacts import manifest

    monkeypatch.setattr(manifest, "DOCUMENT_BYTES_MAX", 3000)
    source = FaultyStore(MemoryStore("source"))
    for number in range(20):
        source.store.put(f"many/1/{number}.txt", b"x")
    put_version(source.store, "1")
    held, changed = sorted(push(source, vault), key=lambda report: report.verdict, reverse=True)
    assert ("many", "held", "m", "changed") == (held.name, held.verdict, changed.name, changed.verdict)
    assert re.search(r"20 files would make a manifest of more than \d,\d\d\d bytes", held.sentence)
    assert not [key for _, key in source.keys if key.startswith("many/1/") and key != "many/1/"]


@pytest.mark.parametrize("count", [1, 50])
def test_a_version_that_fits_is_never_told_that_it_does_not(count, monkeypatch):
    from understudy.artifacts import manifest

    files = [file_named(f"{number}") for number in range(count)]
    monkeypatch.setattr(manifest, "DOCUMENT_BYTES_MAX", len(encode_manifest(manifest_of(*files))))
    listed = [(file.source.key, file.size) for file in files]
    assert complaint_about_length(listed) is None
    assert complaint_about_length(listed * 3) is not None


def test_a_vault_in_an_empty_store_has_no_outline():
    assert [] == list(outlines(Vault(MemoryStore())))
