"""Which chunks a tensor has, and which old tensor a new one comes from."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tests.models import safetensors
from tests.unit.artifacts import torch_file
from understudy.artifacts.cut import Layout, Tensor, cut_tensors
from understudy.artifacts.headers import Headers, match_tensors, tensor_chunks
from understudy.artifacts.layouts import look_into
from understudy.artifacts.manifest import (
    ArtifactFile,
    ArtifactManifest,
    SourceObject,
    decode_manifest,
    encode_manifest,
    manifest_key,
    model_digest,
)
from understudy.objects.memory import MemoryStore
from understudy.vault.chunks import CodedChunk, chunk_id
from understudy.vault.store import open_vault
from understudy.vault.writing import ChunkWriter


def layout_of(data, path="m.safetensors"):
    return look_into(path, len(data), lambda start, length: data[start : start + length])


def file_of(data, lengths, *, path="m.safetensors", kind="safetensors", layout=""):
    rows, place = [], 0
    for length in lengths:
        rows.append((chunk_id(data[place : place + length]).hex(), length))
        place += length
    source = SourceObject(path, None, "t", "2026-01-01T00:00:00+00:00")
    return ArtifactFile(path, len(data), hashlib.sha256(data).hexdigest(), kind, source, tuple(rows), layout)


def stored(data, file, writer):
    place = 0
    for name, length in file.chunks:
        writer.add(CodedChunk(bytes.fromhex(name), length, "raw", data[place : place + length]))
        place += length


MODEL = {
    "a": np.arange(3_000_000, dtype=np.float32).reshape(1000, 3000),
    "none": np.zeros((0, 2), np.float32),
    "b": np.ones(3, np.float32),
}


def test_the_chunks_of_each_tensor_are_told_by_where_they_begin_in_it():
    data = safetensors(MODEL)
    layout = layout_of(data)
    cuts = list(cut_tensors(layout, len(data)))
    file = file_of(data, [cut.length for cut in cuts])
    found = tensor_chunks(layout, file)
    rows = MODEL["a"].tobytes()
    block = 4 * 3000 * ((4 << 20) // 12_000)
    assert [(0, block), (block, block), (2 * block, 12_000_000 - 2 * block)] == [(o, n) for o, _, n in found["a"]]
    assert [chunk_id(rows[o : o + n]).hex() for o, _, n in found["a"]] == [name for _, name, _ in found["a"]]
    assert ([], [(0, chunk_id(MODEL["b"].tobytes()).hex(), 12)]) == (found["none"], found["b"])


@pytest.mark.parametrize("step", [1 << 20, 999_999, 12_000_500])
def test_a_chunk_that_is_not_within_one_tensor_is_left_out(step):
    data = safetensors(MODEL)
    lengths = [min(step, len(data) - start) for start in range(0, len(data), step)]
    layout = layout_of(data)
    (tensor,) = [each for each in layout.tensors if each.name == "a"]
    found = tensor_chunks(layout, file_of(data, lengths))
    starts = range(0, len(data), step)
    inside = [start - tensor.start for start in starts if start >= tensor.start and start + step <= tensor.end]
    assert inside == [offset for offset, _, _ in found["a"]]
    assert all(chunk_id(data[tensor.start + offset :][:length]).hex() == name for offset, name, length in found["a"])
    assert [] == found["b"]


# ------------------------------------------------------------------------------------------------------------ matching


def layout(*tensors):
    made, place = [], 0
    for name, dtype, shape in tensors:
        length = int(np.prod(shape)) * 2
        made.append(Tensor(name, dtype, shape, place, place + length))
        place += length
    return Layout("safetensors", tuple(made), 0)


def matched(new, old):
    new_layouts, old_layouts = ({path: layout(*rows) for path, rows in each.items()} for each in (new, old))
    return match_tensors(new_layouts, old_layouts)


W = ("BF16", (8, 4))


def test_a_tensor_matches_its_name_in_its_own_file_before_any_other():
    old = {"x": [("w", *W)], "y": [("w", *W), ("v", *W)]}
    assert {("y", "w"): ("y", "w"), ("z", "w"): ("x", "w")} == matched({"y": [("w", *W)], "z": [("w", *W)]}, old)


def test_resharding_moves_a_tensor_to_another_file():
    old = {"1-of-2": [("a", *W), ("b", *W)], "2-of-2": [("c", *W)]}
    new = {"1-of-3": [("a", *W)], "2-of-3": [("b", *W)], "3-of-3": [("c", *W)]}
    expected = {("1-of-3", "a"): ("1-of-2", "a"), ("2-of-3", "b"): ("1-of-2", "b"), ("3-of-3", "c"): ("2-of-2", "c")}
    assert expected == matched(new, old)


def test_a_vocabulary_that_grew_matches_and_another_dtype_or_width_does_not():
    narrow, wide = ("cast", "F16", (8, 4)), ("wide", "BF16", (8, 5))
    old = {"m": [("grown", "BF16", (100, 4)), narrow, wide, ("flat", "BF16", (32,))]}
    new = {"m": [("grown", "BF16", (104, 4)), ("cast", *W), ("wide", *W), ("flat", *W)]}
    assert {("m", "grown"): ("m", "grown")} == matched(new, old)


def test_a_renamed_tensor_matches_the_one_gone_whose_name_ends_most_alike():
    names = [f"model.layers.{n}.self_attn.{part}.weight" for n in (0, 1, 10, 11) for part in "qk"]
    old = {"m": [(name, *W) for name in names]}
    new = {"m": [(name.removeprefix("model."), *W) for name in names]}
    assert {("m", name.removeprefix("model.")): ("m", name) for name in names} == matched(new, old)


def test_a_new_tensor_does_not_take_one_that_is_still_there_nor_one_that_ends_otherwise():
    old = {"m": [("layers.0.weight", *W), ("gone.bias", *W), ("gone.weight", "F32", (8, 4))]}
    new = {"m": [("layers.0.weight", *W), ("layers.1.weight", *W)]}
    assert {("m", "layers.0.weight"): ("m", "layers.0.weight")} == matched(new, old)


def test_tens_of_thousands_of_renamed_tensors_are_each_matched_with_their_own():
    old = {"m": [(f"model.layers.{n}.weight", *W) for n in range(20_000)]}
    new = {"m": [(f"layers.{n}.weight", *W) for n in range(20_000)]}
    found = matched(new, old)
    assert (20_000, ("m", "model.layers.4711.weight")) == (len(found), found["m", "layers.4711.weight"])


# ----------------------------------------------------------------------------------------------- layouts from the vault


class _Read(Exception):
    """The vault was read."""


@pytest.fixture
def files():
    """A vault with a version of three kinds of files; the manifest, the bytes, the run's headers."""
    vault = open_vault(MemoryStore("vault"))
    writer = ChunkWriter(vault)
    data = {
        "m.safetensors": safetensors({"a": np.ones((4, 5), np.float32)}),
        "m.bin": torch_file.save({"a": torch_file.Tensor(np.ones((9, 7), np.float32))}),
        "notes.txt": b"notes",
    }
    made = []
    for path, each in sorted(data.items()):
        found = layout_of(each, path)
        lengths = [cut.length for cut in cut_tensors(found, len(each))] if found else [len(each)]
        kind = "safetensors" if path.endswith(".safetensors") else "opaque"
        file = file_of(each, lengths, path=path, kind=kind, layout="pytorch" if path.endswith(".bin") else "")
        stored(each, file, writer)
        made.append(file)
    writer.commit()
    digest = model_digest((file.path, file.sha256) for file in made)
    manifest = ArtifactManifest(model="m", version="1", revision=1, digest=digest, files=tuple(made))
    return manifest, data, Headers(ChunkWriter(vault))


