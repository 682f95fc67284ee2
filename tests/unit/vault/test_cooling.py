"""Packs that only old versions need are moved to colder storage, and what that does to a restore is said."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.faults import FaultyStore
from tests.pruning import Clock, assert_whole, filled, pruned, put, versions
from understudy.artifacts.catalog import find_manifest
from understudy.artifacts.estimate import look_at_packs, restore_cost
from understudy.artifacts.replicate import push
from understudy.errors import Conflict, Denied, NotReady, Unsupported
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.vault.index import load_index
from understudy.vault.packs import pack_key
from understudy.vault.pruned import Served
from understudy.vault.retention import Keep
from understudy.vault.sets import compose
from understudy.vault.store import open_vault

FORTNIGHT = timedelta(days=15)


def packs_of(vault, version):
    index = load_index(vault)
    files = find_manifest(vault, "m", version).files
    return {index.find(bytes.fromhex(name)).pack for file in files for name, _ in file.chunks}


def cold(vault):
    return {info.key.rpartition("/")[2] for info in vault.store.list("packs/") if info.tier == "cold"}


def cooled(vault, **more):
    return pruned(vault, **{"keep": None, "cold_after": FORTNIGHT, "rewrite_below": 0.0} | more)


def test_what_only_old_versions_need_goes_cold_and_what_the_newer_need_stays():
    vault, source, _ = filled(7)  # ten days apart, the newest ten days old
    hot = set().union(*(packs_of(vault, version) for version in ("7",)))
    only_old = {info.key.rpartition("/")[2] for info in vault.store.list("packs/")} - hot
    assert 2 == len(only_old)
    said = cooled(vault, write=False)
    assert (set(), len(only_old)) == (cold(vault), said.cooled.packs)
    done = cooled(vault)
    assert (said.cooled, only_old, True) == (done.cooled, cold(vault), done.changes)
    assert "moved to colder storage" in done.sentence
    assert (0, False) == (cooled(vault).cooled.packs, cooled(vault).changes)
    assert_whole(vault, source)


def test_nothing_is_moved_without_being_asked():
    vault, _, _ = filled(7)
    assert (0, set()) == (pruned(vault, keep=None).cooled.packs, cold(vault))


def test_the_newest_version_what_is_served_and_what_a_set_pins_stays_however_old():
    vault, source, clock = filled(7)
    compose(vault, "shop", model="m")
    clock.turn(400)
    cooled(vault, served=[Served("gcp-usc1", "m", "6", 1)])
    assert not (packs_of(vault, "7") | packs_of(vault, "6")) & cold(vault)
    assert 1 == len(cold(vault))
    put(source, 8)
    push(source, vault)
    clock.turn(400)
    cooled(vault)
    assert not (packs_of(vault, "7") | packs_of(vault, "8")) & cold(vault)  # version 7 is in a set
    assert 2 == len(cold(vault))


def test_what_a_young_difference_stands_on_stays(monkeypatch):
    from tests.unit.vault.test_pruning import Differences, data_of

    made = Differences(monkeypatch)
    first, second, third = (data_of(number) for number in range(3))
    made.version(1, first)
    made.version(2, second)
    made.clock.turn(300)
    made.version(3, third, first)
    cooled(made.vault)
    assert cold(made.vault) == packs_of(made.vault, "2")
    assert_whole(made.vault, made.source)


def test_what_is_condemned_is_not_moved():
    vault, _, clock = filled(7)
    done = cooled(vault, keep=Keep(last=1))
    assert (0, True) == (done.cooled.packs, done.condemned.packs > 0)
    clock.turn(1)
    again = cooled(vault)  # needed again: first its mark goes, then it may be moved
    assert (done.condemned.packs, 0) == (again.spared.packs, again.cooled.packs)
    assert 2 == cooled(vault).cooled.packs


def test_what_a_version_that_is_not_old_enough_needs_is_not_moved():
    vault, _, _ = filled(7)
    hot = packs_of(vault, "6") | packs_of(vault, "7")
    assert 1 == cooled(vault, cold_after=timedelta(days=25)).cooled.packs
    assert not hot & cold(vault)


def test_what_was_written_lately_is_not_moved():
    vault, _, _ = filled(7)
    only_old = {info.key.rpartition("/")[2] for info in vault.store.list("packs/")} - packs_of(vault, "7")
    fresh = min(only_old)
    vault.store.put(pack_key(fresh), vault.store.get(pack_key(fresh)))  # as if it had been written anew
    cooled(vault)
    assert only_old - {fresh} == cold(vault)


@pytest.mark.parametrize("kind", [Denied, Conflict, Unsupported])
def test_a_move_that_the_store_refuses_is_said_and_tried_again(kind):
    clock = Clock()
    store = FaultyStore(MemoryStore("vault", clock=clock))
    vault, source, clock = filled(7, store=store, clock=clock)
    store.fail("set_tier", nth=None, error=lambda: kind("it is locked until 2027"))
    done = cooled(vault)
    assert (0, ("it is locked until 2027",), True) == (done.cooled.packs, done.refusals, done.refused > 1)
    assert set() == cold(vault)
    store.heal()
    assert cooled(vault).cooled.packs == done.refused
    assert_whole(vault, source)


def test_cold_packs_are_not_written_anew_and_go_when_nothing_needs_them():
    vault, source, clock = filled(7)
    assert 2 == cooled(vault).cooled.packs
    assert 5 == cooled(vault, rewrite_below=2.0, write=False).rewritten.packs
    for days in (8, 8, 8):
        clock.turn(days)
        cooled(vault, keep=Keep(last=1))
    assert (["7"], set()) == (versions(vault), cold(vault))
    assert_whole(vault, source)


def test_a_store_with_one_kind_of_storage_says_that_nothing_is_moved(tmp_path):
    vault, _, _ = filled(2, store=FileStore(tmp_path))
    done = cooled(vault)
    assert (0, 0) == (done.cooled.packs, done.refused)
    assert "colder storage: this store has none, so vault.cold_after moves nothing" in done.left


def test_a_restore_says_how_much_is_cold():
    vault, _, _ = filled(7)
    cooled(vault)
    cost = look_at_packs(vault, restore_cost(load_index(vault), find_manifest(vault, "m", "3")))
    assert 2 == len(packs_of(vault, "3") & cold(vault)) == cost.cold_packs
    assert 60_000 < cost.cold_bytes < cost.bytes_read
    assert (0, 0, 0) == (cost.frozen_packs, cost.frozen_bytes, cost.frozen_hours)
    assert "from 2 cold packs, at once" in cost.sentence
    assert "by_pack" not in cost.as_json()
    newest = look_at_packs(vault, restore_cost(load_index(vault), find_manifest(vault, "m", "7")))
    assert (0, False) == (newest.cold_packs, "cold" in newest.sentence)


class Archived(FaultyStore):
    """A store whose owner's rule has archived some objects."""

    archived: frozenset[str] = frozenset()
    kept = "DEEP_ARCHIVE"

    def _as_kept(self, info):
        return replace(info, tier="frozen", storage_class=self.kept) if info.key in self.archived else info

    def head(self, key):
        return self._as_kept(super().head(key))

    def list(self, prefix=""):
        return (self._as_kept(info) for info in super().list(prefix))

    def _refuse(self, key):
        if key in self.archived:
            message = f"{key} is archived"
            raise NotReady(message)

    def get(self, key, *, version=None):
        self._refuse(key)
        return super().get(key, version=version)

    def get_range(self, key, start, length, *, version=None):
        self._refuse(key)
        return super().get_range(key, start, length, version=version)


