"""The vault's whole road over the vendors' own clients: S3 -> vault on GCS -> GCS, checked, damaged, found."""

from __future__ import annotations

import pytest

from tests.faults import FaultyStore
from tests.models import model_files
from understudy import opening
from understudy.artifacts.hydrate import hydrate, verify_hydrated
from understudy.artifacts.replicate import push
from understudy.errors import Corrupt
from understudy.vault.store import open_vault
from understudy.vault.verify import verify

pytestmark = pytest.mark.slow


def test_a_model_crosses_from_s3_to_gcs_and_damage_is_found(make_s3_bucket, make_bucket_gcs, aws_access, gcp_access):
    source = opening.open_store(f"s3://{make_s3_bucket()}/models/", aws_access)
    vault = open_vault(opening.open_store(f"gs://{make_bucket_gcs()}/service", gcp_access))
    target = opening.open_store(f"gs://{make_bucket_gcs()}/", gcp_access)
    for version, changed in (("1", None), ("2", 1)):
        for path, data in model_files(changed=changed).items():
            source.put(f"m/{version}/{path}", data)
    assert ["changed", "changed"] == [report.verdict for report in push(source, vault)]
    watched = FaultyStore(source)
    assert ["unchanged"] == [report.verdict for report in push(watched, vault)]
    assert {"list"} == set(watched.calls)
    assert () == verify(vault, deep=False).problems
    assert () == verify(vault, deep=True).problems
    hydrate(vault, target, model="m", version="1")
    assert model_files() == {path: target.get(f"m/1/{path}") for path in model_files()}
    assert "unchanged" == hydrate(vault, target, model="m", version="1").verdict
    assert "sha256 5/5" == verify_hydrated(vault, target, "m").proven

    # A byte that someone with the right to write changed: the listing's own CRC32C already tells.
    pack = max(vault.store.list("packs/"), key=lambda info: info.size)
    data = bytearray(vault.store.get(pack.key))
    data[100] ^= 1
    vault.store.put(pack.key, bytes(data))
    [problem] = verify(vault, deep=False).problems
    assert "has CRC32C" in problem
    target.delete("m/1/model.safetensors")
    with pytest.raises(Corrupt, match=pack.key[-64:]):
        hydrate(vault, target, model="m", version="1")
    assert "m/1/model.safetensors" not in {info.key for info in target.list()}
