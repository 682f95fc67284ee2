"""Sets: what belongs together is pinned together, and what does not yet is held."""

from __future__ import annotations

import pytest

from tests.faults import FaultyStore
from tests.models import model_files
from understudy.artifacts.catalog import find_manifest
from understudy.artifacts.replicate import push
from understudy.errors import Corrupt, NotReady
from understudy.objects.memory import MemoryStore
from understudy.vault.sets import compose, newest_set, set_pinning
from understudy.vault.store import Vault, open_vault, to_json


@pytest.fixture
def source():
    return MemoryStore("source")


@pytest.fixture
def vault(source):
    vault = open_vault(MemoryStore("vault"))
    add_model(source, vault, "1")
    return vault


def add_model(source, vault, version, changed=None):
    for path, data in model_files(changed=changed).items():
        source.put(f"m/{version}/{path}", data)
    push(source, vault)


def add_index(vault, sequence, version, name="i"):
    digest = find_manifest(vault, "m", version).digest
    content = {"digest": f"rows{sequence}", "model_digest": digest}
    vault.put_once(f"vectors/{name}/{sequence:08d}/manifest.json", to_json(content))


def add_features(vault, sequence, schema="s1"):
    vault.put_once(f"features/v/{sequence:08d}.json", to_json({"schema_digest": schema}))


def composed(vault):
    return compose(vault, "service", model="m", index="i", view="v")


def test_model_index_and_features_are_pinned_together(vault):
    add_index(vault, 1, "1")
    add_features(vault, 1)
    made = composed(vault)
    assert ("1", "i", 1, "v") == (made.model.version, made.index.name, made.index.sequence, made.features.view)
    assert made.model.digest == made.index.model_digest
    assert made == newest_set(vault, "service")
    assert "service set 1: m 1, index i 1, features v" == made.sentence


def test_a_new_model_is_held_until_its_index_is_there(source, vault):
    add_index(vault, 1, "1")
    add_features(vault, 1)
    composed(vault)
    add_model(source, vault, "2", changed=1)
    held = composed(vault)
    assert (2, "1") == (held.sequence, held.model.version)
    assert [("m", "2", "index i 1 belongs to m 1")] == [(row.model, row.version, row.reason) for row in held.held]
    assert held.sentence.endswith("; m 2 held: index i 1 belongs to m 1")
    add_index(vault, 2, "2")
    made = composed(vault)
    assert ("2", 2, ()) == (made.model.version, made.index.sequence, made.held)


def test_nothing_new_writes_no_new_set(vault):
    add_index(vault, 1, "1")
    add_features(vault, 1)
    first = composed(vault)
    add_features(vault, 2)
    assert first == composed(vault)
    assert 1 == len(list(vault.store.list("sets/")))
    add_features(vault, 3, schema="s2")
    assert (2, 3) == (composed(vault).sequence, composed(vault).features.sequence)


@pytest.mark.parametrize(
    ("missing", "words"), [("index", "index i is not"), ("view", "features v are not"), ("model", "model m is not")]
)
def test_no_set_is_made_while_a_part_is_missing(vault, missing, words):
    if missing != "index":
        add_index(vault, 1, "1")
    if missing != "view":
        add_features(vault, 1)
    if missing == "model":
        vault.store.delete("artifacts/m/1/00000001.json")
    with pytest.raises(NotReady, match=words):
        composed(vault)
    assert newest_set(vault, "service") is None


def test_an_index_of_an_unknown_model_leaves_the_earlier_set_standing(vault):
    add_index(vault, 1, "1")
    add_features(vault, 1)
    first = composed(vault)
    vault.put_once("vectors/i/00000002/manifest.json", to_json({"digest": "x", "model_digest": "y"}))
    with pytest.raises(NotReady, match="lacks the model"):
        composed(vault)
    assert first == newest_set(vault, "service")


def test_a_service_without_index_and_features_serves_its_newest_model(source, vault):
    add_model(source, vault, "10", changed=2)
    made = compose(vault, "plain", model="m")
    assert ("10", None, None) == (made.model.version, made.index, made.features)


