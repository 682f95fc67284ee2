"""A prune: what goes, what stays, in what order, and that it may be killed and met by others at every step."""

from __future__ import annotations

import threading
from datetime import timedelta

import numpy as np
import pytest

from tests.faults import FaultyStore
from tests.pruning import (
    Clock,
    assert_whole,
    files_of,
    filled,
    keys,
    plant,
    pruned,
    put,
    versions,
)
from understudy.artifacts.catalog import find_manifest
from understudy.artifacts.hydrate import hydrate
from understudy.artifacts.replicate import push
from understudy.errors import Conflict, Corrupt, Denied, HeldByAnother, NotFound, NotReady, Refused, StoppedPartWay
from understudy.objects.memory import MemoryStore
from understudy.vault import pruning
from understudy.vault.chunks import CodedChunk, chunk_id
from understudy.vault.condemned import LOCK_KEY, condemned, mark, retired
from understudy.vault.index import PackRecord, append_index, load_index
from understudy.vault.packs import PackBuilder, pack_key
from understudy.vault.prune_lock import PruneLock
from understudy.vault.pruned import Rules, Served
from understudy.vault.reading import ChunkReader
from understudy.vault.retention import Keep
from understudy.vault.sets import compose, newest_set, set_of
from understudy.vault.store import Vault, open_vault, to_json
from understudy.vault.verified import keep
from understudy.vault.verify import verify
from understudy.vault.writing import ChunkWriter


def assert_clean(vault):
    """Nothing is condemned, nothing waits, and the index names the packs that are there."""
    assert [] == keys(vault, "condemned/")
    assert {key.rpartition("/")[2] for key in keys(vault, "packs/")} == set(load_index(vault).packs)
    assert 0 == verify(vault, deep=False).orphans


# -- what goes --------------------------------------------------------------------------------------------------------


def test_a_dry_run_says_what_a_run_does_and_changes_nothing():
    vault, _, _ = filled()
    before = {info.key: info.token for info in vault.store.list()}
    said = pruned(vault, write=False)
    assert before == {info.key: info.token for info in vault.store.list()}
    done = pruned(vault)
    assert (said.models, said.condemned, said.rewritten) == (done.models, done.condemned, done.rewritten)
    assert (("1", "2", "3", "4"), 2, "last 2: 2, newest: 1") == (
        said.models[0].condemned,
        said.models[0].kept,
        said.models[0].why,
    )
    assert said.models[0].bytes > 4 * 60_000
    assert said.sentence.startswith("would prune memory://vault: 2 revisions kept, 4 revisions and ")
    assert done.sentence.startswith("prune memory://vault: ")


def test_what_is_condemned_is_readable_until_it_is_deleted_by_a_later_run():
    vault, source, clock = filled()
    pruned(vault)
    assert ["1", "2", "3", "4", "5", "6"] == versions(vault)
    assert_whole(vault, source)
    clock.turn(6.9)
    assert () == pruned(vault).models[0].deleted
    assert ["1", "2", "3", "4", "5", "6"] == versions(vault)
    clock.turn(0.2)
    freed = sum(info.size for info in vault.store.list("packs/"))
    assert ("1", "2", "3", "4") == pruned(vault).models[0].deleted
    assert freed - 4 * 60_000 > sum(info.size for info in vault.store.list("packs/"))
    assert ["5", "6"] == versions(vault)
    assert_whole(vault, source)
    with pytest.raises(NotFound, match="no version '1'"):
        find_manifest(vault, "m", "1")
    clock.turn(8)
    pruned(vault)
    assert_clean(vault)
    assert_whole(vault, source)


def test_without_a_policy_only_what_nothing_names_goes():
    vault, source, clock = filled(3)
    vault.store.delete("artifacts/m/1/00000001.json")
    assert not pruned(vault, keep=None).models[0].condemned
    clock.turn(8)
    pruned(vault, keep=None)
    assert ["2", "3"] == versions(vault)
    assert_whole(vault, source)
    done = pruned(vault, keep=None)
    assert (False, False) == (done.policy, done.changes)


def test_what_a_site_serves_and_what_kept_sets_and_indexes_need_stays():
    vault, source, clock = filled()
    compose(vault, "shop", model="m")
    index = {"digest": "d", "model_digest": find_manifest(vault, "m", "2").digest, "parts": []}
    vault.put_once("vectors/products/00000001/manifest.json", to_json(index))
    done = pruned(vault, keep=Keep(last=1), served=[Served("gcp-usc1", "m", "3", 0)])
    assert ("1", "4", "5") == done.models[0].condemned
    assert "served by gcp-usc1: 1" in done.models[0].why
    assert "index products: 1" in done.models[0].why
    assert "set of shop: 1" in done.models[0].why
    assert () == done.sets[0].condemned
    clock.turn(8)
    pruned(vault, keep=Keep(last=1), served=[Served("gcp-usc1", "m", "3", 0)])
    assert ["2", "3", "6"] == versions(vault)
    assert_whole(vault, source)


