"""``understudy vault prune``: what people and programs see, and when it refuses."""

from __future__ import annotations

import json
import os

import pytest
import yaml

from tests.pruning import Past, put
from tests.unit.command.test_vault import understudy
from tests.unit.example import example
from understudy import opening
from understudy.artifacts.hydrate import hydrate
from understudy.artifacts.replicate import push
from understudy.objects.file import FileStore
from understudy.settings import load_settings
from understudy.vault.store import open_vault

pytestmark = pytest.mark.slow  # each command is a process


@pytest.fixture
def config(tmp_path):
    """A config whose vault holds four versions, pushed 40 to 10 days ago; the standby serves the first."""
    for name in ("register", "vault", "source", "serving"):
        (tmp_path / name).mkdir()
    path = tmp_path / "understudy.yaml"
    folders = {
        "register.url": f"file://{tmp_path}/register",
        "vault.url": f"file://{tmp_path}/vault",
        "vault.keep": {"last": 2},
        "components.training.pairs.0.home": f"file://{tmp_path}/source",
        "components.training.pairs.0.away": f"file://{tmp_path}/serving",
    }
    path.write_text(yaml.safe_dump(example(**folders)), encoding="utf-8")
    opening.open_register(load_settings(str(path))).initialise("recommender")
    source = FileStore(tmp_path / "source")
    for version in range(1, 5):
        put(source, version)
        store = Past(tmp_path / "vault", 50 - 10 * version)
        push(source, open_vault(store, service="recommender"))
        store.settle()
    hydrate(open_vault(FileStore(tmp_path / "vault")), FileStore(tmp_path / "serving"), model="m", version="1")
    return path


def listed(tmp_path):
    return sorted(info.key for info in FileStore(tmp_path / "vault").list())


def test_a_dry_run_shows_what_would_go_and_the_next_command(config, tmp_path):
    before = listed(tmp_path)
    done = understudy(config, "vault", "prune")
    assert 0 == done.returncode, done.stderr
    assert before == listed(tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"would prune file://{tmp_path}/vault: 3 revisions kept, 1 revision and ")
    assert ["model", "m", "3", "2", "-", "-"] == lines[2].split()[:6]
    assert "last 2: 2" in lines[2]
    assert "served by gcp-usc1: 1" in lines[2]
    assert "next: understudy vault prune --yes" == lines[-1]


def test_a_prune_condemns_then_deletes_and_says_so_to_programs_too(config, tmp_path):
    done = understudy(config, "--json", "vault", "prune", "--yes")
    value = json.loads(done.stdout)
    assert (True, ["2"], []) == (value["written"], value["models"][0]["condemned"], value["models"][0]["deleted"])
    assert value["next_at"] is not None
    Past(tmp_path / "vault", 8).settle()
    again = json.loads(understudy(config, "--json", "vault", "prune", "--yes").stdout)
    assert ["2"] == again["models"][0]["deleted"]
    assert "artifacts/m/2/00000001.json" not in listed(tmp_path)
    assert 0 == understudy(config, "vault", "verify", "--deep").returncode
    told = understudy(config, "vault", "prune")
    assert "next:" not in told.stdout.splitlines()[-1]


def test_nothing_is_pruned_while_a_site_cannot_be_read(config, tmp_path):
    (tmp_path / "serving").rename(tmp_path / "away")
    done = understudy(config, "vault", "prune")
    assert 4 == done.returncode
    assert "nothing is pruned: what gcp-usc1 serves of models cannot be read" in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_nothing_is_pruned_without_the_register_nor_while_another_prunes(config, tmp_path):
    lock = tmp_path / "vault" / "condemned" / "prune.lock"
    lock.parent.mkdir()
    lock.write_bytes(b"{}")
    done = understudy(config, "vault", "prune", "--yes")
    assert (6, True) == (done.returncode, "another prune" in done.stderr)
    os.utime(lock, (1e9, 1e9))
    (tmp_path / "register" / "register.json").unlink()
    assert 4 == understudy(config, "vault", "prune", "--yes").returncode


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vault.condemned_for": "2d"}, "is shorter than a push may take; write 3d or more"),
        ({"vault.keep": {"tagged": True}}, "keeps no version by its age; write last: 10"),
        ({"vault.keep": {"last": 0}}, "keeps no version by its age"),
        ({"vault.keep": {"latest": 3}}, "is not a setting"),
        ({"vault.prune_every": "7"}, "has no unit"),
    ],
)
def test_a_wrong_setting_is_said_with_its_line(tmp_path, change, words):
    path = tmp_path / "understudy.yaml"
    path.write_text(yaml.safe_dump(example(**change)), encoding="utf-8")
    done = understudy(path, "vault", "prune")
    assert 3 == done.returncode
    assert words in done.stderr