def test_two_at_once_make_two_sets_or_one(vault):
    add_index(vault, 1, "1")
    add_features(vault, 1)

    class Racing(MemoryStore):
        raced = False

        def create(self, key, data):
            if key.startswith("sets/") and not self.raced:
                self.raced = True
                composed(open_vault(self))
            return super().create(key, data)

    racing = Racing()
    for info in vault.store.list():
        racing.put(info.key, vault.store.get(info.key))
    assert 1 == composed(open_vault(racing)).sequence
    assert 1 == len(list(racing.list("sets/")))


def test_services_that_pin_different_versions_must_be_told_apart(source, vault):
    compose(vault, "one", model="m")
    add_model(source, vault, "2", changed=1)
    compose(vault, "two", model="m")
    with pytest.raises(NotReady, match="one 1, two 2"):
        set_pinning(vault, "m")
    assert set_pinning(vault, "other") is None


def test_a_damaged_set_is_named(vault):
    compose(vault, "one", model="m")
    vault.store.put("sets/one/00000001.json", b'{"service": 1}')
    with pytest.raises(Corrupt, match=r"sets/one/00000001.json"):
        newest_set(vault, "one")


def test_the_model_of_a_set_is_the_one_that_its_index_names(source, vault):
    for path, data in model_files(changed=2).items():
        source.put(f"other/7/{path}", data)
    push(source, vault)
    add_features(vault, 1)
    add_index(vault, 1, "1")
    with pytest.raises(NotReady, match="does not say which"):
        compose(vault, "service", index="i", view="v")
    digest = find_manifest(vault, "other", "7").digest
    content = {"digest": "rows2", "model_digest": digest, "model": "other"}
    vault.put_once("vectors/i/00000002/manifest.json", to_json(content))
    made = compose(vault, "service", index="i", view="v")
    assert ("other", "7", 2) == (made.model.name, made.model.version, made.index.sequence)


def test_a_vault_with_one_model_needs_no_name(vault):
    add_features(vault, 1)
    add_index(vault, 1, "1")
    assert "m" == compose(vault, "service", index="i", view="v").model.name


def test_a_slower_composer_never_puts_an_older_set_after_a_newer_one(source, vault):
    add_index(vault, 1, "1")
    add_features(vault, 1)
    composed(vault)
    add_model(source, vault, "2", changed=1)

    class Overtaken(FaultyStore):
        """Another composer finishes while this one is about to write."""

        def create(self, key, data):
            if key.startswith("sets/") and not self.overtaken:
                self.overtaken = True
                add_index(vault, 2, "2")
                composed(vault)
            return super().create(key, data)

    store = Overtaken(vault.store)
    store.overtaken = False
    composed(Vault(store))
    assert store.overtaken
    newest = newest_set(vault, "service")
    assert ("2", 2) == (newest.model.version, newest.index.sequence)


def spoil(vault, version, revision=1):
    vault.bare.put(f"artifacts/m/{version}/{revision:08d}.json", b"[]")


def test_a_damaged_older_model_stands_in_no_sets_way(source, vault):
    add_model(source, vault, "2", changed=1)
    add_index(vault, 1, "2")
    add_features(vault, 1)
    spoil(vault, "1")
    assert "2" == composed(vault).model.version


def test_a_damaged_newer_model_is_held_and_says_so(source, vault):
    add_index(vault, 1, "1")
    add_features(vault, 1)
    add_model(source, vault, "2", changed=1)
    spoil(vault, "2")
    made = composed(vault)
    assert ("1", ["2"]) == (made.model.version, [held.version for held in made.held])
    assert "its manifest is damaged; index i 1 belongs to m 1" == made.held[0].reason


def test_without_an_index_the_newest_is_served_or_its_damage_is_told(source, vault):
    add_model(source, vault, "2", changed=1)
    spoil(vault, "1")
    assert "2" == compose(vault, "service").model.version
    spoil(vault, "2")
    with pytest.raises(Corrupt, match=r"artifacts/m/2/00000001\.json"):
        compose(vault, "service")


def test_manifests_older_than_the_pinned_one_are_not_read(source):
    vault = open_vault(FaultyStore(MemoryStore("vault")))
    for version in range(1, 12):
        add_model(source, vault, str(version), changed=version % 4)
    vault.bare.keys.clear()
    compose(vault, "service")
    assert len([key for method, key in vault.bare.keys if method == "get" and key.startswith("artifacts/")]) <= 2