def test_old_sets_go_by_the_same_policy_and_before_what_they_pin():
    clock = Clock()
    store = FaultyStore(MemoryStore("vault", clock=clock))
    vault, source = open_vault(store), MemoryStore("source", clock=clock)
    for version in range(1, 5):
        put(source, version)
        push(source, vault)
        compose(vault, "shop", model="m")
        clock.turn(10)
    done = pruned(vault)
    assert ("set 1", "set 2") == done.sets[0].condemned
    assert ("1", "2") == done.models[0].condemned
    clock.turn(8)
    store.keys.clear()
    pruned(vault)
    deleted = [key for method, key in store.keys if method == "delete"]
    kinds = [key.split("/")[0] for key in deleted if not key.startswith("condemned/")]
    assert ["sets", "sets", "artifacts", "artifacts", "packs"] == kinds[:5]
    assert 4 == newest_set(vault, "shop").sequence
    assert_whole(vault, source)


def test_a_policy_that_keeps_more_takes_the_mark_away_again():
    vault, source, clock = filled()
    pruned(vault)
    clock.turn(8)
    done = pruned(vault, keep=Keep(last=10))
    assert (("1", "2", "3", "4"), ()) == (done.models[0].spared, done.models[0].deleted)
    assert done.spared.packs > 0
    assert ["1", "2", "3", "4", "5", "6"] == versions(vault)
    assert not [key for key in keys(vault, "condemned/") if "artifacts" in key]
    assert_whole(vault, source)


def test_young_packs_that_nothing_names_are_left_alone_and_old_ones_go():
    vault, source, clock = filled(2)
    with ChunkWriter(vault) as writer:
        writer.add(CodedChunk(chunk_id(b"lost"), 4, "raw", b"lost"))
        writer._send()
    assert 1 == pruned(vault).young.packs
    clock.turn(8)
    assert 1 == pruned(vault).condemned.packs
    clock.turn(8)
    assert 1 == pruned(vault).deleted.packs
    assert_clean(vault)
    assert_whole(vault, source)


def test_an_empty_store_is_not_made_a_vault():
    store = MemoryStore("vault")
    assert not pruned(open_vault(store)).changes
    assert [] == list(store.list())


def test_a_damaged_manifest_stops_everything_in_a_sentence():
    vault, _, _ = filled()
    vault.store.put("artifacts/m/1/00000001.json", b"{")
    before = keys(vault)
    with pytest.raises(Corrupt, match=r"nothing is pruned: artifacts/m/1/00000001.json"):
        pruned(vault)
    assert before == keys(vault)


def test_a_kept_version_that_lacks_a_pack_stops_everything_in_a_sentence():
    vault, _, _ = filled()
    before = keys(vault, "packs/")
    vault.store.delete(before[0])
    vault.store.delete(before[1])
    with pytest.raises(Corrupt, match=r"nothing is pruned: \d+ chunks of m .* are in no whole pack"):
        pruned(vault, keep=None)
    assert before[2:] == keys(vault, "packs/")


# -- packs and the index ----------------------------------------------------------------------------------------------


def test_a_pack_that_is_mostly_dead_is_written_anew_without_the_rest():
    clock = Clock()
    vault, source = open_vault(MemoryStore("vault", clock=clock)), MemoryStore("source", clock=clock)
    shared = np.random.default_rng(1).bytes(10_000)
    put(source, 1, files={"own.bin": np.random.default_rng(2).bytes(900_000), "shared.bin": shared})
    push(source, vault)
    put(source, 2, files={"shared.bin": shared})
    push(source, vault)
    [before] = keys(vault, "packs/")
    clock.turn(8)
    done = pruned(vault, keep=Keep(last=1))
    assert (1, True) == (done.rewritten.packs, done.rewritten_bytes < 20_000)
    assert_whole(vault, source)
    clock.turn(8)
    pruned(vault, keep=Keep(last=1))
    [after] = keys(vault, "packs/")
    assert before != after
    assert_clean(vault)
    assert_whole(vault, source)
    clock.turn(8)
    assert not pruned(vault, keep=Keep(last=1)).rewritten.packs


