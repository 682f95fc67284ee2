"""Tags that people give to versions: written by compare-and-set, and honoured by a prune."""

from __future__ import annotations

import threading

import pytest

from tests.faults import FaultyStore
from tests.pruning import assert_whole, filled, keys, pruned, put, versions
from understudy.artifacts.replicate import push
from understudy.artifacts.tags import all_tags, give, read_tags, shown, take
from understudy.errors import Corrupt, InvalidConfig, NotFound
from understudy.vault.retention import Keep


def test_a_tag_is_given_once_and_taken_once():
    vault, _, clock = filled(2)
    first = give(vault, "m", "1", "quarter-3")
    assert (True, 1, ("quarter-3",)) == (first.changed, first.revision, first.tags)
    assert "m 1 r1 has the tag quarter-3; its tags: quarter-3" == first.sentence
    assert {"quarter-3": clock().isoformat()} == shown(read_tags(vault, "m"), "1", 1)
    token = vault.store.head("pointers/tags/m.json").token
    assert not give(vault, "m", "1", "quarter-3").changed
    assert token == vault.store.head("pointers/tags/m.json").token
    assert ("audit", "quarter-3") == give(vault, "m", "1", "audit").tags
    gone = take(vault, "m", "1", "quarter-3")
    assert (True, ("audit",)) == (gone.changed, gone.tags)
    assert not take(vault, "m", "1", "quarter-3").changed
    assert {"m": ["audit"]} == {model: [tag.name for tag in tags] for model, tags in all_tags(vault).items()}


def test_a_tag_names_the_newest_revision_and_stays_there():
    vault, source, _ = filled(2)
    give(vault, "m", "1", "audit")
    put(source, 1, files={"config.json": b"{}", "own.bin": b"other"})
    push(source, vault)
    give(vault, "m", "1", "later")
    assert [(1, "audit"), (2, "later")] == [(tag.revision, tag.name) for tag in read_tags(vault, "m")]
    assert 1 == take(vault, "m", "1", "audit").revision


@pytest.mark.parametrize("tagged", [True, ("audit",)])
def test_a_prune_keeps_what_is_tagged_until_the_tag_is_taken(tagged):
    vault, source, clock = filled()
    give(vault, "m", "2", "audit")
    keep = Keep(last=1, tagged=tagged)
    done = pruned(vault, keep=keep)
    assert (("1", "3", "4", "5"), True) == (done.models[0].condemned, "tagged audit: 1" in done.models[0].why)
    clock.turn(8)
    pruned(vault, keep=keep)
    assert ["2", "6"] == versions(vault)
    take(vault, "m", "2", "audit")
    assert ("2",) == pruned(vault, keep=keep).models[0].condemned
    give(vault, "m", "2", "audit")
    assert ("2",) == pruned(vault, keep=keep).models[0].spared
    assert_whole(vault, source)


def test_a_tag_without_a_policy_that_asks_for_it_keeps_nothing():
    vault, _, _ = filled()
    give(vault, "m", "2", "audit")
    assert "2" in pruned(vault, keep=Keep(last=1, tagged=("release",))).models[0].condemned
    assert (
        "2" in pruned(vault, keep=Keep(last=1)).models[0].condemned + pruned(vault, keep=Keep(last=1)).models[0].waiting
    )


def test_nothing_is_pruned_while_the_tags_cannot_be_read():
    vault, _, _ = filled()
    give(vault, "m", "2", "audit")
    vault.store.put("pointers/tags/m.json", b'{"tags": [{"version": "2"}]}')
    before = keys(vault)
    with pytest.raises(Corrupt, match=r"nothing is pruned: pointers/tags/m.json in memory://vault does not hold tags"):
        pruned(vault)
    assert before == keys(vault)
    with pytest.raises(Corrupt, match="does not hold tags"):
        give(vault, "m", "2", "more")


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "x" * 65, "ä", "accepted"])
def test_a_name_that_is_none_is_refused(name):
    vault, _, _ = filled(1)
    with pytest.raises(InvalidConfig):
        give(vault, "m", "1", name)
    assert [] == keys(vault, "pointers/tags/")


def test_what_the_vault_does_not_hold_is_not_tagged():
    vault, _, _ = filled(1)
    for model, version in (("m", "9"), ("other", "1"), ("../m", "1")):
        with pytest.raises(NotFound):
            give(vault, model, version, "audit")
    assert [] == keys(vault, "pointers/tags/")


def test_a_version_that_a_prune_takes_in_that_moment_is_not_tagged():
    vault, _, _ = filled(2)
    store = FaultyStore(vault.store)
    store.run("replace", lambda: vault.store.delete("artifacts/m/1/00000001.json"), key="pointers/tags/")
    from understudy.vault.store import Vault

    with pytest.raises(NotFound, match="while it was tagged"):
        give(Vault(store), "m", "1", "audit")
    assert [] == read_tags(vault, "m")


def test_tags_given_at_once_are_all_kept():
    vault, _, _ = filled(1)
    start = threading.Barrier(4)

    def tag(number):
        start.wait()
        give(vault, "m", "1", f"tag-{number}")

    threads = [threading.Thread(target=tag, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [f"tag-{number}" for number in range(4)] == [tag.name for tag in read_tags(vault, "m")]
