"""What is damaged is named, and the others are done all the same: ``artifacts list`` and ``artifacts verify``."""

from __future__ import annotations

import json

import pytest
import yaml

from tests.models import model_files
from tests.unit.example import example_in_folders
from understudy.command.root import run
from understudy.failover.register import Register
from understudy.objects.file import FileStore


@pytest.fixture
def understudy(tmp_path, capsys):
    """Three models, pushed and served; a runner of command lines that returns exit code and output."""
    (tmp_path / "lake").mkdir()
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(example_in_folders(tmp_path)), encoding="utf-8")
    Register(FileStore(tmp_path / "register")).initialise("recommender")
    for model in ("a", "b", "c"):
        for path, data in model_files(count=1).items():
            FileStore(tmp_path / "home").put(f"{model}/1/{path}", data)

    def call(*arguments):
        code = run(["-c", str(tmp_path / "c.yaml"), *arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    assert 0 == call("artifacts", "push")[0]
    assert 0 == call("artifacts", "hydrate")[0]
    return call


def spoil(folder, model):
    (folder / "vault" / "artifacts" / model / "1" / "00000001.json").write_bytes(b"[]")


def test_a_list_names_what_cannot_be_read_and_goes_on(understudy, tmp_path):
    spoil(tmp_path, "b")
    code, out, err = understudy("artifacts", "list")
    rows = [line.split()[:3] for line in out.splitlines()[1:]]
    assert (8, [["a", "1", "1"], ["b", "1", "1"], ["c", "1", "1"]]) == (code, rows)
    assert "cannot be read" in out.splitlines()[2]
    assert "artifacts/b/1/00000001.json is not an object" in err
    code, out, _ = understudy("--json", "artifacts", "list")
    assert (8, ["", "artifacts/b/1/00000001.json is not an object", ""]) == (
        code,
        [version["damage"] for version in json.loads(out)],
    )
    assert 0 == understudy("artifacts", "list", "a")[0]


def test_a_verification_names_what_is_damaged_and_reads_the_others(understudy, tmp_path):
    spoil(tmp_path, "a")
    weights = tmp_path / "away" / "b" / "1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    code, out, err = understudy("artifacts", "verify")
    assert 8 == code
    assert "a: not proven, artifacts/a/1/00000001.json" in out
    assert "b: not proven, b/1/model.safetensors" in out
    assert "sha256 5/5" in out.splitlines()[2]
    assert "a was not proven" in err


def test_a_verification_says_that_nothing_is_served_as_such(understudy, tmp_path):
    (tmp_path / "away" / "pointers" / "b.json").unlink()
    code, out, err = understudy("artifacts", "verify")
    assert 5 == code
    assert "serves no b" in err
    assert "sha256 5/5" in out.splitlines()[0]


def test_a_site_with_a_damaged_model_counts_as_proven_by_nothing_new(understudy, tmp_path):
    proofs = tmp_path / "vault" / "pointers" / "proven"
    before = {path: path.read_bytes() for path in proofs.rglob("*.json")}
    spoil(tmp_path, "a")
    understudy("artifacts", "verify")
    assert before == {path: path.read_bytes() for path in proofs.rglob("*.json")}