def test_many_small_packs_are_put_together_once():
    clock = Clock()
    vault, source = open_vault(MemoryStore("vault", clock=clock)), MemoryStore("source", clock=clock)
    for version in range(1, 10):
        put(source, version, files={"tiny.bin": bytes([version]) * 10})
        push(source, vault)
    clock.turn(8)
    assert 9 == len(keys(vault, "packs/"))
    assert 9 == pruned(vault, keep=None).rewritten.packs
    clock.turn(8)
    pruned(vault, keep=None)
    assert 1 == len(keys(vault, "packs/"))
    assert_clean(vault)
    assert_whole(vault, source)
    clock.turn(8)
    assert 0 == pruned(vault, keep=None).rewritten.packs


def test_what_one_run_writes_anew_is_bounded():
    vault, source, _ = filled()
    assert pruned(vault, write=False, rewrite_bytes_max=10**9).rewritten.packs > 0
    assert 0 == pruned(vault, rewrite_bytes_max=10).rewritten.packs
    assert_whole(vault, source)


def test_a_damaged_pack_is_not_written_anew():
    vault, _, clock = filled()
    for key in keys(vault, "packs/"):
        data = vault.store.get(key)
        vault.store.put(key, bytes([data[0] ^ 1]) + data[1:])
    clock.turn(8)
    with pytest.raises(Corrupt, match="is not written anew"):
        pruned(vault)
    # What a verification found damaged is left to the push that mends it, and stops no prune.
    keep(vault, verify(vault, deep=True))
    assert 0 == pruned(vault).rewritten.packs


def test_objects_of_the_index_that_others_replace_go_after_the_wait():
    vault, source, clock = filled()
    pruned(vault)
    clock.turn(8)
    pruned(vault)
    before = keys(vault, "index/")
    clock.turn(6)
    assert 0 == pruned(vault).index_objects
    clock.turn(2)
    assert pruned(vault).index_objects > 3
    assert len(keys(vault, "index/")) < len(before) - 3
    assert_whole(vault, source)


def test_the_compacted_index_keeps_the_place_that_is_not_condemned():
    clock = Clock()
    vault, source = open_vault(MemoryStore("vault", clock=clock)), MemoryStore("source", clock=clock)
    for version in (1, 2):
        put(source, version, files={"own.bin": data_of(version)})
        push(source, vault)
    # The kept version's chunk lies once more in a pack that came last, as two pushes at once leave it.
    builder = PackBuilder()
    builder.add(CodedChunk(chunk_id(data_of(2)), 5000, "raw", data_of(2)))
    builder.add(CodedChunk(chunk_id(b"other"), 5, "raw", b"other"))
    sealed = builder.seal()
    info = vault.store.create(pack_key(sealed.name), sealed.data)
    first = load_index(vault).find(chunk_id(data_of(2))).pack
    append_index(vault, load_index(vault), sealed.locations, {sealed.name: PackRecord(info.size, None)})
    clock.turn(8)
    mark(vault, pack_key(load_index(vault).find(chunk_id(data_of(1))).pack))
    mark(vault, "artifacts/m/1/00000001.json")
    clock.turn(6)
    mark(vault, pack_key(sealed.name))
    clock.turn(2)
    done = pruned(vault, keep=Keep(last=1), rewrite_below=0.0)
    assert (1, 1) == (done.deleted.packs, done.waiting.packs)
    assert [first] == [place.pack for place in load_index(vault).find_all(chunk_id(data_of(2)))][:1]
    clock.turn(8)
    assert 1 == pruned(vault, keep=Keep(last=1), rewrite_below=0.0).deleted.packs
    assert_whole(vault, source)
    assert_clean(vault)


# -- deltas -----------------------------------------------------------------------------------------------------------


class Differences:
    """Puts chunks into a vault that are told as the difference to others, and manifests that name them."""

    def __init__(self, monkeypatch):
        from understudy.vault import coders

        class Xor:
            name = "xor"
            needs_base = True

            def decode(self, frame, raw_length, base):
                del raw_length
                return bytes(one ^ other for one, other in zip(frame, base, strict=True))

        monkeypatch.setitem(coders._CODERS, "xor", Xor())
        self.clock = Clock()
        self.vault = open_vault(MemoryStore("vault", clock=self.clock))
        self.source = MemoryStore("source", clock=self.clock)

    def version(self, number, data, base=None):
        """Push a version of one file, whose chunk stands on another version's."""
        with ChunkWriter(self.vault) as writer:
            frame = data if base is None else bytes(one ^ other for one, other in zip(data, base, strict=True))
            coder, on = ("raw", None) if base is None else ("xor", chunk_id(base))
            writer.add(CodedChunk(chunk_id(data), len(data), coder, frame, on))
            writer.commit()
        put(self.source, number, files={"own.bin": data})
        push(self.source, self.vault)
        self.clock.turn(10)


