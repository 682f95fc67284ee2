"""Golden vaults: what an earlier version wrote is read, verified deeply and restored byte for byte by this one."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.golden.make import rows
from understudy.artifacts.catalog import all_manifests
from understudy.artifacts.hydrate import hydrate, verify_hydrated
from understudy.errors import Corrupt
from understudy.features.truth import read_offline
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.vault.index import load_index
from understudy.vault.sets import newest_set
from understudy.vault.signing import Signing, is_manifest, split
from understudy.vault.store import open_vault
from understudy.vault.verify import verify
from understudy.vectors.memory import MemoryVectors
from understudy.vectors.rebuild import rebuild

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(params=["v1", "v1-signed"])
def golden(request, tmp_path):
    """A copy of a golden vault, opened as its config would, and what is known to be in it."""
    folder = GOLDEN / request.param
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    shutil.copytree(folder / "vault", tmp_path / "vault")
    signing = Signing(expected["service"], trust=(expected["trust"],)) if "trust" in expected else None
    return open_vault(FileStore(tmp_path / "vault"), service=expected["service"], signing=signing), expected


def test_every_byte_is_verified(golden):
    vault, expected = golden
    found = verify(vault, deep=True)
    assert () == found.problems
    assert (7, 7 if "trust" in expected else None) == (found.manifests, found.signed)
    assert 11 == found.chunks


def test_every_file_of_every_revision_is_restored_byte_for_byte(golden):
    vault, expected = golden
    restored = {}
    for manifest in all_manifests(vault):
        target = MemoryStore("target")
        hydrate(vault, target, model="m", version=manifest.version, revision=manifest.revision)
        assert f"sha256 {len(manifest.files)}/{len(manifest.files)}" == verify_hydrated(vault, target, "m").proven
        restored |= {
            info.key: hashlib.sha256(target.get(info.key)).hexdigest() for info in target.list(f"m/{manifest.version}/")
        }
    assert expected["files"] == restored


def test_it_has_chunks_of_every_coder_of_its_format(golden):
    vault, _ = golden
    index = load_index(vault)
    assert {"raw", "zstd"} == {location.coder for _, rows in index.by_pack() for location in rows}


def test_the_index_is_rebuilt_row_for_row(golden):
    vault, expected = golden
    target = MemoryVectors("target")
    report = rebuild(vault, target, index="products")
    schema, _ = rows(40)
    assert schema.layout() == target.describe().schema.layout()
    with target.snapshot(1) as snapshot:
        found = [row for each in snapshot.slices for batch in each() for row in batch.to_pylist()]
    assert sorted(expected["rows"], key=lambda row: row["id"]) == sorted(found, key=lambda row: row["id"])
    assert report.proven.startswith("digest")


def test_the_features_are_what_they_were(golden):
    vault, expected = golden
    cells = [[cell.entity, cell.feature, cell.value] for cell in read_offline(vault, view="profiles")]
    assert expected["cells"] == cells


def test_the_set_pins_one_version_and_holds_the_other(golden):
    vault, expected = golden
    found = newest_set(vault, expected["service"])
    assert expected["set"] == found.sentence
    assert ("1", ("2",)) == (found.model.version, tuple(held.version for held in found.held))


def test_the_signed_one_does_not_pass_with_another_key_or_a_manifest_of_the_unsigned_one(tmp_path):
    shutil.copytree(GOLDEN / "v1-signed" / "vault", tmp_path / "vault")
    store = FileStore(tmp_path / "vault")
    assert all(split(store.get(info.key))[1] for info in store.list() if is_manifest(info.key))
    stranger = Signing("golden", trust=("ed25519:" + "A" * 43 + "=",))
    with pytest.raises(Corrupt, match="is signed by"):
        all_manifests(open_vault(store, signing=stranger))
    expected = json.loads((GOLDEN / "v1-signed" / "expected.json").read_text(encoding="utf-8"))
    key = "artifacts/m/2/00000001.json"
    store.put(key, (GOLDEN / "v1" / "vault" / key).read_bytes())
    with pytest.raises(Corrupt, match=f"{key} is not signed"):
        all_manifests(open_vault(store, signing=Signing("golden", trust=(expected["trust"],))))
