"""The debug bundle: all that can be read, the sentence for what cannot, and nothing secret."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from contextlib import nullcontext

import pytest
import yaml

from tests.unit.example import example
from understudy.bundle import write_bundle
from understudy.command.root import run
from understudy.failover.journal import Journal
from understudy.failover.register import Register
from understudy.objects.file import FileStore
from understudy.service import open_service
from understudy.vault.store import Vault

pytestmark = pytest.mark.slow  # a loop of 30 seconds has no room for it


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


def held(folder):
    """Every file below a folder, by its name and bytes."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_changes_nothing_anywhere(tmp_path):
    a_service(tmp_path)
    for name in ("models", "serving"):
        (tmp_path / name).mkdir()
    (tmp_path / "models" / "m").write_bytes(b"x")
    pair = {"name": "m", "home": f"file://{tmp_path}/models", "away": f"file://{tmp_path}/serving", "every": "1h"}
    document = example(
        **{
            "vault.url": f"file://{tmp_path}/vault",
            "register.url": f"file://{tmp_path}/register",
            "components": {"training": {"rto": "4h", "rpo": "24h", "pairs": [pair]}},
        }
    )
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    before = held(tmp_path)
    assert 0 == run(["-c", str(config), "debug", "bundle", "--out", str(tmp_path / "b.tar.gz")])
    after = held(tmp_path)
    bundle = after.pop(str(tmp_path / "b.tar.gz"))
    assert bundle
    assert before == after
    found = {item["what"].split()[0]: item for item in json.loads(unpacked(tmp_path / "b.tar.gz")["check.json"])}
    for what in ("vault", "register", "models"):  # each was asked, and answered
        assert found[what]["ok"], found[what]
    assert "epoch 1; read; writing was not tried" == found["register"]["words"]


def journals_of(tmp_path, monkeypatch):
    """A vault that does not answer, and an entry that the register's copy holds, and one that only this disk holds."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    config = a_service(tmp_path)
    state = Register(FileStore(tmp_path / "register")).read()
    journal = Journal(
        Vault(FileStore(tmp_path / "vault")),
        Vault(FileStore(tmp_path / "register")),
        epoch=2,
        who="ana",
        plan="p",
        register=state.id,
        directory=tmp_path / "state" / "understudy" / "journal" / "recommender",
        service="recommender",
    ).open()
    for action in ("claim", "hydrate", "swap"):
        journal.write("intent", action)
    (tmp_path / "register" / "journal" / "00000002" / "00000003.json").unlink()
    return config


def test_the_journal_of_a_dead_vault_comes_from_its_other_copies(tmp_path, monkeypatch):
    config = journals_of(tmp_path, monkeypatch)
    (tmp_path / "vault" / "journal" / "00000002" / "00000001.json").write_text("damaged", encoding="utf-8")
    assert 0 == run(["-c", str(config), "debug", "bundle", "--out", str(tmp_path / "a.tar.gz")])
    lines = [json.loads(line) for line in unpacked(tmp_path / "a.tar.gz")["journal.jsonl"].splitlines()]
    every = ["vault", "register", "local"]
    assert [("claim", every[1:]), ("hydrate", every), ("swap", ["vault", "local"])] == [
        (line["entry"]["action"], line["copies"]) for line in lines[:3]
    ]
    [problem] = lines[3:]
    assert "vault" == problem["copy"]
    assert "journal/00000002/00000001.json" in problem["could not be read"]

    shutil.rmtree(tmp_path / "vault")
    (tmp_path / "vault").write_text("no folder", encoding="utf-8")
    assert 0 == run(["-c", str(config), "debug", "bundle", "--out", str(tmp_path / "b.tar.gz")])
    lines = [json.loads(line) for line in unpacked(tmp_path / "b.tar.gz")["journal.jsonl"].splitlines()]
    assert [("claim", every[1:]), ("hydrate", every[1:]), ("swap", ["local"])] == [
        (line["entry"]["action"], line["copies"]) for line in lines[:3]
    ]
    assert ["vault"] == [line["copy"] for line in lines[3:]]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, None])
def test_the_file_under_way_is_its_owners_alone_and_gone_when_it_is_stopped(tmp_path, monkeypatch, stop):
    config, folder = a_service(tmp_path), tmp_path / "out"
    folder.mkdir()
    (folder / ".b.tar.gz.part").write_text("somebody else's", encoding="utf-8")
    seen = []

    def look():
        seen.extend((path.name, path.stat().st_mode & 0o777) for path in folder.iterdir() if path.suffix == ".part")
        if stop:
            raise stop
        return {}

    monkeypatch.setattr("understudy.bundle.versions", look)
    old = os.umask(0)
    try:
        with nullcontext() if stop is None else pytest.raises(stop):
            write_bundle(open_service(config), config, folder / "b.tar.gz")
    finally:
        os.umask(old)
    [mode] = [mode for name, mode in seen if name != ".b.tar.gz.part"]
    assert 0o600 == mode
    assert {".b.tar.gz.part", *(["b.tar.gz"] if stop is None else [])} == {path.name for path in folder.iterdir()}
    assert "somebody else's" == (folder / ".b.tar.gz.part").read_text(encoding="utf-8")