@pytest.fixture
def differences(monkeypatch):
    return Differences(monkeypatch)


def data_of(number, size=5000):
    return np.random.default_rng(number).bytes(size)


def test_what_a_kept_difference_stands_on_stays_although_its_version_goes(differences):
    first, second, third = (data_of(number) for number in range(3))
    differences.version(1, first)
    differences.version(2, second, first)
    differences.version(3, third, second)
    vault = differences.vault
    done = pruned(vault, keep=Keep(last=1))
    assert (("1", "2"), 0, 0) == (done.models[0].condemned, done.condemned.packs, done.models[0].bytes)
    differences.clock.turn(8)
    pruned(vault, keep=Keep(last=1))
    assert (["3"], 3) == (versions(vault), len(keys(vault, "packs/")))
    assert_whole(vault, differences.source)


def test_a_difference_whose_base_goes_is_forgotten_and_sent_again(differences):
    base, difference, other = (data_of(number) for number in range(3))
    differences.version(1, base)
    # One pack holds the difference, which goes, and a chunk that stays: the pack stays, and so would its row.
    with ChunkWriter(differences.vault) as writer:
        frame = bytes(one ^ other for one, other in zip(difference, base, strict=True))
        writer.add(CodedChunk(chunk_id(difference), len(difference), "xor", frame, chunk_id(base)))
        writer.add(CodedChunk(chunk_id(other), len(other), "raw", other))
        writer.commit()
    put(differences.source, 2, files={"own.bin": difference})
    push(differences.source, differences.vault)
    put(differences.source, 3, files={"own.bin": other})
    push(differences.source, differences.vault)
    vault, clock = differences.vault, differences.clock
    clock.turn(8)
    pruned(vault, keep=Keep(last=1), rewrite_below=0.0)
    with ChunkWriter(vault) as writer:
        assert [False, True] == [writer.knows(chunk_id(difference)), writer.knows(chunk_id(other))]
    clock.turn(8)
    pruned(vault, keep=Keep(last=1), rewrite_below=0.0)
    assert 1 == len(keys(vault, "packs/"))
    assert load_index(vault).find(chunk_id(difference)) is None
    assert_whole(vault, differences.source)
    put(differences.source, 4, files={"own.bin": difference})
    push(differences.source, vault)
    assert_whole(vault, differences.source)


# -- what is deleted is proven elsewhere before -----------------------------------------------------------------------


def needed_places(vault, *numbers):
    index = load_index(vault)
    names = {name for number in numbers for file in find_manifest(vault, "m", number).files for name, _ in file.chunks}
    return [index.find(bytes.fromhex(name)) for name in sorted(names)]


@pytest.mark.parametrize("replacing", [False, True])
def test_a_planted_index_that_points_at_a_pack_of_junk_deletes_nothing_that_is_needed(replacing):
    vault, source, clock = filled()
    index = load_index(vault)
    places = needed_places(vault, *(str(number) for number in range(1, 7)))
    junk = plant(vault, places, replaces=[(1, max(index.live))] if replacing else ())
    before = keys(vault, "packs/")
    assert set(before) > {pack_key(name) for name in index.packs}
    clock.turn(8)
    if not replacing:  # what an index replaces would be deleted now, so its lie shows before anything is condemned
        done = pruned(vault, keep=None)
        assert len(index.packs) == done.condemned.packs  # the sound ones: the junk is taken for their chunks' home
        clock.turn(8)
    done = pruned(vault, keep=None)
    assert (0, 0 if replacing else len(index.packs)) == (done.deleted.packs, done.spared.packs)
    assert 1 == len(done.problems)
    assert done.problems[0].startswith(f"pack {junk} is not relied on, and what it was to replace stays: chunk ")
    assert 0 == done.index_objects
    assert "1 packs do not hold what the index says" in done.sentence
    with pytest.raises(Corrupt, match="is not relied on"):
        done.require()
    assert set(before) <= set(keys(vault, "packs/"))
    assert [] == [key for key in keys(vault, "condemned/packs/") if key.rpartition("/")[2] in index.packs]
    # The index names the sound places first again, whatever it replaced, so nothing but the junk goes from now on.
    for days in (0, 8, 8, 8):
        clock.turn(days)
        pruned(vault, keep=None)
    assert pack_key(junk) not in keys(vault, "packs/")
    assert_whole(vault, source)


