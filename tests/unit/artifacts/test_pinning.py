"""Pinning many files of a source takes a listing, of few a question each; what changed is noticed either way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.faults import FaultyStore
from understudy.artifacts.pinning import Changed, pin, require_unmoved
from understudy.artifacts.plan import versions_in
from understudy.artifacts.replicate import push
from understudy.errors import Denied
from understudy.objects.memory import MemoryStore
from understudy.vault.store import open_vault


class Versioned(FaultyStore):
    """Keeps versions and lists none, as S3 does."""

    def list(self, prefix=""):
        return (replace(info, version=None) for info in super().list(prefix))


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


def source_of(count, kind=Versioned):
    store = MemoryStore("source")
    for number in range(count):
        store.put(f"m/1/{number:03d}.bin", f"what is in {number}".encode())
    return kind(store)


def listed(source):
    [version] = versions_in(source.list())
    source.calls.clear()
    return version


def test_many_files_are_pinned_by_one_listing(pool):
    source = source_of(50)
    version = listed(source)
    pinned = pin(source, version, version.files, pool)
    assert {"list_versions": 1} == dict(source.calls)
    assert [source.store.head(file.info.key) for file in version.files] == pinned


def test_few_files_are_asked_for_one_by_one(pool):
    source = source_of(50)
    version = listed(source)
    assert all(info.version for info in pin(source, version, version.files[:3], pool))
    assert {"head": 3} == dict(source.calls)


def test_a_listing_that_has_versions_is_enough(pool):
    source = source_of(50, kind=FaultyStore)
    version = listed(source)
    assert [file.info for file in version.files] == pin(source, version, version.files, pool)
    assert {} == dict(source.calls)


def test_without_the_right_to_list_versions_files_are_asked_for_one_by_one(pool):
    source = source_of(50).fail("list_versions", nth=None, error=lambda: Denied("no"))
    version = listed(source)
    assert 50 == len(pin(source, version, version.files, pool))
    assert 50 == source.calls["head"]


@pytest.mark.parametrize("count", [3, 50])
@pytest.mark.parametrize("change", ["written", "deleted"])
def test_a_file_that_changed_since_it_was_listed_is_named(pool, count, change):
    source = source_of(50)
    version = listed(source)
    source.store.put("m/1/001.bin", b"other") if change == "written" else source.store.delete("m/1/001.bin")
    with pytest.raises(Changed, match=r"^001\.bin$"):
        pin(source, version, version.files[:count], pool)
    with pytest.raises(Changed, match=r"^001\.bin$"):
        require_unmoved(source, version, version.files[:count], pool)


def test_small_files_are_read_by_one_request_each():
    source = source_of(200)
    push(source, open_vault(MemoryStore("vault")))
    assert {"list": 1, "list_versions": 1, "get_range": 200} == dict(source.calls)
