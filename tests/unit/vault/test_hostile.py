"""What an attacker may put into a vault: each is refused in one sentence, in little memory, and nothing is written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.models import layers, model_files, safetensors
from tests.unit.vault.hostile_child import CASES
from understudy.artifacts.catalog import all_manifests, find_manifest
from understudy.artifacts.hydrate import hydrate
from understudy.artifacts.replicate import push
from understudy.errors import Corrupt, NotFound, UnderstudyError, Unsupported
from understudy.features.manifest import newest_manifest
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.vault.chunks import CodedChunk, chunk_id
from understudy.vault.index import SCHEMA, load_index
from understudy.vault.packs import PACK_CHUNKS_MAX, PACKS_PREFIX, read_trailer
from understudy.vault.sets import newest_set
from understudy.vault.store import Vault, open_vault, to_json
from understudy.vault.verify import verify
from understudy.vault.writing import ChunkWriter
from understudy.vectors import manifest as vector_manifests

pytestmark = pytest.mark.slow  # a loop of 30 seconds has no room for it

GROWN_BYTES_MAX = 400 << 20
LETTERS_MAX = 500


@pytest.fixture(scope="module")
def outcomes():
    """What came of every case, in a process that cannot have more than a few gigabytes of addresses."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.vault.hostile_child"], capture_output=True, text=True, check=True
    )
    return {row["case"]: row for row in map(json.loads, done.stdout.splitlines())}


#: Not refused, for the result is right: the one frame has its bytes, the others are no larger than what is kept.
RIGHT = {"frame: a window of 2 GiB", "push: sixty configs of 1 MB", "index: a coder's name of 1 MB"}


@pytest.mark.parametrize("case", CASES)
def test_what_would_fill_the_memory_is_refused_in_a_sentence(outcomes, case):
    found = outcomes[case]
    if case in RIGHT:
        assert "" == found["kind"]
    else:
        assert found["kind"] in ("Corrupt", "Unsupported", "Held")
        assert 1 == len(found["sentence"].splitlines())
        assert len(found["sentence"]) < LETTERS_MAX
    assert found["grown"] < GROWN_BYTES_MAX


# ------------------------------------------------------------------ names


@pytest.fixture
def vault():
    source, opened = MemoryStore("source"), open_vault(MemoryStore("vault"))
    for path, data in model_files().items():
        source.put(f"m/1/{path}", data)
    push(source, opened)
    return opened


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def weights(value):
    """The file of a manifest's value that has several chunks."""
    return next(file for file in value["files"] if file["path"] == "model.safetensors")


KEY = "artifacts/m/1/00000001.json"


def rewritten(vault, change, key=KEY):
    """Put a manifest in place that says something else, with a digest that fits."""
    from understudy.artifacts.manifest import model_digest

    value = orjson.loads(vault.read_manifest(key))
    change(value)
    if isinstance(value.get("files"), list):
        value["digest"] = model_digest((file["path"], file["sha256"]) for file in value["files"])
    vault.store.put(key, orjson.dumps(value))


@pytest.mark.parametrize(
    "path",
    [
        "../evil",
        "a/../../evil",
        "/etc/evil",
        "..",
        ".",
        "a//b",
        "a/./b",
        "",
        "..\\evil",
        "C:\\evil",
        "a\0b",
        "a\nb",
        "a\x1b[2Jb",
        "a\x9b2Jb",
        "a\u202egnp.exe",
        "a\u2066b",
        "a\u2028b",
        "\ufeffa",
        "x" * 1025,
        "\u00e9" * 600,
    ],
)
def test_a_manifest_that_names_what_cannot_be_a_file_is_corrupt_and_nothing_is_written(vault, path, tmp_path):
    rewritten(vault, lambda value: value["files"][0].update(path=path))
    (tmp_path / "serving").mkdir()
    with pytest.raises(Corrupt, match="names the file") as refused:
        hydrate(vault, FileStore(tmp_path / "serving"), model="m")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < LETTERS_MAX
    assert ["serving"] == names_in(tmp_path)
    assert [] == names_in(tmp_path / "serving")