def test_a_planted_length_of_a_sound_pack_does_not_make_it_one_that_may_go():
    vault, source, clock = filled()
    index = load_index(vault)
    places = needed_places(vault, *(str(number) for number in range(1, 7)))
    plant(vault, places, lengths=dict.fromkeys(index.packs, 7))
    clock.turn(8)
    pruned(vault, keep=None)
    clock.turn(8)
    with pytest.raises(Corrupt, match=r"nothing is pruned: 6 packs \(.*\) of memory://vault have another length"):
        pruned(vault, keep=None, prove_bytes_max=1000)
    done = pruned(vault, keep=None)
    assert (0, 6) == (done.deleted.packs, done.spared.packs)
    assert 6 == sum("is whole, and the index recorded another length of it" in words for words in done.problems)
    assert {name: info.length for name, info in index.packs.items()}.items() <= {
        name: info.length for name, info in load_index(vault).packs.items()
    }.items()
    for days in (0, 8, 8, 8):
        clock.turn(days)
        done = pruned(vault, keep=None)
    assert () == done.problems
    assert_whole(vault, source)


def test_a_flipped_byte_in_what_was_written_anew_spares_what_it_was_to_replace():
    clock = Clock()
    vault, source = open_vault(MemoryStore("vault", clock=clock)), MemoryStore("source", clock=clock)
    shared = np.random.default_rng(1).bytes(10_000)
    put(source, 1, files={"own.bin": np.random.default_rng(2).bytes(900_000), "shared.bin": shared})
    push(source, vault)
    put(source, 2, files={"shared.bin": shared})
    push(source, vault)
    [old] = keys(vault, "packs/")
    clock.turn(8)
    pruned(vault, keep=Keep(last=1))
    [new] = [key for key in keys(vault, "packs/") if key != old]
    place = load_index(vault).find(chunk_id(shared))
    assert new == pack_key(place.pack)
    data = bytearray(vault.store.get(new))
    data[place.offset + 5] ^= 1
    vault.store.put(new, bytes(data))
    clock.turn(8)
    done = pruned(vault, keep=Keep(last=1))
    assert (0, 1, 1) == (done.deleted.packs, done.spared.packs, len(done.problems))
    assert old in keys(vault, "packs/")
    assert shared == ChunkReader(vault)._found_elsewhere(load_index(vault).find(chunk_id(shared)), "shared")
    assert old == pack_key(load_index(vault).find(chunk_id(shared)).pack)


def test_what_a_difference_stands_on_stays_when_the_place_without_one_is_junk(differences):
    first, second = (data_of(number) for number in range(2))
    differences.version(1, first)
    differences.version(2, second, first)
    vault, clock = differences.vault, differences.clock
    index = load_index(vault)
    bases = {index.find(chunk_id(first)).pack}
    # The planted place of the difference needs no base, so nothing seems to need the base's pack; and every row but
    # that one is hidden: the pack of the difference itself is not even listed.
    plant(vault, [index.find(chunk_id(second))], replaces=[(1, max(index.live))])
    for days in (8, 8, 8, 8, 8):
        clock.turn(days)
        pruned(vault, keep=Keep(last=1))
    assert bases <= {key.rpartition("/")[2] for key in keys(vault, "packs/")}
    assert second == hydrated(vault, "2")["m/2/own.bin"]


def test_a_base_that_does_not_decode_disproves_what_stands_on_it(differences):
    first, second = (data_of(number) for number in range(2))
    differences.version(1, first)
    with ChunkWriter(differences.vault) as writer:
        writer.add(CodedChunk(chunk_id(second), len(second), "raw", second))
        writer.commit()
    put(differences.source, 2, files={"own.bin": second})
    push(differences.source, differences.vault)
    vault, clock = differences.vault, differences.clock
    plain = load_index(vault).find(chunk_id(second)).pack
    # Another writer sent the same chunk as a difference, whose base then rots.
    builder = PackBuilder()
    frame = bytes(one ^ other for one, other in zip(second, first, strict=True))
    builder.add(CodedChunk(chunk_id(second), len(second), "xor", frame, chunk_id(first)))
    sealed = builder.seal()
    vault.store.create(pack_key(sealed.name), sealed.data)
    packs = {sealed.name: PackRecord(len(sealed.data), None)}
    append_index(vault, load_index(vault), sealed.locations, packs)
    clock.turn(8)
    assert 1 == pruned(vault, keep=Keep(last=1), rewrite_below=0.0).condemned.packs
    base = pack_key(load_index(vault).find(chunk_id(first)).pack)
    data = vault.store.get(base)
    vault.store.put(base, bytes([data[0] ^ 1]) + data[1:])
    clock.turn(8)
    done = pruned(vault, keep=Keep(last=1), rewrite_below=0.0)
    assert (0, 1) == (done.deleted.packs, done.spared.packs)
    assert 2 == len(done.problems)
    assert plain == load_index(vault).find(chunk_id(second)).pack
    assert second == hydrated(vault, "2")["m/2/own.bin"]


