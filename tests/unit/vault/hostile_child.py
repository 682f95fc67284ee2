"""Feeds a vault's readers what an attacker would, in a process with little memory; prints what came of each.

Run as ``python -m tests.unit.vault.hostile_child``: a line a case, JSON: its name, the error's class and sentence, and
by how many bytes the process grew at its largest while the case ran, the making of its input included.
"""

from __future__ import annotations

import gc
import io
import json
import re
import resource
import struct
import sys
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.models import model_files, safetensors
from understudy.artifacts.catalog import read_manifest
from understudy.artifacts.layouts.safetensors import header_length, read_layout
from understudy.artifacts.manifest import decode_manifest
from understudy.artifacts.replicate import push
from understudy.objects.interface import ObjectInfo
from understudy.objects.memory import MemoryStore
from understudy.vault import index
from understudy.vault.chunks import RAW_BYTES_MAX, chunk_id
from understudy.vault.coders import decode
from understudy.vault.index import SCHEMA, SHARD_ROWS_MAX, load_index
from understudy.vault.packs import MAGIC, pack_key, read_trailer
from understudy.vault.store import Vault, open_vault
from understudy.vectors.manifest import newest

HEADROOM_BYTES = 6 << 30
MANIFEST = "artifacts/m/1/00000001.json"


class Endless(MemoryStore):
    """A store in which one object claims a size; to read it is the mistake."""

    def __init__(self, key, size):
        super().__init__()
        self._claims = (key, size)

    def _claimed(self):
        key, size = self._claims
        return ObjectInfo(key, size, "1", None, self.now())

    def list(self, prefix=""):
        return iter([self._claimed()] if self._claims[0].startswith(prefix) else [])

    def head(self, key):
        return self._claimed() if key == self._claims[0] else super().head(key)

    def get(self, key, *, version=None):
        if key == self._claims[0]:
            raise MemoryError(key)
        return super().get(key, version=version)


def compressed(plain, *, sized=True):
    return zstandard.ZstdCompressor(level=3, write_content_size=sized).compress(plain)


def zeros(count):
    """A frame of zeros that never lie in memory together."""
    packer = zstandard.ZstdCompressor(level=3).compressobj(size=count)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(count >> 20)]
    return b"".join([*parts, packer.flush()])


def lying_frame(count, says):
    """A frame of ``count`` zeros whose header declares another length."""
    frame = bytearray(zeros(count))
    place = frame.index(struct.pack("<I", count), 4)
    frame[place : place + 4] = struct.pack("<I", says)
    return bytes(frame)


def wide_window(log, says):
    """A frame of one raw block whose header asks for a window of 2 to the ``log``."""
    block = b"x" * says
    return (
        b"\x28\xb5\x2f\xfd\x80"  # four bytes of content size, no single segment
        + bytes([(log - 10) << 3])
        + struct.pack("<I", says)
        + (says << 3 | 1).to_bytes(3, "little")
        + block
    )


def pack_with(trailer):
    data = trailer + struct.pack("<Q", len(trailer)) + MAGIC
    store = MemoryStore()
    return store, store.create(pack_key(chunk_id(data).hex()), data)


def stored(key, data):
    vault = open_vault(MemoryStore())
    vault.store.put(key, data)
    return vault


def safetensors_header(text):
    data = struct.pack("<Q", len(text)) + text
    return read_layout(data[8 : 8 + header_length(data[:8], len(data))], len(data))


def shard(table, **options):
    target = io.BytesIO()
    metadata = {"format": 1, "shards": 1, "replaces": [], "packs": {}}
    pq.write_table(table.replace_schema_metadata({b"understudy": orjson.dumps(metadata)}), target, **options)
    return stored("index/00000001/00000.parquet", target.getvalue())


