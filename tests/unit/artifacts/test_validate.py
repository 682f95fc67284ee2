"""Validation: a version that is not whole is held, one that contradicts itself or its parent refused, or accepted."""

from __future__ import annotations

import json
import struct
import subprocess
import sys

import numpy as np
import pytest
import yaml

from tests.models import layers, model_files, safetensors
from tests.unit.example import example
from understudy import opening
from understudy.artifacts.catalog import all_manifests, find_manifest
from understudy.artifacts.hydrate import hydrate
from understudy.artifacts.replicate import push
from understudy.artifacts.validate import differences, folded, group_of, is_checked_json
from understudy.objects.memory import MemoryStore
from understudy.settings import load_settings
from understudy.vault.packs import PACKS_PREFIX
from understudy.vault.store import open_vault
from understudy.vault.verify import verify


def put_model(store, version, files, model="m"):
    for path, data in files.items():
        store.put(f"{model}/{version}/{path}", data)


def half(tensors):
    """The same file with 16 bit floats: half the bytes, another dtype."""
    return safetensors({name: tensor.astype(np.float16) for name, tensor in tensors.items()}).replace(b"F32", b"F16")


def sharded(*shards):
    """A model in shards, each a dictionary of tensors, and the list of them."""
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    weight_map = {name: path for path, shard in zip(names, shards, strict=True) for name in shard}
    files = {path: safetensors(shard) for path, shard in zip(names, shards, strict=True)}
    return files | {"model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode()}


def remapped(files, change):
    path = "model.safetensors.index.json"
    weight_map = json.loads(files[path])["weight_map"]
    change(weight_map)
    return files | {path: json.dumps({"weight_map": weight_map}).encode()}


A, B = {"a": layers(1)["layer.0"]}, {"b": layers(1, seed=2)["layer.0"]}


@pytest.fixture
def source():
    store = MemoryStore("source")
    put_model(store, "1", model_files())
    return store


@pytest.fixture
def vault():
    return open_vault(MemoryStore("vault"))


def last(source, vault, **options):
    return push(source, vault, **options)[-1]


# ------------------------------------------------------------------ beside the parent


def with_tensors(tensors):
    return model_files() | {"model.safetensors": safetensors(tensors)}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (with_tensors(layers(3)), "model lacks 1 tensor of its parent (layer.3)"),
        (with_tensors(layers(6)), "model adds 2 tensors (layer.4 and 1 more)"),
        (with_tensors(layers(4, rows=32)), "model changes 4 tensors (layer.0: F32 [64, 256] -> F32 [32, 256]; "),
        (
            model_files() | {"model.safetensors": half(layers(4))},
            "model changes 4 tensors (layer.0: F32 [64, 256] -> F16 [64, 256]; ",
        ),
        (
            {path: data for path, data in model_files().items() if path != "tokenizer.json"},
            "lacks tokenizer.json of its parent",
        ),
    ],
    ids=["lost", "added", "shape", "dtype", "tokenizer"],
)
def test_a_child_that_differs_from_its_parent_is_refused_and_nothing_changes(source, vault, files, words):
    push(source, vault)
    before = [info.key for info in vault.store.list()]
    put_model(source, "2", files)
    report = last(source, vault)
    assert ("held", "refused", "2") == (report.verdict, report.details["action"], report.version)
    assert words in report.sentence
    assert report.sentence.startswith("m 2: refused, ")
    assert before == [info.key for info in vault.store.list()]
    assert 'understudy artifacts push --model m --accept-change "REASON"' == report.details["next"]


def test_other_models_go_on_when_one_is_refused(source, vault):
    put_model(source, "1", model_files(), model="z")
    push(source, vault)
    put_model(source, "2", with_tensors(layers(3)))
    put_model(source, "2", model_files(changed=1), model="z")
    found = [(report.name, report.version, report.verdict) for report in push(source, vault)]
    assert [("m", "2", "held"), ("z", "2", "changed")] == found