def test_what_is_proven_before_a_deletion_is_counted_and_bounded():
    vault, source, clock = filled()
    clock.turn(8)
    rewritten = pruned(vault, rewrite_below=2.0)
    assert (0, 0) == (rewritten.proven, rewritten.proven_bytes)
    clock.turn(8)
    few = pruned(vault, prove_bytes_max=1, rewrite_below=0.0)
    assert 1 <= few.deleted.packs < rewritten.condemned.packs
    assert few.waiting.packs == rewritten.condemned.packs - few.deleted.packs
    rest = pruned(vault, rewrite_below=0.0)
    assert few.waiting.packs == rest.deleted.packs
    assert rest.proven > 0
    assert rest.proven_bytes > 0
    assert "chunks proven elsewhere before" in rest.sentence
    assert_whole(vault, source)


def hydrated(vault, version):
    target = MemoryStore("target")
    hydrate(vault, target, model="m", version=version)
    return {info.key: target.get(info.key) for info in target.list("m/")}


# -- writers and readers beside it ------------------------------------------------------------------------------------


def test_a_push_that_began_before_the_marks_has_its_packs_spared():
    vault, source, clock = filled(3)
    writer = ChunkWriter(vault)
    old = [bytes.fromhex(name) for file in find_manifest(vault, "m", "1").files for name, _ in file.chunks]
    assert all(writer.knows(chunk) for chunk in old)
    pruned(vault, keep=Keep(last=1))
    clock.turn(1.9)
    writer.commit()
    # The manifest that this writer may now show: version 9 is version 1 once more.
    put(source, 9, files=files_of(1))
    manifest = find_manifest(vault, "m", "1")
    from dataclasses import replace

    from understudy.artifacts.manifest import encode_manifest

    shown = replace(manifest, version="9")
    vault.put_once("artifacts/m/9/00000001.json", encode_manifest(shown))
    clock.turn(6)
    done = pruned(vault, keep=Keep(last=1))
    assert done.spared.packs > 0
    assert ["9"] == versions(vault)[-1:]
    assert_whole(vault, source)


def test_a_writer_that_is_older_than_a_prune_waits_gives_up():
    vault, source, clock = filled(1)
    with ChunkWriter(vault) as writer:
        clock.turn(1.99)
        writer.commit()
        clock.turn(0.02)
        with pytest.raises(StoppedPartWay, match=r"longer than the 2d00h"):
            writer.commit()
    put(source, 2)
    assert "changed" == push(source, vault)[0].verdict


def test_a_push_after_the_marks_counts_on_nothing_that_is_condemned():
    vault, source, clock = filled()
    pruned(vault)
    dying = condemned(vault)
    assert dying
    put(source, 7, files=files_of(1))
    [report] = push(source, vault)
    assert report.bytes_sent > 60_000
    clock.turn(8)
    pruned(vault)
    assert not dying & {key.rpartition("/")[2] for key in keys(vault, "packs/")}
    assert ["5", "6", "7"] == versions(vault)
    assert_whole(vault, source)


def test_a_new_revision_of_a_condemned_version_reads_again_what_it_shares_with_it():
    vault, source, clock = filled()
    pruned(vault)
    source.put("m/1/config.json", b'{"layers": 4}')
    [report] = push(source, vault)[:1]
    assert ("1", 2) == (report.version, report.details["revision"])
    assert report.bytes_read > 60_000
    clock.turn(8)
    pruned(vault)
    assert ("1", 2) in {(manifest.version, manifest.revision) for manifest in [find_manifest(vault, "m", "1")]}
    source.put("m/1/config.json", b'{"layers": 4}')
    assert_whole(vault, source)


def test_a_condemned_orphan_is_not_adopted():
    vault, _, clock = filled(2)
    with ChunkWriter(vault) as writer:
        writer.add(CodedChunk(chunk_id(b"lost"), 4, "raw", b"lost"))
        writer._send()
    clock.turn(8)
    pruned(vault)
    with ChunkWriter(vault) as writer:
        assert (0, False) == (writer.packs_adopted, writer.knows(chunk_id(b"lost")))


