"""``list``, ``show``, ``pull``, ``diff`` and ``--dry-run`` over a service whose stores are folders."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.models import model_files
from tests.unit.example import example_in_folders
from tests.unit.features.offline_store import put_history
from tests.vector_sites import make_rows, make_site
from understudy.command.root import run
from understudy.failover.register import Register
from understudy.features.replicate import replicate_offline
from understudy.objects.file import FileStore
from understudy.service import open_service
from understudy.vectors.export import export


@pytest.fixture
def world(tmp_path):
    """A config over folders; two model versions at home, an index and features in the vault."""
    (tmp_path / "lake").mkdir()
    document = example_in_folders(tmp_path)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    Register(FileStore(tmp_path / "register")).initialise("recommender")
    for version, changed in (("1", None), ("2", 1)):
        for path, data in model_files(changed=changed).items():
            FileStore(tmp_path / "home").put(f"m/{version}/{path}", data)
    vault = open_service(tmp_path / "c.yaml").vault
    site = make_site("memory", lambda: "")
    site.create(make_rows(20))
    export(site.store, vault, index="products")
    put_history(FileStore(tmp_path / "lake"), 10)
    replicate_offline(FileStore(tmp_path / "lake"), vault, view="user_features")
    return tmp_path


@pytest.fixture
def understudy(world, capsys):
    """Run a command line; return its exit code, and what it printed."""

    def call(*arguments):
        code = run(["-c", str(world / "c.yaml"), *arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_dry_push_prints_the_real_figures_and_leaves_the_vault_alone(world, understudy):
    before = files_below(world / "vault")
    code, dry, _ = understudy("--json", "artifacts", "push", "--dry-run")
    assert (0, before) == (code, files_below(world / "vault")), dry
    code, real, _ = understudy("--json", "artifacts", "push")
    figures = [[(r["version"], r["items_new"], r["bytes_sent"]) for r in json.loads(text)] for text in (dry, real)]
    assert figures[0] == figures[1]
    assert [True, True] == [report["dry_run"] for report in json.loads(dry)]
    assert before != files_below(world / "vault")
    assert "dry run, nothing was written: m 2: unchanged" in understudy("artifacts", "push", "--dry-run")[1]


def test_models_are_listed_shown_compared_and_pulled(world, understudy):
    understudy("artifacts", "push")
    versions = [(each["model"], each["version"]) for each in json.loads(understudy("--json", "artifacts", "list")[1])]
    assert [("m", "1"), ("m", "2")] == versions
    assert (
        "m 1 -> 2: 1 files differ, 4 are the same; 65.5 kB of new chunks"
        in understudy("artifacts", "diff", "m", "1", "2")[1]
    )
    code, out, _ = understudy("artifacts", "pull", "m", "1", "--to", str(world / "here"))
    assert (0, True) == (code, "sha256 5/5" in out)
    assert model_files()["model.safetensors"] == (world / "here" / "m" / "1" / "model.safetensors").read_bytes()


def test_a_site_is_brought_to_the_set_of_a_moment_only_when_there_was_one(understudy):
    understudy("artifacts", "push")
    code, _, error = understudy("artifacts", "hydrate", "--as-of", "2001-01-01T00:00:00Z")
    assert (5, True) == (code, "held no m at 2001-01-01T00:00:00+00:00" in error)


def test_indexes_and_features_are_listed_and_shown(understudy):
    (index,) = json.loads(understudy("--json", "vectors", "list")[1])
    assert ("products", 1, 20) == (index["index"], index["sequence"], index["rows"])
    assert "embedding  vector(8)" in understudy("vectors", "show")[1]
    (view,) = json.loads(understudy("--json", "features", "list")[1])
    assert ("user_features", 1, 10) == (view["view"], view["sequence"], view["rows"])
    assert "clicks   int64" in understudy("features", "show")[1]


def test_indexes_and_features_are_pulled(world, understudy):
    assert 0 == understudy("vectors", "pull", "--to", str(world / "out"))[0]
    assert 0 == understudy("features", "pull", "--to", str(world / "out"))[0]
    pulled = files_below(world / "out")
    assert "user_features/history/day1.parquet" in pulled
    assert [name for name in pulled if name.startswith("products/1/") and name.endswith(".parquet")]


def test_a_sequence_that_is_not_there_is_one_sentence(understudy):
    for command in (("vectors", "show", "products", "7"), ("features", "diff", "user_features", "1", "7")):
        code, _, error = understudy(*command)
        assert (True, 1) == (code != 0, len(error.splitlines()))
