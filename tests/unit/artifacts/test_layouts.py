"""Where files say that their tensors lie: read as their own libraries wrote them, and lossless whatever they say."""

from __future__ import annotations

import contextlib
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from functools import cache
from io import BytesIO

import gguf
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.models import layers, safetensors
from tests.unit.artifacts import torch_file
from tests.unit.artifacts.torch_file import Tensor
from understudy.artifacts.cut import cut_tensors
from understudy.artifacts.layouts import external_layouts, holds_when_lying, look_into
from understudy.artifacts.layouts import gguf as gguf_layout
from understudy.errors import Corrupt
from understudy.vault.chunks import BLOCK_BYTES

rng = np.random.default_rng(7)


def look(path, data):
    """Look into bytes, with a reader that gives nothing beyond them."""

    def read(start, length):
        assert 0 <= start <= start + length <= len(data), (start, length, len(data))
        return data[start : start + length]

    return look_into(path, len(data), read)


def bytes_by_name(layout, data):
    return {tensor.name: data[tensor.start : tensor.end] for tensor in layout.tensors}


def shapes_by_name(layout):
    return {tensor.name: (tensor.dtype, tensor.shape) for tensor in layout.tensors}


# ----------------------------------------------------------------------------------------------------------- cutting


def cuts_of(path, data):
    return list(cut_tensors(look(path, data), len(data)))


def test_blocks_of_a_tensor_hold_whole_rows():
    data = safetensors({"a": np.zeros((1000, 3000), np.float32), "b": np.zeros((2, 300_000), np.float32)})
    found = [cut for cut in cuts_of("m.safetensors", data) if cut.tensor >= 0]
    row, block = 12_000, BLOCK_BYTES // 12_000 * 12_000
    assert [(block, 0, 0), (block, 0, block), (12_000_000 - 2 * block, 0, 2 * block), (2_400_000, 1, 0)] == found
    assert all(cut.length % row == 0 for cut in found if cut.tensor == 0)


def test_a_tensor_of_rows_longer_than_a_megabyte_is_cut_into_plain_blocks():
    data = safetensors({"a": np.zeros((3, 500_000), np.float32)})
    assert [BLOCK_BYTES, 6_000_000 - BLOCK_BYTES] == [cut.length for cut in cuts_of("m.safetensors", data)][1:]
    (tensor,) = look("m.safetensors", data).tensors
    assert (0, 0) == (tensor.row_bytes, tensor.columns)


def test_the_columns_of_a_tensor_are_the_words_of_its_rows():
    layout = look("m.safetensors", safetensors({"a": np.zeros((4, 2, 9), np.float32), "b": np.zeros(7, np.float32)}))
    assert {"a": 9, "b": 7} == {tensor.name: tensor.columns for tensor in layout.tensors}


# ----------------------------------------------------------------------------------------------------------- PyTorch

WEIGHT, FLAT = rng.standard_normal((64, 256)).astype(np.float32), rng.standard_normal(1000).astype(np.float32)


@cache
def torch_example():
    state = OrderedDict(
        [
            ("a.weight", Tensor(WEIGHT)),
            ("tied", Tensor(WEIGHT)),
            ("half", Tensor(WEIGHT[:3].astype(np.float16))),
            ("turned", Tensor(np.zeros((5, 7), np.float32), stride=(1, 5))),
            ("of_flat", Tensor(np.zeros((10, 10), np.float32), storage=FLAT)),
            ("also_of_flat", Tensor(np.zeros((10,), np.float32), storage=FLAT, offset=500)),
            ("scalar", Tensor(np.array(3, np.float32))),
            ("eight", Tensor(np.zeros((4, 9), np.uint8), float8=True)),
        ]
    )
    optimizer = {
        "state": {0: {"exp_avg": Tensor(np.ones(5))}, 1: {"exp_avg": Tensor(np.zeros(6))}},
        "groups": [{"lr": 0.1}],
    }
    return torch_file.save(
        {"model": state, "optimizer": optimizer, "list": [Tensor(np.ones(3))], "step": 7, "none": None}
    )