def test_a_version_that_was_taken_out_is_not_sent_again_until_it_changes():
    vault, source, clock = filled()
    pruned(vault)
    clock.turn(8)
    pruned(vault)
    assert 4 == len(retired(vault))
    assert ["m 6: unchanged, 0 of 3 files new, 0 B sent"] == [report.sentence for report in push(source, vault)]
    assert ["5", "6"] == versions(vault)
    put(source, 2)
    [report] = push(source, vault)
    assert ("2", 2, "changed") == (report.version, report.details["revision"], report.verdict)
    assert_whole(vault, source)


def test_a_model_whose_every_version_at_the_source_was_taken_out_says_so():
    vault, source, clock = filled(2)
    pruned(vault, keep=Keep(last=1))
    clock.turn(8)
    pruned(vault, keep=Keep(last=1))
    for path in files_of(2):
        source.delete(f"m/2/{path}")
    [report] = push(source, vault)
    assert "unchanged" == report.verdict
    assert report.sentence.startswith("m 1: not sent, vault.keep took it out of the vault")


@pytest.mark.parametrize("number", range(1, 12))
def test_a_reader_that_began_before_the_deletion_ends_well_or_in_a_sentence(number):
    clock = Clock()
    store = FaultyStore(MemoryStore("vault", clock=clock))
    vault, source, clock = filled(store=store, clock=clock)
    pruned(vault)
    clock.turn(8)
    store.run("*", lambda: pruned(Vault(store.store)), nth=number)
    target = MemoryStore("target")
    failed = ""
    try:
        hydrate(vault, target, model="m", version="1")
    except (Corrupt, NotFound) as error:
        failed = error.message
    if failed:
        assert any(words in failed for words in ("is missing from", "holds no version", "in no pack", "is not in"))
        assert [] == list(target.list("pointers/"))
    else:
        assert source.get("m/1/own.bin") == target.get("m/1/own.bin")


def test_a_new_set_pins_nothing_that_is_condemned():
    vault, source, _ = filled()
    digest = find_manifest(vault, "m", "1").digest
    pruned(vault)
    index = {"digest": "d", "model": "m", "model_digest": digest, "parts": []}
    vault.put_once("vectors/products/00000001/manifest.json", to_json(index))
    with pytest.raises(NotReady, match=r"vault.keep has condemned m 1, which it needs"):
        compose(vault, "shop", index="products")
    pruned(vault)
    assert "1" == compose(vault, "shop", index="products").model.version
    assert_whole(vault, source)


def test_merging_the_index_keeps_the_place_that_is_not_condemned():
    clock = Clock()
    vault, source = open_vault(MemoryStore("vault", clock=clock)), MemoryStore("source", clock=clock)
    shared = np.random.default_rng(1).bytes(10_000)
    put(source, 1, files={"own.bin": np.random.default_rng(2).bytes(900_000), "shared.bin": shared})
    push(source, vault)
    put(source, 2, files={"shared.bin": shared})
    push(source, vault)
    clock.turn(8)
    stale = load_index(vault)
    pruned(vault, keep=Keep(last=1))
    [moved] = [found.pack for found in load_index(vault).find_all(chunk_id(shared))][:1]
    # A push that had loaded the index before appends its old rows again, after those of the new pack.
    rows = [stale.find(chunk_id(shared))]
    append_index(vault, stale, rows, dict(stale.packs))
    assert moved != load_index(vault).find(chunk_id(shared)).pack
    for version in range(3, 22):
        put(source, version, files={"tiny.bin": bytes([version]) * 10})
        push(source, vault)
    assert len(load_index(vault).live) <= 16
    assert moved == load_index(vault).find(chunk_id(shared)).pack


# -- two at once, refusals, kills -------------------------------------------------------------------------------------


def test_a_second_prune_waits_and_a_dead_one_is_taken_over():
    vault, source, clock = filled()
    with PruneLock(vault, lambda: None):
        with pytest.raises(HeldByAnother, match=r"under way since 2026-03-02 00:00Z"):
            pruned(vault)
        pruned(vault, write=False)
        clock.turn(0.05)
        pruned(vault)
        assert [] == keys(vault, LOCK_KEY)
    assert_whole(vault, source)


def test_a_prune_that_was_taken_over_stops():
    vault, _, clock = filled()
    with PruneLock(vault, lambda: None) as slow:
        slow.hold()
        clock.turn(0.02)
        slow.hold()
        clock.turn(0.05)
        with PruneLock(vault, lambda: None) as other:
            with pytest.raises(HeldByAnother, match="took over meanwhile"):
                slow.hold()
            other.hold()


