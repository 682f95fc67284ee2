"""What is fuzzed: each takes bytes that anybody may have written, and lets nothing pass but an error of ours.

A target returns whether the bytes were taken; where they were, what came of them is checked to be right.
"""

from __future__ import annotations

import io
import struct
from functools import cache

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from tests.models import layers, safetensors
from tests.unit.features.offline_store import put_history
from tests.unit.vectors.rows import batch_of, schema_of, vectors_of
from understudy.artifacts.catalog import find_manifest
from understudy.artifacts.cut import cut_tensors
from understudy.artifacts.layouts.safetensors import header_length, read_layout
from understudy.artifacts.manifest import complaint_about_path, decode_manifest, encode_manifest
from understudy.artifacts.replicate import push
from understudy.artifacts.validate import Document, read_document
from understudy.errors import UnderstudyError
from understudy.features.manifest import read_manifest as read_features
from understudy.features.replicate import replicate_offline
from understudy.objects.memory import MemoryStore
from understudy.vault.chunks import BLOCK_BYTES, CodedChunk, chunk_id
from understudy.vault.coders import decode, encode
from understudy.vault.index import load_index
from understudy.vault.packs import PACK_BYTES_MAX, PackBuilder, pack_key, read_trailer
from understudy.vault.seal import Damaged, seal, unseal
from understudy.vault.sets import compose, read_set
from understudy.vault.signing import Signing, private_key_text, public_line, split
from understudy.vault.store import open_vault
from understudy.vectors import manifest as vectors
from understudy.vectors.export import export
from understudy.vectors.memory import MemoryVectors

SEED = bytes(range(32))
ARTIFACT = "artifacts/m/1/00000001.json"
VECTORS = "vectors/i/00000001/manifest.json"
FEATURES = "features/v/00000001.json"
SET = "sets/s/00000001.json"
SHARD = "index/00000001/00000.parquet"


def header(data: bytes) -> bool:
    """A safetensors file."""
    try:
        length = header_length(data[:8], len(data))
        layout = read_layout(data[8 : 8 + length], len(data))
    except UnderstudyError as error:
        return refused(error)
    lengths = [cut.length for cut in cut_tensors(layout, len(data))]
    assert len(data) == sum(lengths)
    assert all(0 < each <= BLOCK_BYTES for each in lengths)
    assert all(8 + length <= each.start <= each.end <= len(data) for each in layout.tensors)
    assert len(layout.tensors) == len(layout.described)
    return True


def trailer(data: bytes) -> bool:
    """A pack."""
    store = MemoryStore()
    info = store.create(pack_key(chunk_id(data).hex()), data)
    try:
        locations = read_trailer(store, info)
    except UnderstudyError as error:
        return refused(error)
    end = 0
    for location in locations:
        assert location.offset == end
        end += location.length
        frame = data[location.offset : location.offset + location.length]
        try:
            plain = decode(location.coder, frame, location.raw_length)
        except UnderstudyError as error:
            refused(error)
        else:
            assert len(plain) == location.raw_length
    assert end <= len(data)
    return True


def frame(data: bytes) -> bool:
    """A zstd frame, expected to give what the first two bytes say."""
    length = int.from_bytes(data[:2], "little")
    try:
        plain = decode("zstd", data[2:], length)
    except UnderstudyError as error:
        return refused(error)
    assert length == len(plain)
    return True


def manifest(data: bytes) -> bool:
    """A model's manifest, signed or not."""
    try:
        found = decode_manifest(split(data)[0], ARTIFACT)
    except UnderstudyError as error:
        return refused(error)
    assert all(complaint_about_path(file.path) is None for file in found.files)
    assert all(file.size == sum(length for _, length in file.chunks) for file in found.files)
    assert found == decode_manifest(encode_manifest(found), ARTIFACT)
    return True


def document(data: bytes) -> bool:
    """A list of shards and a config."""
    for path in ("config.json", "model.safetensors.index.json"):
        found = read_document(path, data)
        assert isinstance(found, (Document, str))
    return isinstance(read_document("tokenizer.json", data), Document)


def sealed(data: bytes) -> bool:
    """An object with its digest: what is taken is what was sealed, or never was."""
    try:
        plain = unseal(data)
    except Damaged:
        return False
    assert plain == data or seal(plain) == data
    return True


