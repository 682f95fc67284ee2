"""PyTorch, GGUF and ONNX models on their way through the vault: cut at tensors, as differences, back bit for bit."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.unit.artifacts import torch_file
from understudy.artifacts.catalog import find_manifest
from understudy.artifacts.hydrate import hydrate
from understudy.artifacts.replicate import push
from understudy.objects.memory import MemoryStore
from understudy.vault.index import load_index
from understudy.vault.store import open_vault

SIGMA = 0.02


def weights(seed=1):
    rng = np.random.default_rng(seed)
    return {f"layers.{n}.weight": (SIGMA * rng.standard_normal((256, 512))).astype(np.float32) for n in range(4)}


def nudged(tensors):
    rng = np.random.default_rng(9)
    steps = {name: 0.001 * SIGMA * rng.standard_normal(each.shape) for name, each in tensors.items()}
    return {name: each + steps[name].astype(np.float32) for name, each in tensors.items()}


def pytorch(tensors, note=""):
    state = {name: torch_file.Tensor(array) for name, array in tensors.items()}
    return {"pytorch_model.bin": torch_file.save({"note": note, "state_dict": state})}


def gguf_file(tensors, note=""):
    text = note.encode()
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), 1)
    head += struct.pack("<Q4sIQ", 4, b"note", 8, len(text)) + text
    data = b""
    for name, array in tensors.items():
        dims = array.shape[::-1]
        head += struct.pack(f"<Q{len(name)}sI{len(dims)}QIQ", len(name), name.encode(), len(dims), *dims, 0, len(data))
        data += array.tobytes()
    return {"model.gguf": head + bytes(-len(head) % 32) + data}


def onnx_files(tensors, note=""):
    listed = []
    data = b""
    for name, array in tensors.items():
        tensor = TensorProto(name=name, data_type=1, dims=array.shape, data_location=TensorProto.EXTERNAL)
        told = {"location": "weights.data", "offset": str(len(data)), "length": str(array.nbytes)}
        for key, value in told.items():
            tensor.external_data.add(key=key, value=value)
        listed.append(tensor)
        data += array.tobytes()
    return {"onnx/model.onnx": onnx_model(listed, note), "onnx/weights.data": data}


def onnx_inside(tensors, note=""):
    listed = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    return {"model.onnx": onnx_model(listed, note)}


def onnx_model(tensors, note):
    there, here = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    node = helper.make_node("Identity", ["x"], ["y"])
    return helper.make_model(helper.make_graph([node], note, [there], [here], initializer=tensors)).SerializeToString()


FORMATS = {"pytorch": pytorch, "gguf": gguf_file, "onnx": onnx_files, "onnx inside": onnx_inside}


@pytest.fixture(params=FORMATS)
def made(request):
    """Makes the files of a model of one format."""
    return FORMATS[request.param]


def put(source, version, files):
    for path, data in files.items():
        source.put(f"m/{version}/{path}", data)


def restored(vault, version):
    target = MemoryStore("target")
    hydrate(vault, target, model="m", version=version)
    return {info.key.removeprefix(f"m/{version}/"): target.get(info.key) for info in target.list("m/")}


def test_one_changed_tensor_and_a_longer_header_send_that_tensor_alone(made):
    source, vault = MemoryStore("source"), open_vault(MemoryStore("vault"))
    before = weights()
    after = before | {"layers.2.weight": weights(7)["layers.2.weight"]}
    put(source, "1", made(before))
    push(source, vault)
    put(source, "2", made(after, note="a longer header " * 9))
    report = push(source, vault)[-1]
    assert 0 < report.bytes_sent < 1.1 * before["layers.2.weight"].nbytes
    assert made(after, note="a longer header " * 9) == restored(vault, "2")


def test_a_nudged_version_crosses_as_differences_in_a_run_of_its_own_and_comes_back(made):
    source, vault = MemoryStore("source"), open_vault(MemoryStore("vault"))
    before, after = weights(), nudged(weights())
    put(source, "1", made(before))
    (first,) = push(source, vault)
    put(source, "2", made(after, note="of the second"))
    report = push(source, vault)[-1]
    assert {"delta"} <= {row.coder for _, rows in load_index(vault).by_pack() for row in rows}
    assert report.bytes_sent < 0.75 * first.bytes_sent
    assert made(after, note="of the second") == restored(vault, "2")


def test_versions_of_one_run_are_told_as_differences_and_no_layout_is_read_from_the_vault(made, monkeypatch):
    monkeypatch.setattr("understudy.artifacts.headers.ChunkReader", lambda *_: pytest.fail("the vault was read"))
    source, vault = MemoryStore("source"), open_vault(MemoryStore("vault"))
    put(source, "1", made(weights()))
    put(source, "2", made(nudged(weights()), note="of the second"))
    push(source, vault)
    assert {"delta"} <= {row.coder for _, rows in load_index(vault).by_pack() for row in rows}
    assert made(nudged(weights()), note="of the second") == restored(vault, "2")


def test_the_weights_beside_an_onnx_model_that_did_not_change_are_cut_by_it():
    source, vault = MemoryStore("source"), open_vault(MemoryStore("vault"))
    put(source, "1", onnx_files(weights()))
    push(source, vault)
    after = weights() | {"layers.2.weight": weights(7)["layers.2.weight"]}
    source.put("m/1/onnx/weights.data", onnx_files(after)["onnx/weights.data"])
    report = push(source, vault)[-1]
    assert 0 < report.bytes_sent < 1.1 * after["layers.2.weight"].nbytes
    assert {"onnx"} == {file.layout for file in find_manifest(vault, "m").files}


def test_a_file_that_lies_about_its_tensors_is_kept_as_it_is_and_holds_nothing_up():
    starts = {"model.gguf": b"GGUF", "model.onnx": b"", "model.pt": b"PK\x03\x04"}
    files = {path: start + b"\xff" * 5000 for path, start in starts.items()}
    source, vault = MemoryStore("source"), open_vault(MemoryStore("vault"))
    put(source, "1", files)
    (report,) = push(source, vault)
    assert "changed" == report.verdict
    assert [("opaque", "")] * 3 == [(file.kind, file.layout) for file in find_manifest(vault, "m").files]
    assert files == restored(vault, "1")


def test_a_version_cut_by_content_before_is_still_read_and_its_child_cut_at_tensors(made, monkeypatch):
    source, vault = MemoryStore("source"), open_vault(MemoryStore("vault"))
    put(source, "1", made(weights()))
    with monkeypatch.context() as patched:
        patched.setattr("understudy.artifacts.sending.look_into", lambda *_: None)
        push(source, vault)
    assert {""} == {file.layout for file in find_manifest(vault, "m", "1").files}
    put(source, "2", made(nudged(weights())))
    push(source, vault)
    assert {""} != {file.layout for file in find_manifest(vault, "m", "2").files}
    assert made(weights()) == restored(vault, "1")
    assert made(nudged(weights())) == restored(vault, "2")
