"""A dry run reads as a real one would, returns its figures, and leaves everything as it was."""

from __future__ import annotations

import pytest

from tests.models import model_files
from tests.unit.features.offline_store import put_history
from understudy.artifacts.hydrate import hydrate
from understudy.artifacts.replicate import push
from understudy.errors import Conflict, NotFound, Unsupported
from understudy.features.replicate import replicate_offline
from understudy.objects.memory import MemoryStore
from understudy.vault.dry import KEPT_BYTES_MAX, DryStore
from understudy.vault.store import open_vault


def held(store):
    return {info.key: (info.token, info.size) for info in store.list()}


def a_source(version="1", **changes):
    source = MemoryStore("source")
    for path, data in model_files(rows=2048, **changes).items():
        source.put(f"m/{version}/{path}", data)
    return source


def test_a_dry_push_says_what_a_real_one_sends_and_sends_nothing():
    source, store = a_source(), MemoryStore("vault")
    (dry,) = push(source, open_vault(DryStore(store)))
    assert {} == held(store)
    (real,) = push(source, open_vault(store))
    assert (real.verdict, real.items_new, real.bytes_sent) == (dry.verdict, dry.items_new, dry.bytes_sent)
    before = held(store)
    (again,) = push(source, open_vault(DryStore(store)))
    assert ("unchanged", 0) == (again.verdict, again.bytes_sent)
    assert before == held(store)


def test_a_dry_hydrate_writes_no_file_and_moves_no_pointer():
    source, vault, target = a_source(), open_vault(MemoryStore("vault")), MemoryStore("serving")
    push(source, vault)
    dry = hydrate(vault, DryStore(target), model="m")
    assert {} == held(target)
    assert hydrate(vault, target, model="m").items_new == dry.items_new > 0


def test_a_dry_replication_of_features_moves_no_watermark():
    offline, store = MemoryStore("offline"), MemoryStore("vault")
    put_history(offline, 10)
    dry = replicate_offline(offline, open_vault(DryStore(store)), view="v")
    assert {} == held(store)
    real = replicate_offline(offline, open_vault(store), view="v")
    assert (real.items_new, real.bytes_sent) == (dry.items_new, dry.bytes_sent)


def test_what_was_written_is_read_again_and_the_store_never_sees_it():
    store = MemoryStore()
    store.put("a/1", b"old")
    dry = DryStore(store)
    info = dry.create("a/2", b"new")
    assert b"new" == dry.get("a/2")
    assert b"ew" == dry.get_range("a/2", 1, 2)
    assert ["a/1", "a/2"] == [found.key for found in dry.list("a/")]
    dry.replace("a/2", b"newer", expected=info.token)
    with pytest.raises(Conflict):
        dry.replace("a/2", b"newest", expected=info.token)
    with pytest.raises(Conflict):
        dry.create("a/1", b"x")
    with pytest.raises(Conflict):
        dry.create_stream("a/1", [b"x"], 1)
    assert b"streamed" == dry.get(dry.create_stream("b/1", [b"stream", b"ed"], 8).key)
    dry.delete("a/1")
    with pytest.raises(NotFound):
        dry.get("a/1")
    assert ["a/2"] == [found.key for found in dry.list("a/")]
    assert ["a/1"] == [found.key for found in store.list()]
    assert b"old" == store.get("a/1")


def test_a_big_object_is_counted_and_not_kept():
    dry = DryStore(MemoryStore())
    dry.put_stream("pack", iter([b"x" * KEPT_BYTES_MAX, b"y"]), KEPT_BYTES_MAX + 1)
    assert KEPT_BYTES_MAX + 1 == dry.head("pack").size == dry.bytes_written
    with pytest.raises(Unsupported, match="does not keep pack"):
        dry.get("pack")