def test_storages_of_pytorch_are_named_and_described_by_a_pickle_that_is_never_run():
    layout = look("pytorch_model.bin", torch_example())
    assert "pytorch" == layout.kind
    assert {
        "model.a.weight": ("F32", (64, 256)),
        "model.half": ("F16", (3, 256)),
        "model.turned": ("F32", (35,)),
        "model.of_flat": ("F32", (1000,)),
        "model.scalar": ("F32", ()),
        "model.eight": ("F8_E4M3", (4, 9)),
        "optimizer.state.0.exp_avg": ("F64", (5,)),
        "optimizer.state.1.exp_avg": ("F64", (6,)),
        "list.0": ("F64", (3,)),
    } == shapes_by_name(layout)


def test_storages_of_pytorch_lie_where_the_zip_has_them():
    data = torch_example()
    members = zipfile.ZipFile(BytesIO(data))
    expected = sorted(members.read(name) for name in members.namelist() if "/data/" in name)
    layout = look("x.pt", data)
    assert expected == sorted(bytes_by_name(layout, data).values())
    assert WEIGHT.tobytes() == bytes_by_name(layout, data)["model.a.weight"]


@pytest.mark.parametrize("aligned", [1, 16, 256])
def test_storages_are_found_where_another_writer_aligned_them_otherwise(aligned):
    pickled, storages = torch_file.dump({f"w{i}": Tensor(np.full(50 + i, i, np.float32)) for i in range(9)})
    members = [("m/data.pkl", pickled), *((f"m/data/{i}", each) for i, each in enumerate(storages))]
    data = torch_file.archive(members, aligned=aligned)
    assert {f"w{i}": each for i, each in enumerate(storages)} == bytes_by_name(look("m.pth", data), data)


def test_an_unchanged_storage_keeps_its_cut_when_the_pickle_before_it_grows():
    longer = torch_file.save({"a longer name than before " * 9: Tensor(WEIGHT)})
    before, after = (look("m.bin", data).tensors[0] for data in (torch_file.save({"a": Tensor(WEIGHT)}), longer))
    assert before.start != after.start
    assert before.end - before.start == after.end - after.start == WEIGHT.nbytes


