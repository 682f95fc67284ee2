"""Manifests: they come back as they were written, and a hostile one is refused in a sentence."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace

import orjson
import pytest

from understudy.artifacts.manifest import (
    ArtifactFile,
    ArtifactManifest,
    Lineage,
    SourceObject,
    decode_manifest,
    encode_manifest,
    manifest_key,
    model_digest,
)
from understudy.errors import Corrupt, Unsupported


def file_named(path, content=b"abc"):
    sha256 = hashlib.sha256(content).hexdigest()
    source = SourceObject(f"m/1/{path}", "v1", "t1", "2026-11-21T00:00:00+00:00")
    return ArtifactFile(path, len(content), sha256, "opaque", source, (("ab" * 32, len(content)),))


def manifest_of(*files, model="m", version="1"):
    return ArtifactManifest(
        model=model,
        version=version,
        revision=3,
        digest=model_digest((file.path, file.sha256) for file in files),
        files=files,
        parent=Lineage("0", 1, "cd" * 32),
        tags={"stage": "test"},
        created={"by": "test"},
    )


def decoded(manifest, key=None):
    return decode_manifest(encode_manifest(manifest), key or manifest_key("m", "1", 3))


def test_a_manifest_comes_back_as_it_was_written():
    manifest = manifest_of(file_named("a/b.bin"), file_named("c"))
    assert manifest == decoded(manifest)
    first = replace(manifest, parent=None)
    assert first == decoded(first)


@pytest.mark.parametrize(
    "path",
    [
        "../evil",
        "a/../../evil",
        "/etc/passwd",
        "a\\..\\b",
        "..",
        ".",
        "a//b",
        "a/./b",
        "",
        "a\nb",
        "a\0b",
        "x" * 1025,
        "a/",
    ],
)
def test_a_path_that_leaves_its_directory_is_corrupt(path):
    with pytest.raises(Corrupt, match="names the file"):
        decoded(manifest_of(file_named(path)))


def test_a_path_named_twice_is_corrupt():
    with pytest.raises(Corrupt, match="twice"):
        decoded(manifest_of(file_named("a"), file_named("a")))


def test_a_path_that_is_file_and_directory_is_corrupt():
    with pytest.raises(Corrupt, match="both as a file and as a directory"):
        decoded(manifest_of(file_named("a"), file_named("a/b")))


@pytest.mark.parametrize("name", ["..", "a/b", "a\\b", ""])
def test_a_name_that_is_no_name_is_corrupt(name):
    with pytest.raises(Corrupt, match="cannot be one"):
        decoded(manifest_of(file_named("a"), version=name), manifest_key("m", name, 3))


def test_a_manifest_under_another_key_is_corrupt():
    with pytest.raises(Corrupt, match="says that it is m 1 revision 3"):
        decoded(manifest_of(file_named("a")), manifest_key("m", "2", 3))


def test_a_changed_sha256_does_not_fit_the_digest():
    manifest = manifest_of(file_named("a"))
    wrong = replace(manifest, files=(file_named("a", b"xyz"),))
    with pytest.raises(Corrupt, match="digest"):
        decoded(wrong)


def test_chunks_that_do_not_add_up_are_corrupt():
    with pytest.raises(Corrupt, match="do not add up"):
        decoded(manifest_of(replace(file_named("a"), chunks=(("ab" * 32, 2),))))


def test_a_manifest_without_files_is_corrupt():
    with pytest.raises(Corrupt, match="no files"):
        decoded(manifest_of())


@pytest.mark.parametrize(
    "change",
    [
        {"files": 7},
        {"files": [7]},
        {"files": [{}]},
        {"revision": "3"},
        {"revision": -1},
        {"digest": "XY" * 32},
        {"model": None},
        {"parent": {"version": 1}},
        {"tags": []},
    ],
)
def test_a_manifest_of_another_shape_is_corrupt(change):
    value = orjson.loads(encode_manifest(manifest_of(file_named("a")))) | change
    with pytest.raises(Corrupt):
        decode_manifest(orjson.dumps(value), manifest_key("m", "1", 3))


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b'"x"', b"{", b"\xff"])
def test_what_is_not_an_object_is_corrupt(data):
    with pytest.raises(Corrupt):
        decode_manifest(data, "artifacts/m/1/00000003.json")


def test_a_later_format_asks_for_an_upgrade():
    with pytest.raises(Unsupported, match=r"[Uu]pgrade"):
        decode_manifest(b'{"format": 2}', "artifacts/m/1/00000003.json")


def test_the_digest_is_what_sha256sum_gives(tmp_path):
    files = {"b.txt": b"bee", "a.txt": b"ay"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    listed = subprocess.run(["sha256sum", *sorted(files)], cwd=tmp_path, capture_output=True, check=True).stdout
    digests = [(name, hashlib.sha256(content).hexdigest()) for name, content in files.items()]
    assert hashlib.sha256(listed).hexdigest() == model_digest(digests)
