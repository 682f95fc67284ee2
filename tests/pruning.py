"""A vault whose clock is turned by hand, for tests of what a prune takes out of it."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from tests.models import safetensors
from understudy.artifacts.catalog import all_manifests
from understudy.artifacts.hydrate import hydrate
from understudy.artifacts.replicate import push
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.vault.pruned import Rules
from understudy.vault.pruning import prune
from understudy.vault.retention import Keep
from understudy.vault.store import open_vault
from understudy.vault.verify import verify

DAY = timedelta(days=1)
WAIT = 7 * DAY


class Clock:
    """Tells the time that it was set to."""

    def __init__(self):
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self):
        return self.now

    def turn(self, days):
        self.now += days * DAY


def files_of(version, *, layers=4):
    """Return the files of a version: one layer is new in each, the others are those of the versions before it."""
    tensors = {
        f"layer.{number}": np.random.default_rng(
            [number, version + layers - (version - number) % layers]
        ).standard_normal((32, 256), dtype=np.float32)
        for number in range(layers)
    }
    own = np.random.default_rng([99, version]).bytes(60_000)
    return {"config.json": b"{}", "model.safetensors": safetensors(tensors), "own.bin": own}


def put(source, version, *, model="m", files=None):
    for path, data in (files or files_of(int(version))).items():
        source.put(f"{model}/{version}/{path}", data)


def rules(*, keep=Keep(last=2), **more):  # noqa: B008 - frozen
    return Rules(keep=keep, condemned_for=WAIT, **more)


def pruned(vault, *, write=True, **more):
    served = more.pop("served", ())
    return prune(vault, rules=rules(**more), served=served, write=write)


def keys(vault, prefix=""):
    return [info.key for info in vault.store.list(prefix)]


def versions(vault):
    return [manifest.version for manifest in all_manifests(vault)]


def assert_whole(vault, source):
    """Every version that is there can be restored to its last byte, and verify finds nothing wrong."""
    assert () == verify(vault, deep=True).problems
    for manifest in all_manifests(vault):
        target = MemoryStore("target")
        hydrate(vault, target, model=manifest.model, version=manifest.version, revision=manifest.revision)
        for file in manifest.files:
            key = f"{manifest.model}/{manifest.version}/{file.path}"
            assert source.get(key) == target.get(key), key


def filled(count=6, *, days=10, store=None, clock=None):
    """Return (vault, source, clock): so many versions, pushed one a few days after another."""
    clock = clock or Clock()
    vault = open_vault(store or MemoryStore("vault", clock=clock))
    source = MemoryStore("source", clock=clock)
    for version in range(1, count + 1):
        put(source, version)
        push(source, vault)
        clock.turn(days)
    return vault, source, clock


class Past(FileStore):
    """A folder whose clock, and whose objects, are so many days old."""

    def __init__(self, folder, days):
        super().__init__(folder)
        self._folder, self._days = folder, days

    def now(self):
        return super().now() - self._days * DAY

    def settle(self):
        """Give all that is there, and is younger, that age."""
        then = self.now().timestamp()
        for path in Path(self._folder).rglob("*"):
            if path.is_file() and path.stat().st_mtime > then:
                os.utime(path, (then, then))


def plant(vault, places, *, replaces=(), lengths=None):
    """Write what anybody may who can create below ``index/`` and ``packs/``: an index that points at a pack of junk."""
    from understudy.vault.chunks import CodedChunk
    from understudy.vault.index import PackRecord, _append, _table_of, load_index
    from understudy.vault.packs import PackBuilder, pack_key

    builder = PackBuilder()
    for place in places:
        builder.add(CodedChunk(place.id, place.raw_length, "raw", bytes(place.raw_length)))
    sealed = builder.seal()
    vault.store.create(pack_key(sealed.name), sealed.data)
    packs = {sealed.name: PackRecord(len(sealed.data), None)}
    packs |= {name: PackRecord(length, None) for name, length in (lengths or {}).items()}
    _append(vault, load_index(vault), _table_of(sealed.locations), packs, tuple(replaces))
    return sealed.name
