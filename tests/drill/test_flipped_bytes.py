"""One byte flipped in each object of a small but full vault: deep verify names that object, each time.

Full: two models' packs, a merged index with the sequences that it replaces, a pack that no index names yet, manifests
of every noun, signed and not, a set, a journal entry, pointers.
"""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from tests.models import model_files
from tests.unit.features.offline_store import logged, put_history, put_log
from tests.unit.vectors.rows import batch_of, schema_of, vectors_of
from understudy.artifacts.catalog import find_manifest
from understudy.artifacts.replicate import push
from understudy.errors import Corrupt
from understudy.features.replicate import replicate_offline
from understudy.objects.memory import MemoryStore
from understudy.vault import index
from understudy.vault.chunks import CodedChunk, chunk_id
from understudy.vault.coders import encode
from understudy.vault.packs import PackBuilder, pack_key
from understudy.vault.seal import seal, unseal
from understudy.vault.sets import compose
from understudy.vault.signing import Signing
from understudy.vault.store import FORMAT_KEY, Vault, open_vault, to_json
from understudy.vault.verify import verify
from understudy.vectors.export import export
from understudy.vectors.interface import Column
from understudy.vectors.memory import MemoryVectors

SERVICE = "golden"
_SEED = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
#: Written by services into the offline store, and no part of the truth: nothing says what they should hold.
NOT_PROVEN = ("offline/v/writers/",)


def fill(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bring one of everything into the vault, through the product's own ways."""
    monkeypatch.setattr(index, "LIVE_SEQUENCES_MAX", 2)
    models = MemoryStore("models")
    for version in range(1, 5):
        for path, data in model_files(changed=version, rows=8, count=6).items():
            models.put(f"m/{version}/{path}", data)
        push(models, vault)
    lake = MemoryStore("lake")
    put_history(lake, 40)
    put_log(lake, 1, [logged("user:00001", "clicks", "7", 30)])
    replicate_offline(lake, vault, view="v")
    schema = schema_of(Column("title", "text", "text"))
    bits = np.random.default_rng(3).integers(0, 1 << 30, (60, 3), np.uint32)
    rows = batch_of(schema, list(range(60)), vectors_of(bits), [f"title {number}" for number in range(60)])
    home = MemoryVectors()
    labels = {"model": "m", "model_digest": find_manifest(vault, "m", "3").digest}
    home.replace(schema, pa.Table.from_batches([rows]), labels)
    export(home, vault, index="i")
    assert "4" == compose(vault, SERVICE, index="i", view="v").held[0].version
    vault.append("journal/00000002/", lambda n: to_json({"n": n, "kind": "claim"}), suffix=".json")
    vault.move_pointer("pointers/artifacts/models.json", lambda _: {"watermark": "2026-11-21T12:00:00+00:00"})
    raw = random.Random(1).randbytes(3000)
    builder = PackBuilder()
    builder.add(CodedChunk(chunk_id(raw), len(raw), *encode(memoryview(raw))))
    sealed = builder.seal()
    vault.store.create(pack_key(sealed.name), sealed.data)


@pytest.fixture(params=["unsigned", "signed"])
def vault(request, monkeypatch):
    signing = None if request.param == "unsigned" else Signing(SERVICE, private_key=lambda: _SEED)
    vault = open_vault(MemoryStore("vault"), service=SERVICE, signing=signing)
    fill(vault, monkeypatch)
    return vault


def told(vault):
    return verify(vault, deep=True).problems


def test_every_flipped_byte_is_found_and_its_object_named(vault):
    found = verify(vault, deep=True)
    assert ((), 0, 1) == (found.problems, found.unsealed, found.orphans)
    keys = [info.key for info in vault.store.list() if not info.key.startswith(NOT_PROVEN)]
    kinds = {key.split("/")[0] for key in keys}
    assert {
        *("packs", "index", "artifacts", "vectors", "features", "offline", "sets", "journal", "pointers"),
        FORMAT_KEY,
    } == kinds
    assert 3 < len([key for key in keys if key.startswith("index/")])
    chosen = random.Random(20)
    for key in keys:
        data = vault.store.get(key)
        at = chosen.randrange(len(data))
        vault.store.put(key, data[:at] + bytes([data[at] ^ 1 << chosen.randrange(8)]) + data[at + 1 :])
        problems = told(vault)
        name = key.rpartition("/")[2] if key.startswith("packs/") else key
        assert any(name in problem for problem in problems), (key, at, problems)
        vault.store.put(key, data)
    assert () == told(vault)


def test_every_byte_of_the_small_objects_is_proven(vault):
    """Of what carries a digest of itself, and of the index, not one byte at random but each in turn."""
    keys = [
        *(info.key for info in vault.store.list("sets/")),
        *(info.key for info in vault.store.list("pointers/")),
        *(info.key for info in vault.store.list("journal/")),
        FORMAT_KEY,
        min(info.key for info in vault.store.list("index/")),
        "artifacts/m/1/00000001.json",
    ]
    for key in keys:
        data = vault.store.get(key)
        prove = partial(index.prove_shard, vault) if key.startswith("index/") else vault.prove
        for at in range(len(data)):
            vault.store.put(key, data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            with pytest.raises(Corrupt, match=key):
                prove(key)
        vault.store.put(key, data)


def test_a_reader_refuses_a_manifest_with_a_flipped_byte_too(vault):
    key = "artifacts/m/1/00000001.json"
    data = vault.store.get(key)
    at = data.index(b"2026-") + 3  # when it was written: text that nothing else contradicts
    vault.store.put(key, data[:at] + b"9" + data[at + 1 :])
    with pytest.raises(Corrupt, match=f"{key} in memory://vault holds other bytes than were written"):
        find_manifest(vault, "m", "1")


def test_objects_from_before_seals_are_read_and_counted(vault):
    keys = [info.key for info in vault.store.list("artifacts/")]
    for key in keys:
        vault.store.put(key, unseal(vault.store.get(key)))
    found = verify(vault, deep=True)
    assert ((), len(keys)) == (found.problems, found.unsealed)
    assert f"{len(keys)} small objects of an earlier version carry no digest" in found.sentence


@pytest.mark.parametrize("data", [b"{}", b"[1]", b"7\n", b"", b"{", b'{"a":1}', b'{\n "a": 1\n}\n', b'{"a":1}\n'])
def test_a_seal_comes_off_as_it_was_put_on(data):
    assert data == unseal(seal(data))
    assert seal(seal(data)[:0] + data) == seal(data)