def stored(key: str, data: bytes) -> bool:
    """Whatever stands under a key of the vault, read as the product reads it."""
    vault = open_vault(MemoryStore())
    vault.store.put(key, data)
    try:
        _readers()[key](vault)
    except UnderstudyError as error:
        return refused(error)
    return True


def signed(key: str, data: bytes) -> bool:
    """A manifest read by somebody who trusts one key: nothing passes but what that key signed."""
    vault = open_vault(MemoryStore(), signing=Signing("s", trust=(public_line(SEED),)))
    vault.store.put(key, data)
    try:
        plain = vault.read_manifest(key)
    except UnderstudyError as error:
        return refused(error)
    assert plain == split(unseal(valid()[key]))[0]
    return True


def refused(error: UnderstudyError) -> bool:
    """An error of ours is one sentence that a terminal shows as it is."""
    text = str(error)
    assert text.isprintable(), text
    assert len(text) < 1000, text
    return False


@cache
def _readers():
    return {
        VECTORS: lambda vault: vectors.read(vault, "i", 1),
        FEATURES: lambda vault: read_features(vault, "v", 1),
        SET: lambda vault: read_set(vault, "s", 1),
        SHARD: _every_row,
        ARTIFACT: lambda vault: find_manifest(vault, "m"),
    }


def _every_row(vault):
    for _, rows in load_index(vault).by_pack():
        assert all(0 <= row.offset <= row.offset + row.length <= PACK_BYTES_MAX for row in rows)


@cache
def valid() -> dict[str, bytes]:
    """A valid example of everything, by its key or its kind."""
    signing = Signing("s", trust=(public_line(SEED),), private_key=lambda: private_key_text(SEED))
    vault, source, lake = open_vault(MemoryStore(), signing=signing), MemoryStore("source"), MemoryStore("lake")
    source.put("m/1/model.safetensors", safetensors(layers(2, rows=2)))
    source.put("m/1/config.json", b'{"vocab_size": 3, "hidden_size": 4}')
    push(source, vault)
    index = MemoryVectors("i")
    rows = pa.Table.from_batches([batch_of(schema_of(), [1, 2], vectors_of([[1, 2, 3], [4, 5, 6]]))])
    index.replace(schema_of(), rows, labels={"model": "m", "model_digest": find_manifest(vault, "m").digest})
    export(index, vault, index="i")
    put_history(lake, 3)
    replicate_offline(lake, vault, view="v")
    compose(vault, "s", index="i", view="v")
    found = {key: vault.store.get(key) for key in (ARTIFACT, VECTORS, FEATURES, SET, SHARD)}
    builder = PackBuilder()
    for plain in (b"abc" * 50, b"", bytes(np.random.default_rng(1).bytes(40))):
        coder, coded = encode(memoryview(plain))
        builder.add(CodedChunk(chunk_id(plain), len(plain), coder, coded))
    found["trailer"] = builder.seal().data
    found["header"] = safetensors({"a": np.zeros((2, 3), np.float32), "b": np.ones(4, np.float32)}, metadata={"k": "v"})
    found["frame"] = struct.pack("<H", 150) + encode(memoryview(b"abc" * 50))[1]
    found["manifest"] = vault.read_manifest(ARTIFACT)
    found["document"] = orjson.dumps({"weight_map": {"a": "x.safetensors"}, "vocab_size": 3})
    found["sealed"] = found[SET]
    return found


TARGETS = {
    "header": header,
    "trailer": trailer,
    "frame": frame,
    "manifest": manifest,
    "document": document,
    "sealed": sealed,
    "vectors": lambda data: stored(VECTORS, data),
    "features": lambda data: stored(FEATURES, data),
    "set": lambda data: stored(SET, data),
    "index": lambda data: stored(SHARD, data),
    "signed": lambda data: signed(ARTIFACT, data),
}
EXAMPLES = {"vectors": VECTORS, "features": FEATURES, "set": SET, "index": SHARD, "signed": ARTIFACT}


def example(target: str) -> bytes:
    """A valid input of a target; without its seal, so that a change reaches what lies behind."""
    data = valid()[EXAMPLES.get(target, target)]
    if target == "index":
        table = pq.read_table(io.BytesIO(data))
        told = orjson.loads(table.schema.metadata[b"understudy"])
        told.pop("sealed", None)
        plain = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({b"understudy": orjson.dumps(told)}), plain)
        return plain.getvalue()
    return unseal(data) if target in ("vectors", "features", "set") else data
