"""The debug bundle: all that can be read, the sentence for what cannot, and nothing secret."""

from __future__ import annotations

import json
import os
import tarfile

import yaml

from tests.unit.example import example
from understudy.command.root import run
from understudy.failover.register import Register
from understudy.objects.file import FileStore


def a_service(tmp_path, *, with_register=True):
    config = tmp_path / "c.yaml"
    for name in ("vault", "register"):
        (tmp_path / name).mkdir()
    if with_register:
        Register(FileStore(tmp_path / "register")).initialise("recommender")
    document = example(
        **{"vault.url": f"file://{tmp_path}/vault", "register.url": f"file://{tmp_path}/register", "components": {}}
    )
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    return config


def unpacked(path):
    with tarfile.open(path, "r:gz") as archive:
        return {
            member.name.partition("/")[2]: archive.extractfile(member).read().decode()
            for member in archive.getmembers()
        }


def test_a_bundle_holds_every_part_and_no_value_of_the_environment(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UNDERSTUDY_PLANTED", "planted-secret-value")
    config = a_service(tmp_path)
    assert 0 == run(["-c", str(config), "--json", "debug", "bundle", "--out", str(tmp_path / "b.tar.gz")])
    parts = unpacked(tmp_path / "b.tar.gz")
    expected = ["versions.json", "environment.txt", "config/c.yaml", "status.json", "check.json", "register.json"]
    assert [*expected, "failover.json", "journal.jsonl", "vault.json"] == list(parts)
    assert config.read_text(encoding="utf-8") == parts["config/c.yaml"]
    assert "UNDERSTUDY_PLANTED\n" in parts["environment.txt"]
    assert "planted-secret-value" not in "".join(parts.values())
    assert "aws-use1" == json.loads(parts["status.json"])["active"]
    assert json.loads(parts["versions.json"])["packages"]["pydantic"]
    assert [] == json.loads(capsys.readouterr().out)["unreadable"]
    assert 0o600 == os.stat(tmp_path / "b.tar.gz").st_mode & 0o777  # noqa: PTH116 - the mode is what is meant


def test_what_cannot_be_read_is_named_and_the_rest_is_there(tmp_path, capsys):
    config = a_service(tmp_path, with_register=False)
    assert 0 == run(["-c", str(config), "--json", "debug", "bundle", "--out", str(tmp_path / "b.tar.gz")])
    unreadable = {item["part"] for item in json.loads(capsys.readouterr().out)["unreadable"]}
    assert {"status.json", "register.json", "failover.json"} <= unreadable
    parts = unpacked(tmp_path / "b.tar.gz")
    assert parts["register.json"].startswith("could not be read: ")
    assert json.loads(parts["vault.json"])["url"]


def test_a_bundle_that_cannot_be_written_is_one_sentence(tmp_path, capsys):
    config = a_service(tmp_path)
    assert 3 == run(["-c", str(config), "debug", "bundle", "--out", str(tmp_path / "absent" / "b.tar.gz")])
    assert "cannot be written: No such file or directory" in capsys.readouterr().err