def rows(count, coder="raw"):
    columns = [
        pa.array([bytes(32)], pa.binary(32)).take(pa.array([0] * count)),
        pa.DictionaryArray.from_arrays(pa.array([0] * count), pa.array(["00" * 32])).cast(pa.string()),
        *(pa.array([0] * count, kind) for kind in (pa.int64(), pa.int32(), pa.int32())),
        pa.DictionaryArray.from_arrays(pa.array([0] * count), pa.array([coder])).cast(pa.string()),
        pa.nulls(count, pa.binary(32)),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def lists(count):
    return b"[" + b"[]," * count + b"[]]"


def long_names():
    index._SHARD_BYTES_MAX = 16 << 20
    load_index(shard(rows(3, "x" * 10_000_000), use_dictionary=False, compression="zstd", write_statistics=False))


def pushed(path, data):
    source = MemoryStore()
    for name, content in (model_files() | {path: data}).items():
        source.put(f"m/1/{name}", content)
    [report] = push(source, open_vault(MemoryStore()))
    if report.verdict == "held":
        raise Held(report.sentence)


def complain(**changes):
    vault = open_vault(MemoryStore())
    source = MemoryStore()
    source.put("m/1/a.bin", b"abc")
    push(source, vault)
    value = orjson.loads(vault.read_manifest(MANIFEST))
    value["files"][0] |= changes
    decode_manifest(orjson.dumps(value), MANIFEST)


class Held(Exception):
    """Not an error: the push held the version, with this reason."""


CASES = {
    "frame: a bomb of 1 GiB": lambda: decode("zstd", zeros(1 << 30), 1 << 30),
    "frame: a bomb of 1 GiB, expected to be 16 MiB": lambda: decode("zstd", zeros(1 << 30), RAW_BYTES_MAX),
    "frame: 1 GiB that says 16 MiB": lambda: decode("zstd", lying_frame(1 << 30, RAW_BYTES_MAX), RAW_BYTES_MAX),
    "frame: no size": lambda: decode("zstd", compressed(bytes(1 << 24), sized=False), 1 << 24),
    "frame: two frames": lambda: decode("zstd", compressed(b"ab") + zeros(1 << 30), 2),
    "frame: a skippable one": lambda: decode("zstd", b"\x50\x2a\x4d\x18" + struct.pack("<I", 3) + b"abc", 3),
    "frame: a window of 2 GiB": lambda: decode("zstd", wide_window(31, 1000), 1000),
    "trailer: 60 MiB of lists": lambda: read_trailer(*pack_with(compressed(lists(20 << 20)))),
    "trailer: a bomb of 1 GiB": lambda: read_trailer(*pack_with(zeros(1 << 30))),
    "trailer: 1 GiB that says 60 MiB": lambda: read_trailer(*pack_with(lying_frame(1 << 30, 60 << 20))),
    "trailer: no size": lambda: read_trailer(*pack_with(compressed(bytes(1 << 20), sized=False))),
    "trailer: a window of 2 GiB": lambda: read_trailer(*pack_with(wide_window(31, 1000))),
    "trailer: nested": lambda: read_trailer(*pack_with(compressed(b"[" * 10_000_000))),
    "pack: 1 TB": lambda: read_trailer(store := Endless(pack_key("ab" * 32), 1 << 40), next(store.list())),
    "manifest: 1 TB": lambda: read_manifest(Vault(Endless(MANIFEST, 1 << 40)), "m", "1", 1),
    "manifest: 60 MiB of lists": lambda: decode_manifest(lists(20 << 20), MANIFEST),
    "manifest: nested": lambda: decode_manifest(b"[" * 10_000_000, MANIFEST),
    "manifest: a number of 10 MB": lambda: decode_manifest(b'{"format": ' + b"9" * 10_000_000 + b"}", MANIFEST),
    "vectors: 1 TB": lambda: newest(Vault(Endless("vectors/i/00000001/manifest.json", 1 << 40)), "i"),
    "vectors: nested": lambda: newest(stored("vectors/i/00000001/manifest.json", b"[" * 10_000_000), "i"),
    "pointer: 1 TB": lambda: Vault(Endless("pointers/x.json", 1 << 40)).pointer("pointers/x.json"),
    "pointer: 1 TB to be moved": lambda: Vault(Endless("pointers/x.json", 1 << 40)).move_pointer(
        "pointers/x.json", lambda found: found
    ),
    "pointer: 60 MiB of lists": lambda: stored("pointers/x.json", lists(20 << 20)).pointer("pointers/x.json"),
    "format: 1 TB": lambda: open_vault(Endless("format.json", 1 << 40)),
    "header: 100 MB": lambda: safetensors_header(b"{" + b" " * 99_999_990 + b"}"),
    "header: 16 MiB of lists": lambda: safetensors_header(lists(5 << 20)),
    "header: nested": lambda: safetensors_header(b'{"a":' * 3_000_000),
    "push: a header of 100 MB": lambda: pushed(
        "model.safetensors", struct.pack("<Q", 99_999_992) + b"{" + b" " * 99_999_990 + b"}"
    ),
    "push: a tokenizer of 60 MiB of lists": lambda: pushed("tokenizer.json", lists(20 << 20)),
    "push: a tokenizer that is nested": lambda: pushed("tokenizer.json", b"[" * 10_000_000),
    "push: sixty configs of 1 MB": lambda: pushed_many(60, 1 << 20),
    "index: 1 TB": lambda: load_index(Vault(Endless("index/00000001/00000.parquet", 1 << 40))),
    "index: twice the rows": lambda: load_index(shard(rows(2 * SHARD_ROWS_MAX))),
    "index: a coder's name of 10 MB in every row": long_names,
    "index: a coder's name of 1 MB": lambda: load_index(shard(rows(2, "x" * 1_000_000), write_statistics=False)),
    "coder: a name of 10 MB": lambda: decode("x" * 10_000_000, b"", 0),
    "manifest: a path of 10 MB": lambda: complain(path="x" * 10_000_000),
    "manifest: a size that is 10 MB of text": lambda: complain(size="x" * 10_000_000),
    "header: a name of 10 MB": lambda: safetensors_header(b'{"' + b"x" * 10_000_000 + b'": 1}'),
    "push: a tensor's name of 10 MB": lambda: pushed(
        "model.safetensors",
        struct.pack("<Q", 10_000_060)
        + (b'{"' + b"x" * 9_999_999 + b'":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}').ljust(10_000_060)
        + b"ab",
    ),
}


def pushed_many(count, size):
    source = MemoryStore()
    for number in range(count):
        source.put(f"m/1/{number}/config.json", b'{"a": "' + b"x" * size + b'"}')
    source.put("m/1/model.safetensors", safetensors({}))
    push(source, open_vault(MemoryStore()))


def peak_bytes():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))[1]) << 10


def main():
    virtual = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))[1]) << 10
    resource.setrlimit(resource.RLIMIT_AS, (virtual + HEADROOM_BYTES,) * 2)
    for name, case in CASES.items():
        kind = sentence = ""
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew at what is held now
        before = peak_bytes()
        try:
            case()
        except Exception as error:  # noqa: BLE001 - whatever comes is what is looked at
            kind, sentence = type(error).__name__, str(error)
        line = {"case": name, "kind": kind, "sentence": sentence, "grown": peak_bytes() - before}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
