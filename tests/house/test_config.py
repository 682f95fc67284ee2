"""The config's schema, tables and examples are fresh, agree with the loader, and what init writes works."""

from __future__ import annotations

import base64
import json
import os
import re
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.unit.example import example
from understudy.check import check_schedules, check_secrets, check_values
from understudy.command.screen import Screen
from understudy.errors import InvalidConfig, Refused
from understudy.schema import page, text
from understudy.settings import load_settings
from understudy.starting import CONFIG, ENVIRONMENT, config_text, environment_text, write_files

CONFIGS = Path(__file__).parents[2] / "config"
FILES = ("production.example.yaml", "sandbox.yaml")
SCHEMA = json.loads((CONFIGS / "schema.json").read_text(encoding="utf-8"))
VALIDATOR = Draft202012Validator(SCHEMA)
KEY = "ed25519:" + base64.b64encode(bytes(32)).decode()


def refused_by_schema(document):
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in VALIDATOR.iter_errors(document)]


def refused_by_loader(document, folder):
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    try:
        load_settings(path)
    except InvalidConfig as error:
        return str(error)
    return ""


def test_the_schema_is_what_the_settings_make_of_it():
    Draft202012Validator.check_schema(SCHEMA)
    assert (CONFIGS / "schema.json").read_text(encoding="utf-8") == text(), "run python -m understudy.schema"


def test_the_tables_are_what_the_schema_makes_of_them():
    found = (CONFIGS / "README.md").read_text(encoding="utf-8")
    assert found == page(found), "run python -m understudy.schema"
    assert "| `deletes_max` | `100` |" in found


def test_every_setting_is_explained():
    for name, definition in SCHEMA["$defs"].items():
        for setting, described in definition["properties"].items():
            assert described.get("description"), f"{name}.{setting}"


@pytest.mark.parametrize("name", FILES)
def test_editors_find_the_schema_of_a_config_and_it_fits(name):
    written = (CONFIGS / name).read_text(encoding="utf-8")
    assert "# yaml-language-server: $schema=schema.json" == written.splitlines()[0]
    assert [] == refused_by_schema(yaml.safe_load(written))


@pytest.mark.parametrize("name", FILES)
def test_a_config_loads(name, monkeypatch):
    written = (CONFIGS / name).read_text(encoding="utf-8")
    given = {"LEASE": "15s", "SERVICE_PORT": "443"}
    for variable in re.findall(r"\$\{([A-Z_0-9]+)\}", written):
        monkeypatch.setenv(variable, given.get(variable, "127.0.0.1:8000"))
    settings = load_settings(CONFIGS / name)
    assert "recommender" == settings.service
    assert [] == [finding for finding in [*check_values(settings), *check_schedules(settings)] if not finding.ok]


GOOD = [
    {},
    {"components.feature_store.rpo": "1.5h"},
    {"components.training.pairs.0.every": "02:00, 14:00"},
    {"components.training.rpo": None},
    {"vault.url": "s3://bucket"},
    {"vault.url": "file:///mnt/vault"},
    {"vault.trust": [KEY]},
    {"traffic.port": "8443"},
    {"alerts": None},
    {"alerts": {"url": "route53-health-check://1", "endpoints": {"route53": "127.0.0.1:80"}}},
    {"components.feature_store.pairs.0.away": "redis://10.0.0.1:6379/0?prefix=features"},
    {"components.vector_index.pairs.0.home": "pgvector://u@h/d?user=a@b&table=t&sslmode=require"},
    {"components.vector_index.pairs.0.password": "block:secret/index"},
    {"notify": ["block:slack-webhook/incidents"]},
    {"capacity.away": "fixed://12"},
]
BAD = [
    {"service": "Recommender"},
    {"components.feature_store.rpo": "5"},
    {"components.feature_store.rpo": 5},
    {"components.feature_store.rto": "soon"},
    {"components.training.pairs.0.every": "25:00"},
    {"vault.url": "ftp://bucket"},
    {"vault.url": "bucket"},
    {"vault.url": "s3://"},
    {"vault.trust": ["ed25519:short"]},
    {"vault.sign_with": "a secret"},
    {"trafic": {}},
    {"traffic.port": "high"},
    {"components.feature_store.pairs.0.away": "bigtable://project/instance"},
    {"components.feature_store.pairs.0.offline": None},
    {"components.vector_index.pairs.0.home": "pgvector://u@h/d"},
    {"components.vector_index.pairs.0.home": "pgvector://u:p@h/d?table=t"},
    {"components.vector_index.pairs.0.home": "s3://bucket"},
    {"components.vector_index.pairs.0.password": "hunter2"},
    {"components.serving": {"rto": "5m", "rpo": "none"}},
    {"capacity.away": "asg://group"},
    {"capacity.warm": -1},
    {"sites.home.cloud": "azure"},
    {"limits": {"memory": "a lot"}},
]