def test_a_name_too_long_for_a_disk_is_refused_in_a_sentence(vault, tmp_path):
    rewritten(vault, lambda value: value["files"][0].update(path="x" * 300))
    with pytest.raises(Unsupported, match=r"cannot be a file's name in .*: File name too long"):
        hydrate(vault, FileStore(tmp_path), model="m")
    assert not (tmp_path / "pointers").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda value: value["files"][0].update(size=1), "do not add up to its 1 bytes"),
        (lambda value: weights(value)["chunks"].pop(), "do not add up"),
        (lambda value: weights(value)["chunks"][0].__setitem__(1, -4), "should be a count"),
        (lambda value: weights(value)["chunks"][0].__setitem__(0, "../../x"), "should be 64 hex digits"),
        (lambda value: value["files"].append(value["files"][0]), "twice"),
        (lambda value: value["files"][0].update(path="model.safetensors/x"), "both as a file and as a directory"),
        (lambda value: value.update(files=[]), "has no files"),
        (lambda value: value.update(files=7), "is not a manifest"),
        (lambda value: value.update(revision=2), "says that it is m 1 revision 2"),
        (lambda value: value.update(model="../x"), "has the name"),
        (lambda value: value.update(tags=[1]), "is not a manifest"),
        (lambda value: value.update(parent=[1]), "is not a manifest"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_corrupt(vault, change, words):
    rewritten(vault, change)
    with pytest.raises(Corrupt, match=words):
        find_manifest(vault, "m")


@pytest.mark.parametrize(
    "key",
    [
        "artifacts/m/1/1.json",
        "artifacts/m/1/\u00b2.json",
        "artifacts/m/1/\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668.json",
        "artifacts/m/1/0000000000000002.json",
        "index/\u00b2/00000.parquet",
        "index/1/00000.parquet",
        "sets/s/\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668.json",
        "vectors/i/\u00b2/manifest.json",
        "features/v/\u00b2.json",
    ],
)
def test_numbers_in_other_scripts_or_lengths_are_no_sequences(vault, key):
    vault.store.put(key, b"{}")
    assert ["1"] == [manifest.version for manifest in all_manifests(vault)]
    assert 1 == len(load_index(vault).live)
    assert (None, None, None) == (
        newest_set(vault, "s"),
        vector_manifests.newest(vault, "i"),
        newest_manifest(vault, "v"),
    )


# ------------------------------------------------------------------ other manifests


@pytest.mark.parametrize(
    "value",
    [
        [],
        7,
        None,
        "x",
        {},
        {"format": 1},
        {"format": 2},
        {"view": "v", "sequence": 1, "watermark": "2026-11-21T00:00:00", "schema": {}, "files": [], "vanished": []},
        {"service": "s", "sequence": 2, "model": {}, "index": None, "features": None, "held": []},
    ],
)
@pytest.mark.parametrize(
    ("key", "read"),
    [
        ("vectors/i/00000001/manifest.json", lambda vault: vector_manifests.newest(vault, "i")),
        ("features/v/00000001.json", lambda vault: newest_manifest(vault, "v")),
        ("sets/s/00000001.json", lambda vault: newest_set(vault, "s")),
        (KEY, lambda vault: find_manifest(vault, "m")),
    ],
)
def test_what_is_no_manifest_is_never_more_than_an_error_of_ours(vault, key, read, value):
    vault.store.put(key, to_json(value))
    with pytest.raises((Corrupt, Unsupported)):
        read(vault)
    if not value or not isinstance(value, dict):
        assert not verify(vault, deep=False).ok


@pytest.mark.parametrize("stored", ["../../artifacts/m", "/etc/passwd", "a//b", "a\0"])
def test_features_that_name_a_file_outside_of_their_view_are_corrupt(vault, stored):
    from blake3 import blake3

    digest = "00" * 32
    file = {"key": "history/a", "stored": stored, "size": 1, "blake3": digest, "token": "", "rows": 1}
    value = {
        "view": "v",
        "sequence": 1,
        "watermark": "2026-11-21T00:00:00+00:00",
        "schema": {},
        "files": [file],
        "vanished": [],
        "digest": blake3(f"{digest}  history/a\n".encode()).hexdigest(),
    }
    vault.store.put("features/v/00000001.json", to_json(value))
    with pytest.raises(Corrupt):
        newest_manifest(vault, "v")
    value["files"][0]["stored"] = "history/a"
    vault.store.put("features/v/00000001.json", to_json(value))
    assert "history/a" == newest_manifest(vault, "v").files[0].stored


# ------------------------------------------------------------------ packs and the index


def index_of(vault):
    [info] = vault.store.list("index/")
    return info.key, pq.read_table(io.BytesIO(vault.store.get(info.key)))


def put_index(vault, key, table, metadata=None):
    kept = orjson.loads(table.schema.metadata[b"understudy"]) if metadata is None else metadata
    if isinstance(kept, dict):
        kept.pop("sealed", None)  # an attacker takes the seal off, or makes it anew
    target = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({b"understudy": orjson.dumps(kept)}), target)
    vault.store.put(key, target.getvalue())