def test_an_accepted_change_is_recorded_and_the_next_push_finds_nothing_to_do(source, vault):
    push(source, vault)
    put_model(source, "2", with_tensors(layers(3)))
    report = last(source, vault, accept_change="ana: layer 3 was pruned")
    assert ("changed", "2") == (report.verdict, report.version)
    manifest = find_manifest(vault, "m", "2")
    assert {
        "accepted": "ana: layer 3 was pruned",
        "accepted_changes": "model lacks 1 tensor of its parent (layer.3)",
    } == manifest.tags
    assert "unchanged" == last(source, vault).verdict
    # The next version is compared with what was accepted.
    put_model(source, "3", with_tensors(layers(3, changed=1)))
    assert ("changed", {}) == (last(source, vault).verdict, find_manifest(vault, "m", "3").tags)


def test_what_needs_no_exception_records_none(source, vault):
    push(source, vault, accept_change="just in case")
    assert {} == find_manifest(vault, "m").tags


def test_a_first_version_is_only_checked_by_itself(source, vault):
    assert ["changed"] == [report.verdict for report in push(source, vault)]


def test_other_weights_in_the_same_tensors_pass_without_reading_the_vault(source, vault):
    push(source, vault)
    put_model(source, "2", model_files(changed=1))
    for info in list(vault.store.list(PACKS_PREFIX)):
        vault.store.put(info.key, bytes(info.size))  # any read of a chunk would fail
    assert "changed" == last(source, vault).verdict


def test_a_parent_whose_header_moved_is_read_from_the_vault(source, vault):
    push(source, vault)
    moved = safetensors(layers(4, changed=2), metadata={"note": "other"})
    put_model(source, "2", model_files() | {"model.safetensors": moved})
    assert "changed" == last(source, vault).verdict
    fewer = safetensors(layers(3), metadata={"note": "third"})
    put_model(source, "3", model_files() | {"model.safetensors": fewer})
    assert "model lacks 1 tensor of its parent (layer.3)" in last(source, vault).sentence


def test_versions_of_one_run_are_compared_though_the_index_is_not_read_again(vault):
    source = MemoryStore()
    put_model(source, "1", model_files())
    put_model(source, "2", with_tensors(layers(3)))
    assert ["changed", "held"] == [report.verdict for report in push(source, vault)]


def test_a_damaged_parent_does_not_stop_a_backup(source, vault, caplog):
    push(source, vault)
    for info in list(vault.store.list(PACKS_PREFIX)):
        vault.store.put(info.key, bytes(info.size))
    put_model(source, "2", with_tensors(layers(3)))
    assert "changed" == last(source, vault).verdict
    assert "m/1/model.safetensors is not compared with its child" in caplog.text


def test_a_new_revision_is_compared_with_the_revision_before(source, vault):
    push(source, vault)
    source.put("m/1/model.safetensors", safetensors(layers(3)))
    assert "m 1: refused, model lacks 1 tensor of its parent (layer.3)" == last(source, vault).sentence


def test_tensors_may_move_between_shards(vault):
    source = MemoryStore()
    put_model(source, "1", model_files() | {"model.safetensors": safetensors(A | B)})
    two = {path: data for path, data in model_files().items() if path != "model.safetensors"}
    put_model(source, "2", two | sharded(A, B))
    put_model(source, "3", two | sharded(B, A))
    put_model(source, "4", two | sharded(A))
    reports = push(source, vault)
    assert ["changed", "changed", "changed", "held"] == [report.verdict for report in reports]
    assert "m 4: refused, model lacks 1 tensor of its parent (b)" == reports[-1].sentence


