"""Two vaults are compared by what is small in them: what one lacks is known without a byte of a pack."""

from __future__ import annotations

import json

import pytest

from tests.models import model_files
from tests.unit.vault.test_encryption import ONE, keys
from tests.unit.vault.test_signing import ONE as SEED_ONE
from tests.unit.vault.test_signing import TWO as SEED_TWO
from tests.unit.vault.test_signing import fill, signing
from understudy.artifacts.replicate import push
from understudy.errors import InvalidConfig, NotFound, Refused
from understudy.objects.memory import MemoryStore
from understudy.report import quiet
from understudy.vault.compare import Lacking, Tally, compare
from understudy.vault.countersign import countersign
from understudy.vault.index import append_index, load_index
from understudy.vault.packs import PACKS_PREFIX
from understudy.vault.store import Vault, open_to_read, open_vault

NOTHING = Lacking(0, 0, 0, 0)


class Watched(MemoryStore):
    """A store that remembers what was read."""

    def __init__(self, name):
        super().__init__(name)
        self.read = set()

    def get(self, key, *, version=None):
        self.read.add(key)
        return super().get(key, version=version)

    def get_range(self, key, start, length, *, version=None):
        self.read.add(key)
        return super().get_range(key, start, length, version=version)


def copied(store, name="copy"):
    copy = Watched(name)
    for info in store.list():
        copy.put(info.key, store.get(info.key))
    return copy


def compared(first, second, **options):
    vaults = [
        each if isinstance(each, Vault) else open_to_read(each, service="shop", **options) for each in (first, second)
    ]
    return compare(*vaults, progress=quiet)


@pytest.fixture
def stored():
    store = Watched("one")
    fill(open_vault(store, service="shop"))
    store.read.clear()
    return store


def test_a_copy_is_equal_and_no_pack_and_no_row_is_read(stored):
    copy = copied(stored)
    stored.read.clear()
    copy.read.clear()
    found = compared(stored, copy)
    assert (True, (), NOTHING, NOTHING) == (found.equal, found.differences, found.first_lacks, found.second_lacks)
    assert dict.fromkeys(("models", "indexes", "features", "sets"), Tally(1, 1, 1, 0)) == found.kinds
    assert stored.read == copy.read
    assert {"artifacts", "features", "format.json", "index", "sets", "vectors"} == {
        key.partition("/")[0] for key in stored.read
    }
    assert not [key for key in stored.read if key.endswith(".parquet") and not key.startswith("index/")]
    assert 2 * len(stored.read - {"format.json"}) == found.objects_read
    assert 2 * sum(stored.head(key).size for key in stored.read - {"format.json"}) == found.bytes_read
    assert 2 * sum(info.size for info in stored.list()) == found.bytes_stored


def test_a_plain_and_an_encrypted_vault_filled_alike_are_equal(stored):
    sealed = Watched("sealed")
    fill(open_vault(sealed, service="shop", encryption=keys(ONE)))
    found = compared(stored, sealed, encryption=keys(ONE))
    assert (True, (), NOTHING, NOTHING) == (found.equal, found.differences, found.first_lacks, found.second_lacks)
    with pytest.raises(InvalidConfig, match=r"is encrypted with k1, and vault\.encrypt_with names no key"):
        compared(stored, sealed)


def test_what_one_lacks_is_counted_in_the_others_bytes(stored):
    empty = Watched("empty")
    open_vault(empty, service="shop").put_once("probe/x", b"{}")
    found = compared(stored, empty)
    index = load_index(Vault(stored))
    ids = {location.id: location for _, rows in index.by_pack() for location in rows}
    files = [info.size for info in stored.list() if info.key.startswith("offline/") or "/data/" in info.key]
    expected = Lacking(len(ids), sum(location.length for location in ids.values()), len(files), sum(files))
    assert (NOTHING, expected) == (found.first_lacks, found.second_lacks)
    assert {"only the first has it"} == {one.words for one in found.differences}
    assert expected == compared(empty, stored).first_lacks
    assert not found.equal
    assert "the second lacks" in found.sentence


