"""``vault verify --sample`` goes through the vault night by night, and ``status`` shows what was found."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import yaml

from tests.models import model_files
from tests.unit.example import example_in_folders
from understudy.command.root import run
from understudy.failover.register import Register
from understudy.objects.file import FileStore
from understudy.service import open_service
from understudy.vault.pointers import proven_key
from understudy.vault.verified import read_verified

DAY = 24 * 3600


@pytest.fixture
def world(tmp_path):
    document = example_in_folders(tmp_path)
    for component in ("feature_store", "vector_index", "inference"):
        del document["components"][component]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    Register(FileStore(tmp_path / "register")).initialise("recommender")
    for path, data in model_files().items():
        FileStore(tmp_path / "home").put(f"m/1/{path}", data)
    service = open_service(tmp_path / "c.yaml")
    pair = service.settings.pair("training")
    service.push_artifacts(pair)
    service.hydrate(pair)
    return tmp_path


@pytest.fixture
def understudy(world, capsys):
    def call(*arguments):
        code = run(["-c", str(world / "c.yaml"), *arguments])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def pack(world):
    return next(path for path in Path(world / "vault" / "packs").rglob("*") if path.is_file())


def flip(file):
    data = bytearray(file.read_bytes())
    data[5] ^= 4
    file.write_bytes(data)


def status_line(understudy):
    code, out, _ = understudy("status")
    return code, next(line for line in out.splitlines() if line.startswith("vault: "))


def test_a_sample_is_read_and_the_next_one_goes_on_from_there(world, understudy):
    cursors = []
    for _ in range(3):
        code, out, error = understudy("--json", "vault", "verify", "--sample", "20%")
        assert (0, "sampled") == (code, json.loads(out)["kind"]), error
        cursors.append(json.loads(out)["cursor"])
    assert sorted(set(cursors)) == cursors or "" in cursors
    assert cursors[-1] == read_verified(open_service(world / "c.yaml").vault).cursor


def test_the_status_shows_when_the_vault_was_read_and_that_all_is_well(understudy):
    assert (0, "vault: new; never verified yet") == status_line(understudy)
    understudy("vault", "verify", "--deep")
    code, line = status_line(understudy)
    assert (0, True) == (code, line.startswith("vault: all well; deep ")), line
    shown = json.loads(understudy("--json", "status")[1])["vault"]
    assert ("ok", []) == (shown["verdict"], shown["problems"])


def test_a_damaged_pack_turns_the_status_red_with_the_command_that_says_more(world, understudy):
    flip(pack(world))
    assert 8 == understudy("vault", "verify", "--sample", "100%")[0]
    assert [8, 8, 8] == [understudy("vault", "verify", "--sample", "1%")[0] for _ in range(3)]
    code, out, _ = understudy("status")
    assert (5, True) == (code, "vault: DAMAGED: pack " in out)
    assert "next: understudy vault verify --deep" == out.splitlines()[-1]
    flip(pack(world))
    assert 0 == understudy("vault", "verify", "--sample", "1%")[0], "what was damaged is read again, and is sound"
    assert 0 == status_line(understudy)[0]


def test_a_vault_that_nobody_reads_turns_the_status_red(world, understudy):
    os.utime(world / "vault" / "format.json", times=(time.time() - 9 * DAY,) * 2)
    code, line = status_line(understudy)
    assert (5, True) == (code, "NOT VERIFIED: no sample for 9d" in line)
    (world / "c.yaml").write_text(
        yaml.safe_dump(
            yaml.safe_load((world / "c.yaml").read_text()) | {"vault": {"url": f"file://{world}/vault", "verify": None}}
        )
    )
    assert (0, True) == (status_line(understudy)[0], "not verified by schedule" in status_line(understudy)[1])


def test_what_is_due_is_everything_first_and_then_a_share(world):
    service = open_service(world / "c.yaml")
    assert ["deep", "sampled", "sampled"] == [service.verify_vault().kind for _ in range(3)]


def test_a_place_that_is_no_vault_yet_is_left_so(world, understudy):
    document = yaml.safe_load((world / "c.yaml").read_text(encoding="utf-8"))
    (world / "empty").mkdir()
    document["vault"]["url"] = f"file://{world}/empty"
    (world / "c.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    assert 0 == understudy("vault", "verify", "--deep")[0]
    assert [] == list((world / "empty").rglob("*.json"))


@pytest.mark.parametrize("share", ["1", "0%", "101%", "x%"])
def test_a_share_that_is_none_is_said_in_one_sentence(understudy, share):
    code, _, error = understudy("vault", "verify", "--sample", share)
    assert (3, True) == (code, error.startswith("--sample "))
    assert "Write --sample 1%" in error


def test_a_share_and_everything_at_once_are_refused(understudy):
    assert 3 == understudy("vault", "verify", "--deep", "--sample", "1%")[0]


# ---------------------------------------------------------------------- what a hydration measures


def test_a_hydration_keeps_how_quickly_it_restored_beside_its_proof(world):
    rows = 4_400
    for path, data in model_files(rows=rows, changed=0).items():
        FileStore(world / "home").put(f"m/2/{path}", data)
    service = open_service(world / "c.yaml")
    pair = service.settings.pair("training")
    service.push_artifacts(pair, accept_change="a test")
    [report] = service.hydrate(pair)
    kept = service.vault.pointer(proven_key("away", pair.name))
    assert (report.proven, report.bytes_sent) == (kept["by"], kept["restore"]["bytes"])
    from understudy.artifacts.catalog import find_manifest

    cost = service.restore_cost(find_manifest(service.vault, "m", "2"))
    assert pytest.approx(kept["restore"]["seconds"], abs=0.01) == cost.seconds
    [again] = service.hydrate(pair)
    assert "unchanged" == again.verdict
    assert kept == service.vault.pointer(proven_key("away", pair.name))


def test_loading_is_timed_kept_and_counted_in_the_plan_of_a_failover(world, monkeypatch):
    from understudy import serving as servings
    from understudy.failover.observe import _read_load

    answers = iter(["{}", '{"model": "2"}'])
    monkeypatch.setattr(servings, "health_of", lambda *_: lambda: next(answers))
    document = yaml.safe_load((world / "c.yaml").read_text(encoding="utf-8")) | {"serving": {"loaded": "model"}}
    (world / "c.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    for path, data in model_files(changed=1).items():
        FileStore(world / "home").put(f"m/2/{path}", data)
    service = open_service(world / "c.yaml")
    pair = service.settings.pair("training")
    service.push_artifacts(pair)
    [report] = service.hydrate(pair, follow=True)
    assert "; loaded in 0." in report.sentence
    kept = service.vault.pointer(proven_key("away", pair.name))
    assert (report.details["loaded"]["seconds"], "2", True) == (
        kept["load"]["seconds"],
        kept["load"]["version"],
        kept["load"]["seconds"] > 0.2,
    )

    class World:
        settings, vault = service.settings, service.vault

    assert (kept["load"]["seconds"], 0.0) == (_read_load(World, "away"), _read_load(World, "home"))