def column(table, name, values):
    place = table.schema.get_field_index(name)
    return table.set_column(place, SCHEMA.field(name), pa.array(values, SCHEMA.field(name).type))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("offset", -1, "outside of what a pack can hold"),
        ("offset", 1 << 40, "outside of what a pack can hold"),
        ("offset", (1 << 63) - 1, "outside of what a pack can hold"),
        ("length", -1, "outside of what a pack can hold"),
        ("length", (1 << 31) - 1, "outside of what a pack can hold"),
        ("raw_length", -1, "outside of what a pack can hold"),
        ("raw_length", (1 << 31) - 1, "outside of what a pack can hold"),
        ("pack", "../../artifacts/m/1/00000001.json", "no pack"),
        ("pack", "", "no pack"),
    ],
)
def test_an_index_that_lies_is_corrupt(vault, name, value, words):
    key, table = index_of(vault)
    put_index(vault, key, column(table, name, [value] * table.num_rows))
    with pytest.raises(Corrupt, match=words):
        load_index(vault)


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.drop_columns(["offset"]),
        lambda table: table.append_column("more", pa.nulls(table.num_rows)),
        lambda table: table.set_column(0, "id", pa.array(["x"] * table.num_rows)),
        lambda table: table.set_column(0, "id", pa.array([b"x" * 31] * table.num_rows, pa.binary(31))),
        lambda table: table.set_column(2, "offset", pa.array(["0"] * table.num_rows)),
        lambda table: table.set_column(2, "offset", pa.array([None] * table.num_rows, pa.int64())),
        lambda table: table.set_column(3, "length", pa.array([0.5] * table.num_rows)),
    ],
    ids=["lacks", "more", "text ids", "short ids", "text", "nulls", "floats"],
)
def test_an_index_of_other_columns_is_corrupt(vault, change):
    key, table = index_of(vault)
    put_index(vault, key, change(table))
    with pytest.raises(Corrupt, match=r"damaged: (it has other columns|a row lacks)"):
        load_index(vault)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        [],
        {"format": 1},
        {"format": 1, "shards": "1"},
        {"format": 1, "shards": -1},
        {"format": 1, "shards": 1, "replaces": [[1]]},
        {"format": 1, "shards": 1, "replaces": [["a", "b"]]},
        {"format": 1, "shards": 1, "packs": {"x": [1, None]}},
        {"format": 1, "shards": 1, "packs": {"ab" * 32: 7}},
        {"format": 1, "shards": 1, "packs": {"ab" * 32: [1, 7]}},
        {"format": 2, "shards": 1},
    ],
)
def test_an_index_whose_metadata_lies_is_corrupt(vault, metadata):
    key, table = index_of(vault)
    put_index(vault, key, table, metadata)
    with pytest.raises(Corrupt, match=f"index shard {re.escape(key)} .* is damaged"):
        load_index(vault)