def test_an_old_pickle_without_a_zip_is_opaque():
    assert look("pytorch_model.bin", pickle.dumps({"a": 1}, protocol=2)) is None
    assert look("empty.bin", b"") is None


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b"\x80\x02.",
        b"\x80\x02}q\x00(X\x01\x00\x00\x00aU",
        b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.",
        b"\x80\x02h\x05.",
        b"\x80\x02e.",
        b"\x80\x02" + b"(" * 10_000 + b".",
        b"\x80\x02]" + b"\x85" * 100_000 + b".",
        b"I" + b"9" * 100_000 + b"\n.",
        b"\x80\x02X\xff\xff\xff\xffa.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    ],
    ids=["none", "nothing", "cut", "a call", "no memo", "no mark", "marks", "deep", "long", "lying", "lying 2^63"],
)
def test_a_pickle_that_cannot_be_followed_leaves_storages_without_names(pickled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = torch_file.archive([("m/data.pkl", pickled), ("m/data/0", b"x" * 999)])
    assert {"data/0": ("", (999,))} == shapes_by_name(look("m.bin", data))


def test_what_a_pickle_would_call_is_not_called(tmp_path):
    mark = tmp_path / "called"
    pickled = b"\x80\x02cos\nmkdir\nX" + struct.pack("<I", len(str(mark))) + str(mark).encode() + b"\x85R."
    look("m.bin", torch_file.archive([("m/data.pkl", pickled), ("m/data/0", b"x" * 999)]))
    assert not mark.exists()
    pickle.loads(pickled)  # noqa: S301 - the very pickle does call, when it is run
    assert mark.exists()


def test_words_of_the_other_order_of_bytes_have_no_dtype():
    data = torch_file.save({"a": Tensor(WEIGHT)}).replace(b"little", b"big   ")
    assert {"data/0": ("", (WEIGHT.nbytes,))} == shapes_by_name(look("m.bin", data))


def test_a_dtype_that_the_bytes_do_not_bear_out_is_not_believed():
    pickled, _ = torch_file.dump({"a": Tensor(WEIGHT)})
    data = torch_file.archive([("m/data.pkl", pickled), ("m/data/0", b"x" * 999)])
    assert {"a": ("", (999,))} == shapes_by_name(look("m.bin", data))


def test_what_is_compressed_is_no_tensor():
    target = BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m/data.pkl", b"N.", zipfile.ZIP_STORED)
        file.writestr("m/data/0", b"x" * 100_000)
    assert () == look("m.pt", target.getvalue()).tensors


def test_members_that_overlap_are_refused():
    members = [("m/data.pkl", b"N."), ("m/data/0", b"x" * 500), ("m/data/1", b"y" * 500)]
    data = bytearray(torch_file.archive(members))
    at = data.rindex(b"PK\1\2")
    data[at + 20 : at + 28] = struct.pack("<II", 50_000, 50_000)
    with pytest.raises(Corrupt, match="overlap, or that reach beyond"):
        look("m.pt", bytes(data))
    data[at + 42 : at + 46] = struct.pack("<I", 0)
    data[at + 20 : at + 28] = struct.pack("<II", 500, 500)
    with pytest.raises(Corrupt, match="overlap"):
        look("m.pt", bytes(data))


def test_a_list_of_members_that_declares_gigabytes_is_not_read():
    asked = []

    def read(start, length):
        asked.append(length)
        return (b"PK\x03\x04" + bytes(length))[:length] if start == 0 else end[-length:]

    size = 50 << 30
    tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 9, 9, 1 << 31, 0, 0)
    end = bytes(1 << 20) + tail
    with pytest.raises(Corrupt, match=r"declares a list of members of|without a list"):
        look_into("m.pt", size, read)
    assert sum(asked) < 1 << 20


# -------------------------------------------------------------------------------------------------------------- GGUF


