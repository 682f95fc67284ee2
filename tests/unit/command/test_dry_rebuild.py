"""A dry rebuild through the command line: --full and the config's limit count there as they do in a run."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.unit.example import example
from tests.unit.features.offline_store import put_history
from tests.vector_sites import make_rows, make_site
from understudy.command.root import run
from understudy.failover.register import Register
from understudy.features.memory import MemoryFeatures
from understudy.objects.file import FileStore
from understudy.objects.memory import MemoryStore
from understudy.service import Service, open_service
from understudy.vectors.export import export


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A config with ten rows and some values in its vault, and a standby that already serves them."""
    for name in ("vault", "register"):
        (tmp_path / name).mkdir()
    Register(FileStore(tmp_path / "register")).initialise("recommender")
    config = tmp_path / "c.yaml"
    document = example(
        **{
            "vault.url": f"file://{tmp_path}/vault",
            "register.url": f"file://{tmp_path}/register",
            "limits": {"deletes_max": 3},
        }
    )
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    home, away, online = make_site("memory", lambda: ""), make_site("memory", lambda: ""), MemoryFeatures()
    lake = MemoryStore("lake")
    put_history(lake, 5)
    monkeypatch.setattr(Service, "index", lambda _self, _pair, role: (home if role == "home" else away).store)
    monkeypatch.setattr(Service, "online", lambda _self, _pair, _role: online)
    monkeypatch.setattr(Service, "offline", lambda _self, _pair, _role: lake)
    service = open_service(config)
    home.create(make_rows(10))
    service.export_vectors(service.pairs("vector_index")[0])
    service.replicate_offline(service.pairs("feature_store")[0])
    service.rebuild_index(service.pairs("vector_index")[0])
    service.rebuild_features(service.pairs("feature_store")[0])
    return config, home, service


def dry(config, capsys, *arguments):
    code = run(["-c", str(config), "--json", *arguments, "--dry-run"])
    said = capsys.readouterr()
    return code, (json.loads(said.out))


@pytest.mark.parametrize("noun", ["vectors", "features"])
def test_a_dry_rebuild_is_told_of_full_and_of_the_limit(site, capsys, noun):
    config, _, _ = site
    code, [report] = dry(config, capsys, noun, "rebuild")
    assert (0, "unchanged") == (code, report["verdict"])
    code, [report] = dry(config, capsys, noun, "rebuild", "--full")
    assert (0, "changed") == (code, report["verdict"])
    assert "refused if more than 3 " in report["sentence"]


def test_a_dry_rebuild_is_refused_where_the_run_is_sure_to_be(site, capsys):
    config, home, service = site
    home.delete([row[0] for row in make_rows(10)[:4]])
    export(home.store, service.vault, index="products", deletes_max=4)
    service.compose_set()
    code, said = dry(config, capsys, "vectors", "rebuild")
    assert 4 == code
    assert "4 rows that products serves would vanish, more than the limit of 3" in said["error"]["message"]
