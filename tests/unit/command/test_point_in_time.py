"""``--as-of`` brings what the vault held at a moment, with nothing but the vault and the target left."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from tests.models import model_files
from tests.unit.example import example_in_folders
from understudy.command.root import run
from understudy.failover.register import Register
from understudy.objects.file import FileStore

HOUR = 3600
DAYS_BEFORE = {"1": 3, "2": 2, "10": 1}


def at(days_ago):
    return (datetime.now(UTC) - timedelta(days=days_ago)).isoformat()


def document_of(folder):
    document = example_in_folders(folder)
    for component in ("feature_store", "vector_index"):
        del document["components"][component]
    return document


@pytest.fixture
def understudy(tmp_path, capsys):
    """Models of three days in a vault of folders; home and register are gone. Runs a command line, errors in words."""
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(document_of(tmp_path)), encoding="utf-8")
    Register(FileStore(tmp_path / "register")).initialise("recommender")

    def call(*arguments):
        code = run(["-c", str(path), *arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    seen = set()
    for number, (version, days) in enumerate(DAYS_BEFORE.items()):
        for name, data in model_files(changed=number).items():
            FileStore(tmp_path / "home").put(f"m/{version}/{name}", data)
        assert 0 == call("artifacts", "push")[0]
        for file in set((tmp_path / "vault").rglob("*.json")) - seen:
            os.utime(file, times=(time.time() - days * 24 * HOUR,) * 2)
            seen.add(file)
    shutil.rmtree(tmp_path / "home")
    shutil.rmtree(tmp_path / "register")
    return call


@pytest.mark.parametrize(("days", "version"), [(0, "10"), (1.5, "2"), (2.5, "1")])
def test_a_moment_brings_the_version_that_was_the_newest_then(understudy, tmp_path, days, version):
    code, out, error = understudy("artifacts", "hydrate", "--site", "gcp-usc1", "--as-of", at(days))
    assert (0, True) == (code, f"serves nothing -> {version}" in out), error
    expected = model_files(changed=list(DAYS_BEFORE).index(version))
    assert expected == {path: (tmp_path / "away" / "m" / version / path).read_bytes() for path in expected}
    assert version == json.loads((tmp_path / "away" / "pointers" / "m.json").read_bytes())["version"]
    assert 0 == understudy("artifacts", "pull", "m", "--as-of", at(days), "--to", str(tmp_path / "here"))[0]
    assert [version] == [path.name for path in (tmp_path / "here" / "m").iterdir()]


def test_without_a_set_it_is_the_newest_version_that_was_there_by_natural_order(understudy, tmp_path):
    shutil.rmtree(tmp_path / "vault" / "sets")
    for days, version in ((0, "10"), (1.5, "2"), (2.5, "1")):
        assert 0 == understudy("artifacts", "pull", "m", "--as-of", at(days), "--to", str(tmp_path / version))[0]
        assert [version] == [path.name for path in (tmp_path / version / "m").iterdir()]


def test_what_a_set_pinned_then_goes_before_what_was_merely_there(understudy, tmp_path):
    past = (time.time() - 3 * 24 * HOUR,) * 2
    for file in (tmp_path / "vault" / "artifacts" / "m" / "10").iterdir():
        os.utime(file, times=past)
    assert "serves nothing -> 2" in understudy("artifacts", "hydrate", "--site", "gcp-usc1", "--as-of", at(1.5))[1]


def test_a_site_goes_back_to_a_moment_and_forward_again(understudy):
    for days, words in ((0, "serves nothing -> 10"), (1.5, "serves 10 -> 2"), (0, "serves 2 -> 10")):
        assert words in understudy("artifacts", "hydrate", "--site", "gcp-usc1", "--as-of", at(days))[1]


def test_what_was_not_there_yet_is_said_with_what_to_do(understudy, tmp_path):
    for command in (("hydrate", "--site", "gcp-usc1"), ("pull", "m", "--to", str(tmp_path / "here"))):
        code, _, error = understudy("artifacts", *command, "--as-of", at(9))
        assert (5, True, True) == (code, "held no m at " in error, "artifacts list m" in error)
    assert not (tmp_path / "away" / "m").exists()


def test_a_version_and_a_moment_together_are_refused(understudy):
    code, _, error = understudy("artifacts", "pull", "m", "1", "--as-of", at(1))
    assert (3, True) == (code, "both say which version is wanted" in error)


def test_a_model_that_came_later_is_left_as_it_is(understudy, tmp_path):
    manifest = tmp_path / "vault" / "artifacts" / "m" / "10"
    shutil.copytree(manifest, tmp_path / "vault" / "artifacts" / "late" / "1")
    code, out, _ = understudy("artifacts", "hydrate", "--site", "gcp-usc1", "--as-of", at(1.5))
    assert (0, 1) == (code, len(out.splitlines()))


def test_show_says_what_a_restore_reads(understudy):
    code, out, _ = understudy("artifacts", "show", "m", "1")
    assert (0, True) == (code, out.splitlines()[-1].startswith("restore: reads "))
    shown = json.loads(understudy("--json", "artifacts", "show", "m", "1")[1])["restore"]
    assert shown["bytes_read"] == shown["own"] + shown["bases"] > 0
    assert (0, None, None) == (shown["missing"], shown["rate"], shown["seconds"])