# ------------------------------------------------------------------ by itself


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {path: data for path, data in sharded(A, B).items() if "00002-of" not in path},
            "m 1: held, model.safetensors.index.json names model-00002-of-00002.safetensors, not there yet",
        ),
        (
            sharded(A, B) | {"model-00003-of-00003.safetensors": safetensors({"c": np.zeros(3, np.float32)})},
            "m 1: held, model.safetensors.index.json does not name model-00003-of-00003.safetensors",
        ),
        (
            remapped(
                sharded(A, B), lambda names: names.pop("b") and names.update(c="model-00002-of-00002.safetensors")
            ),
            "names c in model-00002-of-00002.safetensors, which does not have it; and 1 more",
        ),
        (
            sharded(A | B, B),
            "m 1: held, model-00001-of-00002.safetensors has b, which model.safetensors.index.json does not name there",
        ),
        (
            {path: data for path, data in sharded(A, B).items() if path == "model-00001-of-00002.safetensors"},
            "m 1: held, model has 1 of its 2 shards",
        ),
        (sharded(A) | {"model.safetensors.index.json": b'{"weight_map": {"a": 7}}'}, "has no weight_map"),
        (model_files() | {"generation_config.json": b"{"}, "generation_config.json is not complete JSON"),
        (model_files() | {"config.json": b"[1]"}, "config.json is not an object"),
        (
            model_files() | {"tokenizer.json": b"[" + b"0," * 4_100_000 + b"0]"},
            "tokenizer.json has about 4100001 values, the limit is 4000000",
        ),
    ],
    ids=["missing", "extra", "names", "unnamed", "unlisted", "map", "generation", "config", "bomb"],
)
def test_a_version_that_is_not_whole_is_held(vault, files, words):
    source = MemoryStore()
    put_model(source, "1", files)
    [report] = push(source, vault)
    assert ("held", "held") == (report.verdict, report.details["action"])
    assert words in report.sentence
    assert [] == all_manifests(vault)


EMBEDDED = {"model.embed_tokens.weight": np.zeros((50, 8), np.float32), "lm.weight": np.zeros((3, 3), np.float32)}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"vocab_size": 50, "hidden_size": 8}, None),
        ({"vocab_size": 50, "hidden_size": 99, "embedding_size": 8}, None),
        ({"text_config": {"vocab_size": 7}}, None),
        ({"vocab_size": "fifty"}, None),
        ({"vocab_size": 51, "hidden_size": 8}, "config.json declares vocab_size 51, model.embed_tokens.weight in "),
        ({"vocab_size": 50, "hidden_size": 16}, "declares hidden_size 16, model.embed_tokens.weight in "),
    ],
)
def test_a_config_that_declares_other_sizes_than_the_embedding_has_is_refused(vault, config, words):
    source = MemoryStore()
    put_model(source, "1", {"config.json": json.dumps(config).encode(), "model.safetensors": safetensors(EMBEDDED)})
    [report] = push(source, vault)
    assert (words is None) == (report.verdict == "changed")
    if words:
        assert "refused" == report.details["action"]
        assert words in report.sentence
        assert report.sentence.endswith("model.safetensors is F32 [50, 8]")


@pytest.mark.parametrize(
    "names",
    [("a.txt", "A.txt"), ("caf\u00e9.txt", "cafe\u0301.txt"), ("stra\u00dfe", "STRASSE"), ("x/a", "X/a")],
    ids=["case", "form", "folding", "folder"],
)
def test_names_that_some_disks_take_for_one_are_refused_and_may_be_accepted(source, vault, names):
    put_model(source, "1", dict.fromkeys(names, b"x"))
    report = last(source, vault)
    assert "refused" == report.details["action"]
    assert "differ in case or Unicode form alone" in report.sentence
    assert "changed" == last(source, vault, accept_change="object stores keep them apart").verdict
    target = MemoryStore()
    hydrate(vault, target, model="m")
    assert set(names) <= {info.key.removeprefix("m/1/") for info in target.list("m/1/")}


def header(length, text=b""):
    return struct.pack("<Q", length) + text


@pytest.mark.parametrize(
    "data",
    [
        header(50, b"{}"),
        header(2, b"[]"),
        header(3, b"\xff\xfe{"),
        header(1 << 63, b"{}"),
        safetensors(layers(2))[:-1],
        safetensors(layers(2)) + b"more",
        header(17_000_000, b"{" + b" " * 16_999_998 + b"}"),
    ],
    ids=["long", "array", "not utf-8", "overflow", "cut", "more", "17 MB"],
)
def test_a_file_that_lies_is_kept_as_plain_bytes_when_a_person_accepts_it(vault, data):
    source = MemoryStore()
    files = model_files() | {"model.safetensors": data}
    put_model(source, "1", files)
    assert "held" == last(source, vault).verdict
    assert "changed" == last(source, vault, accept_change="it is what the trainer wrote").verdict
    manifest = find_manifest(vault, "m")
    assert {"opaque"} == {file.kind for file in manifest.files}
    assert manifest.tags["accepted_changes"].startswith("model.safetensors ")
    target = MemoryStore()
    hydrate(vault, target, model="m")
    assert data == target.get("m/1/model.safetensors")
    assert verify(vault, deep=True).ok


