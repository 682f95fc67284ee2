"""The first commands of a new service: each says the next one of one and the same road."""

from __future__ import annotations

import pytest
import yaml

from tests.unit.example import EXAMPLE, example
from understudy.command.config import first_push
from understudy.command.root import run
from understudy.settings import Settings


@pytest.fixture
def config(tmp_path):
    for name in ("vault", "register", "models", "serving"):
        (tmp_path / name).mkdir()
    pair = {"name": "m", "home": f"file://{tmp_path}/models", "away": f"file://{tmp_path}/serving", "every": "1h"}
    document = example(
        **{
            "vault.url": f"file://{tmp_path}/vault",
            "register.url": f"file://{tmp_path}/register",
            "components": {"training": {"rto": "4h", "rpo": "24h", "pairs": [pair]}},
        }
    )
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return str(path)


def test_init_says_the_whole_road_in_its_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert 0 == run(["init", "--from", "aws", "--to", "gcp"])
    said = capsys.readouterr().out
    road = ["FILL-IN", "config check --offline", "register init", "config check,", "push", "status"]
    places = [said.index(step) for step in road]
    assert sorted(places) == places


def test_each_step_names_the_one_after_it(config, capsys):
    assert 0 == run(["-c", config, "config", "check", "--offline"])
    assert "next: understudy register init, once; then understudy config check\n" in capsys.readouterr().out
    assert 0 == run(["-c", config, "register", "init"])
    following = "next: understudy config check, then understudy artifacts push, then understudy status\n"
    assert following in capsys.readouterr().out


def test_the_first_push_is_of_what_is_configured():
    components = EXAMPLE["components"]
    assert "artifacts push, then understudy status" == first_push(Settings.model_validate(EXAMPLE))
    for name, command in (("vector_index", "vectors export"), ("feature_store", "features push")):
        only = Settings.model_validate(example(components={name: components[name]}))
        assert f"{command}, then understudy status" == first_push(only)
    assert "status" == first_push(Settings.model_validate(example(components={"inference": components["inference"]})))


def test_a_status_before_there_is_a_register_says_what_to_do_in_one_sentence(config, capsys):
    assert 5 == run(["-c", config, "status"])
    said = capsys.readouterr()
    assert "" == said.out
    [line] = said.err.splitlines()
    assert line.startswith("there is no register at file://")
    assert line.endswith("next: understudy register init")