@pytest.mark.parametrize("changes", GOOD, ids=str)
def test_the_schema_accepts_what_the_loader_accepts(changes, tmp_path):
    document = example(**changes)
    assert ("", []) == (refused_by_loader(document, tmp_path), refused_by_schema(document))


@pytest.mark.parametrize("changes", BAD, ids=str)
def test_the_schema_refuses_what_the_loader_refuses(changes, tmp_path):
    document = example(**changes)
    assert refused_by_loader(document, tmp_path)
    assert refused_by_schema(document)


@pytest.mark.parametrize(
    ("setting", "url", "words"),
    [
        ("vault.url", "ftp://b", "ftp:// is not an object store that is known here; write s3://bucket/prefix or gs://"),
        ("capacity.away", "asg://g", "asg:// is not a group of instances that is known here; write gce://zone/group"),
        ("traffic.url", "route53://Z1", "is not complete; write route53://ZONE_ID/name.example.com"),
        ("alerts", {"url": "nothing"}, "names no vendor; write route53-health-check://ID"),
    ],
)
def test_an_unknown_vendor_is_told_the_known_ones_with_the_line(setting, url, words, tmp_path):
    document = example(**{setting: url})
    said = refused_by_loader(document, tmp_path)
    shown = url["url"] if isinstance(url, dict) else url
    lines = (tmp_path / "config.yaml").read_text(encoding="utf-8").splitlines()
    line = 1 + next(number for number, text in enumerate(lines) if shown in text)
    assert f"config.yaml:{line} {setting}{'.url' if setting == 'alerts' else ''}: {words}" in said


def filled(source, target):
    written = config_text(source, target, "recommender")
    return "".join(
        line.replace("FILL-IN", f"acme-{number}") for number, line in enumerate(written.splitlines(keepends=True))
    ).replace(f"acme-{0}-", "acme-")


@pytest.mark.parametrize(("source", "target"), list(product(("aws", "gcp"), repeat=2)))
def test_what_init_writes_loads_fits_and_passes_the_offline_check_once_filled_in(source, target, tmp_path, monkeypatch):
    for reference in re.findall(r"env:([A-Z_]+)", filled(source, target)):
        monkeypatch.setenv(reference, "filled in")
    path = tmp_path / "production.yaml"
    path.write_text(config_text(source, target, "recommender"), encoding="utf-8")
    fresh = check_values(load_settings(path))
    assert len(fresh) > 10
    assert {"still says FILL-IN; write your own"} == {finding.words for finding in fresh}
    assert all(finding.line for finding in fresh)
    path.write_text(filled(source, target), encoding="utf-8")
    settings = load_settings(path)
    findings = [*check_values(settings), *check_secrets(settings), *check_schedules(settings)]
    assert [] == [f"{finding.what}: {finding.words}" for finding in findings if not finding.ok]
    assert 4 == len(findings)
    assert [] == refused_by_schema(yaml.safe_load(filled(source, target)))
    assert (source, target) == (settings.sites.home.cloud, settings.sites.away.cloud)


def test_init_writes_no_secret_and_names_every_one_that_is_needed():
    for source, target in product(("aws", "gcp"), repeat=2):
        needed = set(re.findall(r"env:([A-Z_]+)", config_text(source, target, "shop")))
        assert needed - {"NAME"} <= set(re.findall(r"UNDERSTUDY_[A-Z_]+", environment_text()))
    values = [line.partition("=")[2] for line in environment_text().splitlines() if not line.startswith("#")]
    assert ["config/production.yaml", ""] == values


def test_init_overwrites_nothing_unasked(tmp_path):
    files = {CONFIG: "new", ENVIRONMENT: "new"}
    (tmp_path / ENVIRONMENT).write_text("mine", encoding="utf-8")
    with pytest.raises(Refused, match=r"^\.env\.example is there already; nothing was written"):
        write_files(tmp_path, files, force=False)
    assert "mine" == (tmp_path / ENVIRONMENT).read_text(encoding="utf-8")
    assert not (tmp_path / CONFIG).exists()
    write_files(tmp_path, files, force=True)
    assert "new" == (tmp_path / ENVIRONMENT).read_text(encoding="utf-8")


def test_the_command_writes_all_three_files_beside_each_other(tmp_path, monkeypatch, capsys):
    from understudy.command.init import init

    monkeypatch.chdir(tmp_path)
    context = SimpleNamespace(screen=Screen(as_json=False, quiet=False), config=None)
    init.main(["--from", "gcp", "--to", "aws", "--service", "shop"], standalone_mode=False, obj=context)
    assert {".env.example", "config/production.yaml", "config/schema.json"} == {
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()
    }
    assert "next: understudy config check --offline" in capsys.readouterr().out
    monkeypatch.setenv("UNDERSTUDY_INDEX_PASSWORD", "x" * 12)
    assert "shop" == load_settings().service
    with pytest.raises(InvalidConfig, match="cannot be a service's name"):
        init.main(["--from", "gcp", "--to", "aws", "--service", "My Shop"], standalone_mode=False, obj=context)
    assert os.environ.get("UNDERSTUDY_CONFIG") is None