def test_a_claim_of_the_epoch_stops_a_prune():
    vault, source, _ = filled()
    asked = []

    def claimed():
        asked.append(1)
        if len(asked) > 2:
            raise Refused("the epoch was claimed")

    with pytest.raises(Refused):
        pruning.prune(vault, rules=Rules(keep=Keep(last=1), condemned_for=timedelta(days=7)), write=True,
                      still_allowed=claimed)  # fmt: skip
    assert_whole(vault, source)


@pytest.mark.parametrize("kind", [Denied, Conflict])
@pytest.mark.parametrize("prefix", ["packs/", "artifacts/", "sets/"])
def test_what_the_store_refuses_to_delete_is_said_and_tried_again(kind, prefix):
    clock = Clock()
    store = FaultyStore(MemoryStore("vault", clock=clock))
    vault, source = open_vault(store), MemoryStore("source", clock=clock)
    for version in range(1, 5):
        put(source, version)
        push(source, vault)
        compose(vault, "shop", model="m")
        clock.turn(10)
    pruned(vault)
    clock.turn(8)
    store.fail("delete", nth=None, key=prefix, error=lambda: kind("it is locked until 2027"))
    done = pruned(vault)
    assert done.refused > 0
    assert "it is locked until 2027" == done.refusals[0]
    assert "refused by the store" in done.sentence
    assert_whole(vault, source)
    for key in keys(vault, "sets/"):
        pinned = set_of(key, vault.read_json(key)).model
        assert pinned.digest == find_manifest(vault, "m", pinned.version, pinned.revision).digest
    assert not done.deleted.packs or prefix == "sets/"
    store.heal()
    again = pruned(vault)
    assert (0, True) == (again.refused, again.deleted.packs > 0)
    clock.turn(8)
    pruned(vault)
    assert ["3", "4"] == versions(vault)
    assert_clean(vault)
    assert_whole(vault, source)


def test_a_pack_that_waited_longer_than_its_version_stays_until_that_goes():
    clock = Clock()
    vault, source = open_vault(MemoryStore("vault", clock=clock)), MemoryStore("source", clock=clock)
    for version in (1, 2):
        put(source, version, files={"own.bin": data_of(version)})
        push(source, vault)
    clock.turn(8)
    pack = load_index(vault).find(chunk_id(data_of(1))).pack
    mark(vault, pack_key(pack))  # a run was killed before it marked the version too
    clock.turn(8)
    done = pruned(vault, keep=Keep(last=1))
    assert (("1",), 0, 1) == (done.models[0].condemned, done.deleted.packs, done.waiting.packs)
    assert_whole(vault, source)
    clock.turn(8)
    done = pruned(vault, keep=Keep(last=1))
    assert (("1",), 1) == (done.models[0].deleted, done.deleted.packs)
    assert_clean(vault)


class Killed(BaseException):
    """What no code handles, as a power cut."""


class Mortal(FaultyStore):
    """A store that is dead from its n-th write on."""

    def __init__(self, store):
        super().__init__(store)
        self.writes = 0
        self.dies_at = None
        self.after = False
        self._writing = threading.Lock()

    def _pass(self, method, key, call):
        if method not in ("create", "replace", "put", "delete"):
            if self.dies_at is not None and self.writes >= self.dies_at:
                raise Killed
            return super()._pass(method, key, call)
        with self._writing:
            self.writes += 1
            if self.dies_at is not None and self.writes >= self.dies_at:
                if self.writes == self.dies_at and self.after:
                    super()._pass(method, key, call)
                raise Killed
            return super()._pass(method, key, call)

    def die_at(self, number, *, after):
        self.writes, self.dies_at, self.after = 0, number, after

    def live(self):
        self.dies_at = None


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("waited", [0, 8])
@pytest.mark.slow
def test_a_prune_killed_at_any_write_leaves_all_whole_and_the_next_ones_finish(after, waited):
    number = 0
    while True:
        number += 1
        clock = Clock()
        store = Mortal(MemoryStore("vault", clock=clock))
        vault, source, clock = filled(5, store=store, clock=clock)
        compose(vault, "shop", model="m")
        if waited:
            pruned(vault)
            clock.turn(waited)
        store.die_at(number, after=after)
        try:
            pruned(vault)
        except Killed:
            store.live()
        else:
            break
        assert_whole(vault, source)
        put(source, 6, files=files_of(1))  # what is condemned, or half deleted, is wanted again
        push(source, vault)
        assert_whole(vault, source)
        clock.turn(0.1)
        for _ in range(4):
            pruned(vault)
            assert verify(vault, deep=False).ok
            clock.turn(8)
        assert_whole(vault, source)
        assert ["5", "6"] == versions(vault)
        assert_clean(vault)
    assert number > 10