def test_an_index_that_leads_to_other_bytes_restores_nothing(vault):
    key, table = index_of(vault)
    put_index(vault, key, column(table, "offset", [offset + 1 for offset in table["offset"].to_pylist()]))
    target = MemoryStore()
    with pytest.raises(Corrupt):
        hydrate(vault, target, model="m")
    assert [] == [info.key for info in target.list("pointers/")]


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data[:40], lambda data: data[:0], lambda data: b"x" + data]
)
def test_a_pack_of_another_length_restores_nothing_wrong(vault, change):
    infos = list(vault.store.list(PACKS_PREFIX))
    for info in infos:
        vault.store.put(info.key, change(vault.store.get(info.key)))
    with contextlib.suppress(Corrupt):  # without its last byte a pack still has all its chunks
        hydrate(vault, target := MemoryStore(), model="m")
        assert model_files() == {path: target.get(f"m/1/{path}") for path in model_files()}
    assert not verify(vault, deep=False).ok
    for info in vault.store.list(PACKS_PREFIX):
        with pytest.raises(Corrupt):
            read_trailer(vault.store, info)


def test_many_tiny_chunks_close_a_pack_before_its_list_is_too_long(monkeypatch):
    monkeypatch.setattr("understudy.vault.writing.PACK_CHUNKS_MAX", 10)
    vault = open_vault(MemoryStore())
    with ChunkWriter(vault) as writer:
        for number in range(25):
            plain = number.to_bytes(4, "little")
            writer.add(CodedChunk(chunk_id(plain), 4, "raw", plain))
        writer.commit()
    counts = [len(read_trailer(vault.store, info)) for info in vault.store.list(PACKS_PREFIX)]
    assert [5, 10, 10] == sorted(counts)
    assert PACK_CHUNKS_MAX * 170 < 64 << 20


# ------------------------------------------------------------------ disks


def test_a_symbolic_link_in_the_serving_folder_leads_no_byte_out_of_it(vault, tmp_path):
    serving, outside = tmp_path / "serving", tmp_path / "outside"
    outside.mkdir()
    (serving / "m").mkdir(parents=True)
    (serving / "m" / "1").symlink_to(outside)
    with pytest.raises(Unsupported, match=r"a symbolic link leads 'm/1.*' out of file://"):
        hydrate(vault, FileStore(serving), model="m")
    assert [] == names_in(outside)
    (serving / "m" / "1").unlink()
    (serving / "pointers").symlink_to(outside)
    with pytest.raises(Unsupported, match="out of file://"):
        hydrate(vault, FileStore(serving), model="m")
    assert [] == names_in(outside)


def test_the_folder_of_half_written_files_may_not_lead_out_either(tmp_path):
    (tmp_path / "serving").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "serving" / ".understudy").symlink_to(tmp_path / "outside")
    with pytest.raises(Unsupported, match="out of file://"):
        FileStore(tmp_path / "serving").put("a", b"x")
    assert [] == names_in(tmp_path / "outside")