def test_bytes_between_tensors_are_refused_and_kept_when_accepted(vault):
    described = {
        "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
        "b": {"dtype": "U8", "shape": [4], "data_offsets": [5, 9]},
    }
    text = json.dumps(described).encode()
    source = MemoryStore()
    put_model(source, "1", {"model.safetensors": header(len(text), text) + b"aaa--bbbb"})
    report = last(source, vault)
    assert "m 1: refused, model.safetensors has bytes that belong to no tensor, before 'b'" == report.sentence
    assert "changed" == last(source, vault, accept_change="padding").verdict
    assert verify(vault, deep=True).ok


def test_a_name_that_cannot_be_a_file_is_held_whatever_is_accepted(source, vault):
    source.put("m/1/a\\b", b"x")
    assert "held" == last(source, vault, accept_change="please").verdict


# ------------------------------------------------------------------ small decisions


def test_a_shard_belongs_to_its_model_and_a_variant_is_another():
    assert "model" == group_of("model.safetensors") == group_of("model-00001-of-00009.safetensors")
    assert "unet/model" == group_of("unet/model-00002-of-00002.safetensors")
    assert "model.fp16" == group_of("model.fp16.safetensors")


def test_equal_tensors_have_no_differences():
    assert [] == differences({"a": ("F32", (1,))}, {"a": ("F32", (1,))})


def test_folding_is_stable_under_case_and_form():
    assert folded("CAFE\u0301") == folded("caf\u00e9")
    assert folded("a") != folded("b")


def test_a_huge_json_file_is_not_checked():
    assert is_checked_json("config.json", 10)
    assert not is_checked_json("config.json", 1 << 30)
    assert not is_checked_json("notes.json", 10)


# ------------------------------------------------------------------ the command


@pytest.fixture
def config(tmp_path):
    for name in ("register", "vault", "source", "serving"):
        (tmp_path / name).mkdir()
    changes = {
        "register.url": f"file://{tmp_path}/register",
        "vault.url": f"file://{tmp_path}/vault",
        "components.training.pairs.0.home": f"file://{tmp_path}/source",
        "components.training.pairs.0.away": f"file://{tmp_path}/serving",
    }
    path = tmp_path / "understudy.yaml"
    path.write_text(yaml.safe_dump(example(**changes)), encoding="utf-8")
    opening.open_register(load_settings(str(path))).initialise("recommender")
    for version, count in (("1", 4), ("2", 3)):
        for name, data in with_tensors(layers(count)).items():
            file = tmp_path / "source" / "m" / version / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    return str(path)


def artifacts(config, *arguments):
    command = [sys.executable, "-m", "understudy", "-c", config, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_refuses_with_exit_code_4_takes_a_reason_and_shows_it(config):
    done = artifacts(config, "artifacts", "push")
    assert 4 == done.returncode, done.stderr
    assert done.stdout.startswith("m 1: 5 files ")
    assert "refused: m 2 was not taken, model lacks 1 tensor of its parent (layer.3)" in done.stderr
    assert done.stderr.endswith('next: understudy artifacts push --model m --accept-change "REASON"\n')
    done = artifacts(config, "--json", "artifacts", "push")
    assert (4, ["held"]) == (done.returncode, [row["verdict"] for row in json.loads(done.stdout)])
    assert 3 == artifacts(config, "artifacts", "push", "--accept-change", " ").returncode
    done = artifacts(config, "artifacts", "push", "--model", "m", "--accept-change", "INC-7: pruned")
    assert 0 == done.returncode, done.stderr
    done = artifacts(config, "artifacts", "show", "m")
    assert "accepted: 'INC-7: pruned'" in done.stdout.splitlines()
    assert "accepted_changes: 'model lacks 1 tensor of its parent (layer.3)'" in done.stdout.splitlines()
