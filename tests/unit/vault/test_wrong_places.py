"""An index is not signed: a row that lies makes a chunk unreadable, in one sentence, and never different bytes."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from understudy.errors import Corrupt, Permanent, Unsupported
from understudy.objects.memory import MemoryStore
from understudy.vault.chunks import CHAIN_MAX, Chunk, CodedChunk, chunk_id
from understudy.vault.coders import Grain, encode, encode_delta
from understudy.vault.index import append_index, load_index
from understudy.vault.packs import PACKS_PREFIX, PackBuilder, pack_key
from understudy.vault.reading import ChunkReader
from understudy.vault.store import open_vault
from understudy.vault.writing import ChunkWriter

WEIGHTS = Grain("F32", 64)
WORDS = 16_384


def weights(seed, nudge=0.0, base=None):
    made = np.random.default_rng(seed).standard_normal(WORDS).astype("<f4")
    return (made if base is None else np.frombuffer(base, "<f4") + nudge * made).astype("<f4").tobytes()


def coded(data, base=None):
    if base is None:
        coder, frame = encode(memoryview(data), WEIGHTS)
        return CodedChunk(chunk_id(data), len(data), coder, frame)
    frame = encode_delta(memoryview(data), base, WEIGHTS)
    assert frame is not None, "the data of this test is not worth a delta"
    return CodedChunk(chunk_id(data), len(data), "delta", frame, chunk_id(base))


FIRST, STRANGER, SHORT = weights(1), weights(2), weights(3)[:-256]
SECOND = weights(4, 1e-4, FIRST)
THIRD = weights(5, 1e-4, SECOND)
TEXT = b"plain words, " * 1000
CHUNKS = {
    "first": coded(FIRST),
    "stranger": coded(STRANGER),
    "short": coded(SHORT),
    "second": coded(SECOND, FIRST),
    "third": coded(THIRD, SECOND),
    "text": CodedChunk(chunk_id(TEXT), len(TEXT), *encode(memoryview(TEXT))),
}
PLAIN = {"first": FIRST, "stranger": STRANGER, "short": SHORT, "second": SECOND, "third": THIRD, "text": TEXT}


@pytest.fixture
def vault():
    made = open_vault(MemoryStore("vault"))
    with ChunkWriter(made) as writer:
        for chunk in CHUNKS.values():
            writer.add(chunk)
        writer.commit()
    return made


def read(vault, name):
    data = PLAIN[name]
    with ChunkReader(vault) as reader:
        return b"".join(reader.stream([Chunk(chunk_id(data), len(data))], "m/1/model.bin"))


def lie(vault, **changes):
    """Write the index anew with these rows changed, by the name of their chunk; nothing else is in it."""
    index = load_index(vault)
    rows = {row.id: row for _, found in index.by_pack() for row in found}
    for info in list(vault.store.list("index/")):
        vault.store.delete(info.key)
    for name, change in changes.items():
        row = rows[CHUNKS[name].id]
        rows[row.id] = replace(row, **change(rows) if callable(change) else change)
    append_index(vault, load_index(vault), list(rows.values()), index.packs)


def test_what_the_index_says_right_is_read(vault):
    assert PLAIN == {name: read(vault, name) for name in PLAIN}
    assert {"first": "planes", "second": "delta", "third": "delta", "text": "zstd"} == {
        name: CHUNKS[name].coder for name in ("first", "second", "third", "text")
    }


def base_of(name):
    return {"base": chunk_id(PLAIN[name])}


def as_of(name):
    """Return a change that has a row point where another chunk lies, with that one's coder and base."""

    def change(rows):
        other = rows[CHUNKS[name].id]
        return {"offset": other.offset, "length": other.length, "coder": other.coder, "base": other.base}

    return change


LIES = {
    "the base is another chunk": {"second": base_of("stranger")},
    "the base is the chunk after it": {"second": base_of("third")},
    "the base is the chunk itself": {"second": base_of("second")},
    "the base is shorter": {"second": base_of("short")},
    "the base is in no pack": {"second": {"base": bytes(32)}},
    "there is no base": {"second": {"base": None}},
    "there is a base too many": {"first": base_of("stranger")},
    "text has a base": {"text": base_of("text")},
    "the coder is raw": {"second": {"coder": "raw", "base": None}},
    "the coder is zstd": {"second": {"coder": "zstd", "base": None}},
    "the coder is planes": {"second": {"coder": "planes", "base": None}},
    "the coder of planes is raw": {"first": {"coder": "raw"}},
    "the coder of planes is zstd": {"first": {"coder": "zstd"}},
    "the coder of planes is delta": {"first": {"coder": "delta", **base_of("stranger")}},
    "the coder of text is planes": {"text": {"coder": "planes"}},
    "the place is another chunk's": {"first": as_of("stranger")},
    "the place is another delta's": {"second": as_of("third")},
    "the frame is cut": {"second": lambda rows: {"length": rows[CHUNKS["second"].id].length - 1}},
    "the frame begins later": {"second": lambda rows: {"offset": rows[CHUNKS["second"].id].offset + 1}},
    "the frame is empty": {"second": {"length": 0}},
    "the plain length is another": {"second": {"raw_length": len(SECOND) - 4}},
    "the plain length is nothing": {"second": {"raw_length": 0}},
    "the plain length is huge": {"second": {"raw_length": 16 << 20}},
    "the pack is none": {"second": {"pack": "0" * 64}},
}