@pytest.mark.parametrize(("kept", "hours"), [("GLACIER", 5), ("DEEP_ARCHIVE", 12), ("COLDER STILL", 48)])
def test_a_restore_says_what_has_to_be_brought_back_first(kept, hours):
    clock = Clock()
    store = Archived(MemoryStore("vault", clock=clock))
    vault, _, _ = filled(2, store=store, clock=clock)
    store.kept, store.archived = kept, frozenset(map(pack_key, packs_of(vault, "1")))
    cost = look_at_packs(vault, restore_cost(load_index(vault), find_manifest(vault, "m", "1")))
    assert (len(store.archived), hours, cost.bytes_read) == (cost.frozen_packs, cost.frozen_hours, cost.frozen_bytes)
    assert f"are archived: restore them first, which takes up to {hours} hours" in cost.sentence


def test_a_prune_beside_archived_packs_deletes_nothing_for_their_sake_and_calls_nothing_damaged():
    clock = Clock()
    store = Archived(MemoryStore("vault", clock=clock))
    vault, source, clock = filled(store=store, clock=clock)
    before = {info.key for info in vault.store.list("packs/")}
    pruned(vault, rewrite_below=2.0)
    store.archived = frozenset({info.key for info in vault.store.list("packs/")} - before)
    assert store.archived
    clock.turn(8)
    done = pruned(vault, rewrite_below=2.0)
    assert ((), 0) == (done.problems, done.rewritten.packs)
    assert "is archived" in done.refusals[0]
    assert done.spared.packs > 0
    store.archived = frozenset()
    assert_whole(open_vault(store.store), source)