@pytest.fixture
def disk(tmp_path):
    """A source on a disk with one model, and a secret beside it."""
    (tmp_path / "secret").write_bytes(b"root:x")
    folder = tmp_path / "models" / "m" / "1"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(safetensors(layers(1)))
    return FileStore(tmp_path / "models"), folder


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda folder: (folder / "x").symlink_to(folder.parents[2] / "secret"),
            "a symbolic link leads 'm/1/x' out of",
        ),
        (lambda folder: (folder / "x").symlink_to("/etc"), "a symbolic link leads 'm/1/x' out of"),
        (lambda folder: (folder / "x").symlink_to("../../../secret"), "a symbolic link leads 'm/1/x' out of"),
        (lambda folder: (folder / "x").symlink_to("nothing"), "'m/1/x' .* leads nowhere, or back"),
        (lambda folder: (folder / "x").symlink_to("."), "'m/1/x' .* leads nowhere, or back"),
        (lambda folder: (folder / "x").symlink_to(".."), "'m/1/x' .* leads nowhere, or back"),
        (lambda folder: os.mkfifo(folder / "x"), "'m/1/x' .* is neither a file nor a folder"),
        (lambda folder: (folder / "x").symlink_to("/dev/zero"), "a symbolic link leads 'm/1/x' out of"),
    ],
    ids=["file", "folder", "relative", "dangling", "itself", "above", "pipe", "device"],
)
def test_what_is_no_file_at_the_source_is_refused_by_name_and_never_left_out(disk, spoil, words):
    store, folder = disk
    spoil(folder)
    with pytest.raises(Unsupported, match=words):
        push(store, open_vault(MemoryStore()))
    with pytest.raises(UnderstudyError):
        store.get("m/1/x")
    with pytest.raises(UnderstudyError):
        store.head("m/1/x")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device files")
def test_a_device_at_the_source_is_refused_and_never_read(disk):
    store, folder = disk
    os.mknod(folder / "zero", 0o600 | 0o020000, os.makedev(1, 5))
    with pytest.raises(Unsupported, match="neither a file nor a folder"):
        push(store, open_vault(MemoryStore()))
    with pytest.raises(Unsupported, match="neither a file nor a folder"):
        store.get_range("m/1/zero", 0, 10)


def test_a_symbolic_link_that_stays_in_the_folder_is_followed(disk):
    store, folder = disk
    (folder / "same.safetensors").symlink_to("model.safetensors")
    (folder.parent / "2").symlink_to("1")
    assert ["changed", "changed"] == [report.verdict for report in push(store, open_vault(MemoryStore()))]


class Folding(MemoryStore):
    """A target that takes names which differ in case for one, as some disks do."""

    def put_stream(self, key, parts, size):
        return super().put_stream(key.lower(), parts, size)

    def head(self, key):
        return super().head(key.lower())


def test_names_that_differ_in_case_are_not_served_from_a_disk_that_folds_it():
    source, vault = MemoryStore("source"), open_vault(MemoryStore())
    files = {"a.bin": b"one", "A.bin": b"two"}
    for path, data in files.items():
        source.put(f"m/1/{path}", data)
    push(source, vault, accept_change="they are meant")
    hydrate(vault, target := MemoryStore(), model="m")
    assert files == {path: target.get(f"m/1/{path}") for path in files}
    folding = Folding("folding")
    with pytest.raises(Unsupported, match=r"takes .* for one file"):
        hydrate(vault, folding, model="m")
    with pytest.raises(NotFound):
        folding.get("pointers/m.json")


def test_a_hostile_pointer_is_corrupt_or_absent_never_more(vault):
    for data in (b"[" * 100_000, b"\xff", b"", b'{"a": NaN}', b"9" * 5000):
        vault.store.put("pointers/x.json", data)
        with pytest.raises(Corrupt, match=r"pointers/x\.json .* is not JSON that can be read"):
            Vault(vault.store).pointer("pointers/x.json")


def test_a_number_beyond_64_bits_is_no_length():
    text = b'{"a":{"dtype":"U8","shape":[18446744073709551617],"data_offsets":[0,18446744073709551617]}}'
    from understudy.artifacts.layouts.safetensors import read_layout

    with pytest.raises(Corrupt):
        read_layout(text, len(text) + 8)
    assert np.iinfo(np.uint64).max < 18446744073709551617