def test_a_second_version_is_a_difference_and_only_its_new_chunks_are_lacking(stored):
    later, source = copied(stored), MemoryStore("source")
    files = model_files()
    path = max(files, key=lambda name: len(files[name]))
    for name, data in files.items():
        source.put(f"m/2/{name}", data[:-8] + b"changed!" if name == path else data)
    push(source, Vault(later))
    found = compared(stored, later)
    assert ["artifacts/m/2/00000001.json"] == [one.key for one in found.differences]
    assert 0 < found.first_lacks.chunks < len(load_index(Vault(stored)))
    assert (NOTHING, Tally(1, 2, 1, 0)) == (found.second_lacks, found.kinds["models"])


def test_a_pack_that_is_gone_or_cut_is_lacking_though_its_index_names_it(stored):
    for change in (lambda store, key: store.delete(key), lambda store, key: store.put(key, store.get(key)[:-1])):
        copy = copied(stored)
        change(copy, next(info.key for info in copy.list(PACKS_PREFIX)))
        found = compared(stored, copy)
        assert len(load_index(Vault(stored))) == found.second_lacks.chunks
        assert (NOTHING, ()) == (found.first_lacks, found.differences)


def test_a_chunk_without_its_base_is_lacking(stored):
    from dataclasses import replace

    for base, lacking in ((bytes([9] * 32), 1), (None, 0)):
        store = copied(stored)
        vault = Vault(store)
        index = load_index(vault)
        rows = [row for _, found in index.by_pack() for row in found]
        packs = dict(index.packs)
        for info in list(store.list("index/")):
            store.delete(info.key)
        used = rows[0]
        changed = [replace(used, base=base or rows[1].id, coder="delta"), *rows[1:]]
        append_index(vault, load_index(vault), changed, packs)
        assert lacking == compared(stored, store).second_lacks.chunks


def test_a_file_of_rows_that_is_gone_or_cut_is_lacking(stored):
    copy = copied(stored)
    rows = sorted(info.key for info in copy.list() if info.key.startswith("offline/") or "/data/" in info.key)
    copy.delete(rows[0])
    copy.put(rows[1], copy.get(rows[1])[:-1])
    found = compared(stored, copy)
    sizes = stored.head(rows[0]).size + stored.head(rows[1]).size
    assert (NOTHING, Lacking(0, 0, 2, sizes)) == (found.first_lacks, found.second_lacks)


def test_a_manifest_that_says_something_else_or_is_damaged_is_told(stored):
    copy = copied(stored)
    pins = json.loads(copy.get("sets/shop/00000001.json"))
    pins["model"]["revision"] = 7
    pins.pop("seal")
    copy.put("sets/shop/00000001.json", json.dumps(pins).encode())
    copy.put("features/v/00000001.json", b"{}")
    found = compared(stored, copy)
    assert {
        "features/v/00000001.json": "in the second: it is not a manifest",
        "sets/shop/00000001.json": "says something else in each",
    } == {one.key: one.words for one in found.differences}
    assert Tally(1, 1, 0, 1) == found.kinds["sets"]


def test_manifests_signed_by_other_keys_are_told_apart_and_untrusted_ones_differ(stored):
    signed, otherwise = copied(stored), copied(stored)
    countersign(Vault(signed, signing()), write=True)
    countersign(Vault(otherwise, signing(SEED_TWO, trust=(SEED_TWO,))), write=True)
    found = compared(signed, otherwise)
    assert (4, ()) == (len(found.signatures), found.differences)
    assert all(one.words.startswith("first: ed25519:") for one in found.signatures)
    assert {"first: not signed"} == {one.words.partition(",")[0] for one in compared(stored, signed).signatures}
    assert not found.equal
    trusting = compared(signed, otherwise, signing=signing(None, trust=(SEED_ONE,)))
    assert 4 == len(trusting.differences)
    assert all(one.words.startswith("in the second: ") for one in trusting.differences)


def test_what_is_no_vault_of_the_service_is_not_compared(stored):
    with pytest.raises(NotFound, match="memory://nothing is no vault"):
        compared(stored, MemoryStore("nothing"))
    with pytest.raises(Refused, match="belongs to the service 'shop'"):
        open_to_read(stored, service="other")