#: Which chunks are decoded from which.
STANDING = {"first": {"first", "second", "third"}, "second": {"second", "third"}, "third": {"third"}, "text": {"text"}}


def outcome(vault, name):
    """Return what reading a chunk gives: its bytes, or the sentence that says why not."""
    try:
        return read(vault, name)
    except Corrupt as error:
        return error.message


@pytest.mark.parametrize("what", LIES)
def test_a_row_that_lies_ends_in_one_sentence_and_never_in_other_bytes(vault, what):
    lie(vault, **LIES[what])
    found = {name: outcome(vault, name) for name in PLAIN}
    hurt = {name for name, outcome in found.items() if isinstance(outcome, str)}
    assert set().union(*(STANDING[name] for name in LIES[what])) == hurt
    assert {name: PLAIN[name] for name in PLAIN.keys() - hurt} == {name: found[name] for name in PLAIN.keys() - hurt}
    for name in hurt:
        assert "\n" not in found[name]
        assert "m/1/model.bin" in found[name], "the sentence names the file"
        culprits = {name, *LIES[what]}
        assert any(CHUNKS[each].id.hex() in found[name] for each in culprits), "and a chunk"


def test_a_coder_that_nobody_knows_is_unsupported_by_name(vault):
    lie(vault, second={"coder": "delta9"})
    with pytest.raises(Unsupported, match="'delta9', which this version of understudy does not know"):
        read(vault, "second")


def test_bases_in_a_circle_or_without_end_are_not_followed(vault):
    lie(vault, first={"coder": "delta", "base": chunk_id(THIRD)})
    for name in ("first", "second", "third"):
        with pytest.raises(Corrupt, match=f"stands on more than {CHAIN_MAX} others"):
            read(vault, name)
    assert STRANGER == read(vault, "stranger")


def test_a_lie_beside_the_truth_is_passed_over(vault):
    """The place written last is tried first; one that is wrong there does not hide an older one that is right."""
    index = load_index(vault)
    rows = {row.id: row for _, found in index.by_pack() for row in found}
    with ChunkWriter(open_vault(MemoryStore("other"))) as writer:
        writer.add(CHUNKS["stranger"])
        writer.add(CHUNKS["second"])
        writer.commit()
        for info in writer.vault.store.list(PACKS_PREFIX):
            vault.store.put(info.key, writer.vault.store.get(info.key))
        planted = [row for _, found in writer.index.by_pack() for row in found]
    append_index(vault, index, [replace(row, base=chunk_id(STRANGER)) for row in planted if row.base], {})
    assert 2 == len(list(load_index(vault).find_all(CHUNKS["second"].id)))
    assert rows[CHUNKS["second"].id].pack != load_index(vault).find(CHUNKS["second"].id).pack
    assert (SECOND, THIRD) == (read(vault, "second"), read(vault, "third"))


def test_a_pack_that_lies_of_its_bases_is_adopted_and_read_by_nobody_as_something_else(vault):
    """What a stranger plants is adopted by the next push, for a pack says what it holds; its ids are proven later."""
    builder = PackBuilder()
    made = weights(6, 1e-4, FIRST)
    builder.add(replace(coded(made, FIRST), base=chunk_id(STRANGER)))
    builder.add(replace(CHUNKS["text"], id=chunk_id(b"other words")))
    sealed = builder.seal()
    vault.store.create(pack_key(sealed.name), sealed.data)
    with ChunkWriter(vault) as writer:
        assert 1 == writer.packs_adopted
        writer.commit()
    with ChunkReader(vault) as reader:
        for data in (made, b"other words"):
            with pytest.raises(Corrupt, match=f"chunk {chunk_id(data).hex()} of it"):
                list(reader.stream([Chunk(chunk_id(data), len(data))], "it"))
    assert PLAIN == {name: read(vault, name) for name in PLAIN}


@pytest.mark.parametrize("base", [b"short", bytes(31), bytes(33)])
def test_a_shard_whose_bases_are_no_ids_is_refused_whole(vault, base):
    [info] = vault.store.list("index/")
    table = pq.read_table(io.BytesIO(vault.store.get(info.key)))
    names = table.schema.get_field_index("base")
    wrong = pa.array([base] * table.num_rows, pa.binary(len(base)))
    told = {b"understudy": b'{"format": 1, "shards": 1}'}
    changed = table.set_column(names, "base", wrong).replace_schema_metadata(told)
    target = io.BytesIO()
    pq.write_table(changed, target)
    vault.store.put(info.key, target.getvalue())
    with pytest.raises(Permanent, match="it has other columns than an index"):
        load_index(vault)