@pytest.fixture(scope="module")
def gguf_example(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_array("tokenizer.ggml.tokens", [f"token{i}" for i in range(3000)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 3000)
    writer.add_bool("a.flag", True)  # noqa: FBT003 - the library's own
    writer.add_string("a.text", "é" * 99)
    writer.add_custom_alignment(128)
    writer.add_tensor("token_embd.weight", rng.standard_normal((100, 256)).astype(np.float32))
    writer.add_tensor("half", rng.standard_normal((10, 7)).astype(np.float16))
    quantized = gguf.quants.quantize(rng.standard_normal((64, 512)).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.attn_q.weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_tensors_of_gguf_lie_where_its_library_finds_them(gguf_example):
    layout = look("m.gguf", gguf_example.read_bytes())
    theirs = {
        each.name: (each.data_offset, each.data_offset + each.n_bytes) for each in gguf.GGUFReader(gguf_example).tensors
    }
    assert theirs == {tensor.name: (tensor.start, tensor.end) for tensor in layout.tensors}
    assert {
        "token_embd.weight": ("F32", (100, 256)),
        "half": ("F16", (10, 7)),
        "blk.0.attn_q.weight": ("", (64, 512)),
    } == shapes_by_name(layout)


def test_blocks_of_quantized_values_are_whole_rows(gguf_example):
    layout = look("m.gguf", gguf_example.read_bytes())
    (quantized,) = [tensor for tensor in layout.tensors if tensor.name == "blk.0.attn_q.weight"]
    assert (512 // 32 * 34, 0) == (quantized.row_bytes, quantized.columns)


def test_every_type_of_the_library_is_known_by_its_size():
    theirs = {int(kind): sizes for kind, sizes in gguf.constants.GGML_QUANT_SIZES.items()}
    ours = {kind: (values, length) for kind, (_, values, length) in gguf_layout._TYPES.items()}
    assert theirs.items() <= ours.items()


def gguf_of(tensors=0, keys=0, body=b"", version=3, magic=b"GGUF"):
    return struct.pack("<4sIQQ", magic, version, tensors, keys) + body


def text_of(text):
    return struct.pack("<Q", len(text)) + text


def described(name, shape, kind, offset):
    return text_of(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def test_a_tensor_of_an_unknown_type_reaches_to_the_next():
    head = gguf_of(2, 0, described(b"a", (8,), 999, 0) + described(b"b", (8,), 0, 64))
    data = head + bytes(-len(head) % 32) + b"a" * 64 + b"b" * 32
    assert {"a": b"a" * 64, "b": b"b" * 32} == bytes_by_name(look("m.gguf", data), data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "at least"),
        (b"GGUF", "at least"),
        (gguf_of(magic=b"GGML"), "not GGUF"),
        (gguf_of(version=1), "not GGUF"),
        (gguf_of(version=0x03000000), "little endian"),
        (gguf_of(tensors=(1 << 64) - 1), "declares"),
        (gguf_of(keys=(1 << 63) + 1), "declares"),
        (gguf_of(tensors=1), "goes on to byte"),
        (gguf_of(keys=1, body=struct.pack("<Q", 1 << 63)), "goes on to byte"),
        (gguf_of(keys=1, body=text_of(b"k") + struct.pack("<IIQ", 9, 8, 1 << 63)), "texts"),
        (gguf_of(keys=1, body=text_of(b"k") + struct.pack("<IIQ", 9, 8, 1 << 20)), "goes on to byte"),
        (gguf_of(keys=1, body=text_of(b"k") + struct.pack("<IIQ", 9, 4, 1 << 63)), "goes on to byte"),
        (gguf_of(keys=1, body=text_of(b"k") + struct.pack("<IIQ", 9, 9, 1)), "not known"),
        (gguf_of(keys=1, body=text_of(b"k") + struct.pack("<I", 77)), "not known"),
        (gguf_of(keys=1, body=text_of(b"general.alignment") + struct.pack("<II", 4, 0)), "alignment"),
        (gguf_of(tensors=1, body=text_of(b"n" * 2000)), "a name of 2000"),
        (gguf_of(tensors=1, body=text_of(b"n") + struct.pack("<I", 99)), "99 dimensions"),
        (gguf_of(tensors=1, body=described(b"n", (1 << 63, 1 << 63), 0, 0)), "beyond"),
        (gguf_of(tensors=1, body=described(b"n", (4,), 0, 1 << 63)), "beyond"),
        (gguf_of(tensors=1, body=described(b"n", (4,), 999, 1 << 63)), "beyond"),
        (gguf_of(tensors=1, body=described(b"n", (33,), 8, 0) + bytes(999)), "a part of a block"),
        (gguf_of(2, 0, described(b"a", (8,), 0, 0) + described(b"b", (8,), 0, 16) + bytes(99)), "reaches to"),
    ],
)
def test_a_gguf_file_that_lies_is_refused_in_a_sentence(data, words):
    with pytest.raises(Corrupt, match=words):
        look("m.gguf", data)


# -------------------------------------------------------------------------------------------------------------- ONNX

ONNX_WEIGHTS = {
    "w1": rng.standard_normal((100, 256)).astype(np.float32),
    "w2": rng.standard_normal((300, 64)).astype(np.float16),
    "small": np.arange(4),
}


@cache
def onnx_model():
    listed = [numpy_helper.from_array(array, name) for name, array in ONNX_WEIGHTS.items()]
    listed.append(helper.make_tensor("floats", TensorProto.FLOAT, [5000], [0.25] * 5000))
    there, here = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [there], [here], initializer=listed)
    return helper.make_model(graph)


def test_tensors_in_an_onnx_model_are_cut_and_small_ones_are_not():
    data = onnx_model().SerializeToString()
    layout = look("m.onnx", data)
    assert {"w1": ("F32", (100, 256)), "w2": ("F16", (300, 64)), "floats": ("F32", (5000,))} == shapes_by_name(layout)
    found = bytes_by_name(layout, data)
    assert [ONNX_WEIGHTS["w1"].tobytes(), ONNX_WEIGHTS["w2"].tobytes()] == [found["w1"], found["w2"]]
    assert np.full(5000, 0.25, np.float32).tobytes() == found["floats"]


def test_tensors_beside_an_onnx_model_are_found_by_what_the_model_says(tmp_path):
    onnx.save_model(
        onnx_model(), tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=1024
    )
    layout = look("sub/m.onnx", (tmp_path / "m.onnx").read_bytes())
    data = (tmp_path / "weights.bin").read_bytes()
    (beside,) = external_layouts("sub/m.onnx", layout, {"sub/weights.bin": len(data), "weights.bin": 1}).items()
    assert "sub/weights.bin" == beside[0]
    found = bytes_by_name(beside[1], data)
    assert {name: ONNX_WEIGHTS[name].tobytes() for name in ("w1", "w2")} == {name: found[name] for name in ("w1", "w2")}
    assert {} == external_layouts("m.onnx", layout, {"other.bin": len(data)})
    assert {} == external_layouts("sub/m.onnx", layout, {"sub/weights.bin": len(data) - 1})


def varint(value):
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def span(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def external_model(*tensors):
    """A model of tensors in other files, each as its pairs of external data."""
    found = b""
    for pairs in tensors:
        told = b"".join(span(13, span(1, key.encode()) + span(2, value.encode())) for key, value in pairs.items())
        found += span(5, b"\x08\x04\x10\x01" + span(8, b"t") + told)
    return span(7, found)


@pytest.mark.parametrize(
    "pairs",
    [
        {"location": "../../etc/passwd"},
        {"location": "/etc/passwd"},
        {"location": "a\x1bb"},
        {"location": "m.onnx"},
        {"location": "w.bin", "offset": "-1"},
        {"location": "w.bin", "offset": "٣"},
        {"location": "w.bin", "offset": "9" * 30},
        {"location": "w.bin", "length": "9223372036854775807"},
        {"location": "w.bin", "offset": "90", "length": "16"},
        {"location": "w.bin", "length": "0"},
    ],
)
def test_a_model_that_lies_about_the_file_beside_it_says_nothing_of_it(pairs):
    data = external_model(pairs)
    layout = look("m.onnx", data)
    assert {} == external_layouts("m.onnx", layout, {"w.bin": 100, "m.onnx": len(data), "etc/passwd": 100})


def test_tensors_that_share_their_bytes_beside_a_model_are_one_and_those_that_overlap_are_none():
    one, two = {"location": "./w.bin", "offset": "8", "length": "16"}, {"location": "w.bin", "offset": "16"}
    (found,) = external_layouts("m.onnx", look("m.onnx", external_model(one, one)), {"w.bin": 100}).values()
    assert [(8, 24)] == [(tensor.start, tensor.end) for tensor in found.tensors]
    assert {} == external_layouts("m.onnx", look("m.onnx", external_model(one, two)), {"w.bin": 100})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no graph"),
        (b"hello, this is text", "wire type|reaches to"),
        (b"\xff" * 40, "without an end"),
        (varint(7 << 3 | 2) + varint(1 << 62), "reaches to byte"),
        (span(7, span(5, varint(9 << 3 | 2) + varint(1 << 40))), "reaches to byte"),
        (span(7, span(5, span(1, b"\x80" * 20))), "without an end"),
        (span(7, span(5, span(1, b"\x01" * 700))), "shape that is none"),
        (span(7, span(5, b"\x08\x01" * 70)), "shape that is none"),
        (span(7, span(5, b"\x08" + varint((1 << 63) + 5))), "shape that is none"),
        (span(7, span(5, span(8, b"n" * 5000))), "too long"),
        (b"\x00\x00", "reaches to"),
    ],
)
def test_an_onnx_model_that_lies_is_refused_in_a_sentence(data, words):
    with pytest.raises(Corrupt, match=words):
        look("m.onnx", data)


# ----------------------------------------------------------------------------------------------------------- hostile


def test_only_a_safetensors_file_that_lies_shows_that_an_upload_is_not_whole():
    assert [True, False, False, False] == [
        holds_when_lying(f"m.{end}") for end in ("safetensors", "bin", "gguf", "onnx")
    ]


def test_a_file_of_another_name_is_not_looked_into():
    assert look_into("config.json", 1 << 40, lambda *_: pytest.fail("it was read")) is None


@cache
def examples():
    large = {name: np.zeros((9, 5), np.float32) for name in "ab"}
    body = text_of(b"general.alignment") + struct.pack("<II", 4, 32) + described(b"a", (8, 2), 0, 0)
    head = gguf_of(2, 1, body + described(b"b", (32,), 8, 64))
    return {
        "m.bin": torch_file.save({name: Tensor(array) for name, array in large.items()}),
        "m.gguf": head + bytes(-len(head) % 32) + bytes(98),
        "m.onnx": onnx_model().SerializeToString()[:60_000] + external_model({"location": "w.bin", "length": "16"}),
        "m.safetensors": safetensors(layers(2, rows=2)),
    }


edits = st.lists(
    st.tuples(
        st.sampled_from(["flip", "cut", "put", "number"]), st.integers(0, 1 << 20), st.binary(min_size=1, max_size=9)
    ),
    min_size=1,
    max_size=4,
)


def edited(data, changes):
    """Mutate where formats have their words: at both ends more often than in the weights between."""
    for kind, place, what in changes:
        at = place % (len(data) + 1) if place % 3 else (-place if place % 2 else place) % min(len(data) + 1, 700)
        if kind == "flip":
            data = (
                data[:at]
                + bytes(a ^ b for a, b in zip(data[at : at + len(what)], what, strict=False))
                + data[at + len(what) :]
            )
        elif kind == "cut":
            data = data[:at] + data[at + what[0] :]
        elif kind == "number":
            data = data[:at] + what[:1] * 8 + data[at + 8 :]
        else:
            data = data[:at] + what + data[at:]
    return data


def check_sentence(error):
    assert str(error).isprintable()
    assert len(str(error)) < 1000


@pytest.mark.parametrize("path", ["m.bin", "m.gguf", "m.onnx", "m.safetensors"])
@given(changes=edits)
@settings(max_examples=150, derandomize=True, deadline=None, database=None)
def test_mutated_files_are_refused_or_cut_without_loss(path, changes):
    data = edited(examples()[path], changes)
    try:
        layout = look(path, data)
    except Corrupt as error:
        check_sentence(error)
        return
    if layout is None:
        return
    cuts = list(cut_tensors(layout, len(data)))
    assert len(data) == sum(cut.length for cut in cuts)
    assert all(0 < cut.length <= BLOCK_BYTES for cut in cuts)
    place = 0
    for cut in cuts:
        if cut.tensor >= 0:
            tensor = layout.tensors[cut.tensor]
            assert tensor.start + cut.offset == place
            assert place + cut.length <= tensor.end
        place += cut.length
    for other in external_layouts(path, layout, {"w.bin": 100}).values():
        assert 100 == sum(cut.length for cut in cut_tensors(other, 100))


def test_a_hostile_file_takes_little_memory():
    many = b"".join(described(b"n" * 1000, (1,) * 8, 999, i) for i in range(4000))
    bombs = {
        "m.gguf": gguf_of(4000, 0, many),
        "m.onnx": span(7, span(5, b"") * 10_000),
        "m.bin": torch_file.archive(
            [("m/data.pkl", b"\x80\x02}q\x00" + b"h\x00\x86h\x00" * 6000 + b"."), ("m/data/0", b"x" * 999)]
        ),
    }
    for path, data in bombs.items():
        tracemalloc.start()
        with contextlib.suppress(Corrupt):
            look(path, data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 24 << 20, path