def test_layouts_of_any_kind_are_read_from_the_vault(files):
    manifest, data, headers = files
    expected = {path: layout_of(each, path) for path, each in data.items() if path != "notes.txt"}
    assert expected == headers.layouts_of(manifest)


def test_a_layout_is_read_once(files, monkeypatch):
    manifest, _, headers = files
    before = headers.layouts_of(manifest)
    monkeypatch.setattr("understudy.artifacts.headers.ChunkReader", _raise)
    assert before == headers.layouts_of(manifest)


def _raise(*_):
    raise _Read


def test_a_layout_that_was_sent_in_this_run_is_not_read(files, monkeypatch):
    manifest, data, headers = files
    file = next(each for each in manifest.files if each.path == "m.bin")
    monkeypatch.setattr("understudy.artifacts.headers.ChunkReader", _raise)
    with pytest.raises(_Read):
        headers.layout_of(file, "m")
    headers.remember_file(file, layout_of(data["m.bin"], "m.bin"))
    assert ("F32", (9, 7)) == headers.layout_of(file, "m").described["a"]


def test_a_manifest_names_the_layout_beside_the_kind_so_that_older_readers_take_it(files):
    manifest, _, _ = files
    key = manifest_key("m", "1", 1)
    data = encode_manifest(manifest)
    assert manifest == decode_manifest(data, key)
    assert (b'"kind":"opaque","layout":"pytorch"' in data, data.count(b'"layout"')) == (True, 1)
    unknown = decode_manifest(data.replace(b'"pytorch"', b'"of a later version"'), key)
    assert ["of a later version", "", ""] == [file.layout for file in unknown.files]
