"""Some tensors of a version: a file that the safetensors library loads, of few bytes of the vault, each proven."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from tests.models import safetensors
from tests.unit.artifacts import torch_file
from understudy.artifacts.manifest import manifest_key
from understudy.artifacts.replicate import push
from understudy.artifacts.subset import choose, layer_of, pull_tensors
from understudy.artifacts.vault_file import VaultFile
from understudy.errors import Corrupt, NotFound, Refused, Unsupported
from understudy.objects.memory import MemoryStore
from understudy.vault.reading import ChunkReader
from understudy.vault.store import open_vault

rng = np.random.default_rng(3)
FIRST = {
    "model.embed_tokens.weight": rng.standard_normal((100, 64), np.float32),
    "model.layers.0.q.weight": rng.standard_normal((1500, 1500), np.float32),
    "model.layers.0.bias": rng.standard_normal(5, np.float32),
    "model.layers.1.q.weight": rng.standard_normal((64, 64), np.float32),
}
SECOND = {
    "model.layers.2.q.weight": rng.standard_normal((64, 64), np.float32),
    "model.layers.10.q.weight": rng.standard_normal((64, 64), np.float32),
    "model.norm.weight": rng.standard_normal(64, np.float32),
    "empty": np.zeros((0, 4), np.float32),
}
ALL = FIRST | SECOND


def pushed(files, store=None):
    source, vault = MemoryStore("source"), open_vault(store or MemoryStore("vault"))
    for path, data in files.items():
        source.put(f"m/1/{path}", data)
    (report,) = push(source, vault)
    assert "changed" == report.verdict, report.sentence
    return vault


SHARDS = {
    "model-00001-of-00002.safetensors": safetensors(FIRST, metadata={"format": "pt"}),
    "model-00002-of-00002.safetensors": safetensors(SECOND, metadata={"format": "pt", "more": "é"}),
    "tokenizer.json": b"{}",
}


@pytest.fixture(scope="module")
def vault():
    return pushed(SHARDS)


def pulled(vault, folder, **wanted):
    report = pull_tensors(vault, folder, model="m", **wanted)
    return report, load_file(folder / "m" / "1.subset.safetensors")


def test_the_tensors_that_were_named_are_a_file_that_loads_bit_for_bit(vault, tmp_path):
    report, found = pulled(vault, tmp_path, patterns=["model.layers.[01].*", "model.norm.*"])
    names = {name for name in ALL if name.startswith(("model.layers.0.", "model.layers.1.", "model.norm"))}
    assert names == set(found)
    assert all(ALL[name].tobytes() == found[name].tobytes() for name in names)
    assert (len(names), len(ALL), "1") == (report.items_new, report.items_total, report.version)
    assert ["m"] == [each.name for each in tmp_path.iterdir()]


def test_what_the_files_say_of_themselves_is_kept_for_the_libraries_that_ask(vault, tmp_path):
    pulled(vault, tmp_path, patterns=["empty"])
    with safe_open(tmp_path / "m" / "1.subset.safetensors", "np") as file:
        assert {"format": "pt", "more": "é"} == file.metadata()
        assert [0, 4] == file.get_slice("empty").get_shape()


def test_only_the_chunks_of_these_tensors_and_the_headers_are_read(vault, tmp_path):
    report, _ = pulled(vault, tmp_path, patterns=["model.layers.2.q.weight"])
    headers = sum(len(data) for data in SHARDS.values()) - sum(array.nbytes for array in ALL.values())
    assert report.bytes_read <= ALL["model.layers.2.q.weight"].nbytes + headers
    everything, _ = pulled(vault, tmp_path, patterns=["*"])
    assert report.bytes_read * 20 < everything.bytes_read
    assert f"{report.bytes_read / 1000:.3g} kB read from the vault" in report.sentence


def test_the_first_layers_come_with_all_that_is_in_no_layer(vault, tmp_path):
    _, found = pulled(vault, tmp_path, layers=2)
    assert set(FIRST) | {"model.norm.weight", "empty"} == set(found)
    _, found = pulled(vault, tmp_path, layers=0)
    assert {"model.embed_tokens.weight", "model.norm.weight", "empty"} == set(found)
    _, found = pulled(vault, tmp_path, layers=3, patterns=["*.q.weight"])
    assert {f"model.layers.{number}.q.weight" for number in (0, 1, 2)} == set(found)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("model.layers.31.mlp.experts.7.w1", 31),
        ("encoder.layer.3.attention.self.query.weight", 3),
        ("transformer.h.11.attn.c_attn.weight", 11),
        ("blk.0.attn_q.weight", 0),
        ("encoder.block.2.layer.1.DenseReluDense.wi.weight", 2),
        ("down_blocks.1.resnets.0.conv1.weight", 1),
        ("layers.4", 4),
        ("model.embed_tokens.weight", None),
        ("lm_head.weight", None),
        ("mm_projector.2.weight", None),
        ("graph.4.weight", None),
        ("layers.12x.weight", None),
        ("layers.99999999999.weight", None),
    ],
)
def test_a_layer_is_known_by_its_number_in_the_names_of_many_families(name, number):
    assert number == layer_of(name)


def test_a_pattern_is_a_shells_and_none_means_all():
    names = ["a.0", "a.1", "A.0", "b"]
    assert [{"a.0", "a.1"}, set(names), {"b"}] == [choose(names, p, None) for p in (["a.?"], [], ["b"])]


def test_tensors_that_are_not_there_are_one_sentence_with_what_there_is(vault, tmp_path):
    words = r"m 1 has no such tensor. It has empty, model.embed_tokens.weight, .* and 5 more"
    with pytest.raises(NotFound, match=words):
        pull_tensors(vault, tmp_path, model="m", patterns=["layers.*"])
    assert [] == list(tmp_path.iterdir())
    vault = pushed({"model.safetensors": safetensors({"a.1.b": np.zeros(4, np.float32)})})
    with pytest.raises(NotFound, match=r"no tensor of m 1 says in which layer it is. Name tensors with --tensors"):
        pull_tensors(vault, tmp_path, model="m", layers=1)


def test_a_version_without_safetensors_is_refused_with_what_to_do(tmp_path):
    data = torch_file.save({"a": torch_file.Tensor(np.zeros((3, 4), np.float32))})
    with pytest.raises(Unsupported, match=r"m 1 has no safetensors file.*next: understudy artifacts pull m 1$"):
        pull_tensors(pushed({"pytorch_model.bin": data}), tmp_path, model="m", patterns=["a"])


def test_a_name_that_two_files_have_is_refused(tmp_path):
    data = safetensors({"w": np.zeros(4, np.float32)})
    vault = pushed({f"{part}/model.safetensors": data for part in ("unet", "vae")})
    with pytest.raises(Unsupported, match=r"has the tensor w in unet/model.safetensors and in vae/model.safetensors"):
        pull_tensors(vault, tmp_path, model="m", patterns=["w"])


def test_a_folder_that_serves_is_not_written_to(vault, tmp_path):
    (tmp_path / "pointers").mkdir()
    with pytest.raises(Refused, match="that folder is a store"):
        pull_tensors(vault, tmp_path, model="m", layers=1)


def test_a_damaged_chunk_is_found_and_nothing_is_left(tmp_path):
    store = MemoryStore("vault")
    pushed({"model.safetensors": safetensors(FIRST)}, store)
    pack = max((info for info in store.list("packs/")), key=lambda info: info.size).key
    data = bytearray(store.get(pack))
    data[1_000_000] ^= 1
    store.put(pack, bytes(data))
    with pytest.raises(Corrupt, match=r"chunk [0-9a-f]{64} of m 1"):
        pull_tensors(open_vault(store), tmp_path, model="m", layers=1)
    assert not (tmp_path / "m").exists()
    report, found = pulled(open_vault(store), tmp_path, patterns=["model.layers.1.*"])
    assert (1, True) == (report.items_new, (FIRST["model.layers.1.q.weight"] == found["model.layers.1.q.weight"]).all())


def test_words_of_mixed_lengths_stand_where_each_is_aligned(tmp_path):
    kinds = {"a": ("U8", 3, "u1"), "b": ("F32", 3, "f4"), "c": ("I64", 1, "i8"), "d": ("F16", 5, "f2")}
    mixed = {name: np.ones(count, kind) for name, (_, count, kind) in kinds.items()}
    header, data = {}, b""
    for name, array in mixed.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": kinds[name][0], "shape": [len(array)], "data_offsets": offsets}
        data += array.tobytes()
    encoded = json.dumps(header).encode()
    vault = pushed({"model.safetensors": len(encoded).to_bytes(8, "little") + encoded + data})
    _, found = pulled(vault, tmp_path, patterns=["*"])
    assert all((mixed[name] == found[name]).all() for name in mixed)
    written = (tmp_path / "m" / "1.subset.safetensors").read_bytes()
    start = 8 + int.from_bytes(written[:8], "little")
    listed = json.loads(written[8:start])
    assert [0] * 4 == [(start + listed[name]["data_offsets"][0]) % mixed[name].itemsize for name in mixed]


# ------------------------------------------------------------------------------------------- a file, from any place


def test_any_range_of_a_file_in_the_vault_is_read_as_it_was(vault):
    from understudy.artifacts.catalog import find_manifest

    file = next(each for each in find_manifest(vault, "m").files if each.path.startswith("model-00001"))
    data = SHARDS[file.path]
    with ChunkReader(vault) as reader:
        stored = VaultFile(reader, file, "m")
        for start, length in ((0, 8), (0, 0), (5, 100_000), (len(data) - 9, 9), (1_000_000, 5_000_000), (0, len(data))):
            assert data[start : start + length] == stored.read(start, length)
        stored.read(3, 3)
        before = reader.bytes_read
        stored.read(4, 4)
        assert before == reader.bytes_read
        with pytest.raises(Corrupt, match="names bytes"):
            stored.read(len(data) - 1, 2)


def test_a_header_that_lies_is_corrupt_with_the_name_of_its_file(tmp_path):
    vault = pushed({"model.safetensors": safetensors({"a": np.zeros(4, np.float32)}), "notes.txt": b"\xff" * 999})
    key = manifest_key("m", "1", 1)
    text = vault.store.get(key)
    rows = {each["path"]: each for each in json.loads(text)["files"]}
    rows["notes.txt"]["kind"] = "safetensors"
    from understudy.vault.seal import seal, unseal

    value = json.loads(unseal(text))
    value["files"] = [rows[path] for path in sorted(rows)]
    vault.store.put(key, seal(json.dumps(value).encode()))
    with pytest.raises(Corrupt, match=r"m/1/notes.txt declares a header of"):
        pull_tensors(vault, tmp_path, model="m", patterns=["a"])
