"""Signing through the config and the command line: keygen, push, sign, verify; the other site has public keys alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.models import model_files
from tests.unit.example import example
from understudy import opening
from understudy.settings import load_settings
from understudy.vault.seal import seal, unseal
from understudy.vault.signing import is_manifest, public_line, split

pytestmark = pytest.mark.slow  # a loop of 30 seconds has no room for it

PAGE = Path(__file__).parents[3] / "docs" / "formats.md"


def understudy(config, *arguments, **environment):
    command = [sys.executable, "-m", "understudy", "-c", str(config), *arguments]
    kept = {name: value for name, value in os.environ.items() if name != "SIGNING_KEY"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env={**kept, **environment})


@pytest.fixture
def write_config(tmp_path):
    for name in ("register", "vault", "source", "serving"):
        (tmp_path / name).mkdir()

    def write(name="understudy", **changes):
        folders = {
            "register.url": f"file://{tmp_path}/register",
            "vault.url": f"file://{tmp_path}/vault",
            "components.training.pairs.0.home": f"file://{tmp_path}/source",
            "components.training.pairs.0.away": f"file://{tmp_path}/serving",
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(example(**folders, **changes)), encoding="utf-8")
        return path

    opening.open_register(load_settings(str(write()))).initialise("recommender")
    for name, data in model_files().items():
        file = tmp_path / "source" / "m" / "1" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return write


def test_a_key_is_made_signs_what_was_there_and_what_comes_and_the_other_site_needs_none(write_config, tmp_path):
    assert 0 == understudy(write_config(), "artifacts", "push").returncode
    made = understudy(write_config(), "--json", "vault", "keygen", "--out", str(tmp_path / "key.pem"))
    public = json.loads(made.stdout)["public"]
    key = (tmp_path / "key.pem").read_text(encoding="ascii")
    away = write_config("away", **{"vault.trust": [public]})
    home = write_config("home", **{"vault.trust": [public], "vault.sign_with": "env:SIGNING_KEY"})

    done = understudy(away, "artifacts", "show", "m")
    assert 8 == done.returncode
    assert "artifacts/m/1/00000001.json is not signed, and vault.trust asks for a signature" in done.stderr

    done = understudy(home, "vault", "sign", SIGNING_KEY=key)
    assert "1 of 1 manifests would be signed by ed25519:" in done.stdout
    assert "artifacts/m/1/00000001.json" in done.stdout
    assert 8 == understudy(away, "artifacts", "show", "m").returncode
    done = understudy(home, "vault", "sign", "--yes", SIGNING_KEY=key)
    assert (0, "") == (done.returncode, done.stderr)

    for path, data in model_files(changed=1).items():
        file = tmp_path / "source" / "m" / "2" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    done = understudy(home, "artifacts", "push", SIGNING_KEY=key)
    assert 0 == done.returncode, done.stderr
    done = understudy(away, "vault", "verify", "--deep")
    assert (0, "") == (done.returncode, done.stderr)
    assert "; 2 of 2 manifests signed by trusted keys" in done.stdout

    stripped = "artifacts/m/1/00000001.json"
    manifest = tmp_path / "vault" / stripped
    manifest.write_bytes(seal(split(unseal(manifest.read_bytes()))[0]))
    assert f"  refused: {stripped}" in understudy(home, "vault", "sign", SIGNING_KEY=key).stdout.splitlines()
    done = understudy(home, "vault", "sign", "--yes", SIGNING_KEY=key)
    assert 4 == done.returncode
    assert f"{stripped} has no signature, though others" in done.stderr
    assert 8 == understudy(away, "artifacts", "show", "m", "1").returncode
    done = understudy(home, "vault", "sign", "--key", stripped, SIGNING_KEY=key)
    assert f"next: understudy vault sign --key {stripped} --yes" in done.stdout
    assert 0 == understudy(home, "vault", "sign", "--key", stripped, "--yes", SIGNING_KEY=key).returncode
    assert 0 == understudy(away, "artifacts", "show", "m", "1").returncode
    assert 0 == understudy(away, "artifacts", "hydrate", "--site", "away").returncode
    served = (tmp_path / "serving" / "m" / "2" / "model.safetensors").read_bytes()
    assert model_files(changed=1)["model.safetensors"] == served


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ({}, "the environment variable SIGNING_KEY is not set"),
        ({"SIGNING_KEY": "planted-secret"}, "vault.sign_with does not hold an Ed25519 private key"),
    ],
)
def test_a_push_that_cannot_sign_is_refused_before_it_sends_anything(write_config, tmp_path, key, words):
    config = write_config(**{"vault.sign_with": "env:SIGNING_KEY"})
    done = understudy(config, "artifacts", "push", **key)
    assert 3 == done.returncode
    assert words in done.stderr
    assert "planted-secret" not in done.stderr + done.stdout
    assert [] == [path.name for path in (tmp_path / "vault").rglob("*") if path.is_file()]


def test_a_push_without_a_key_where_signatures_are_asked_for_sends_nothing(write_config, tmp_path):
    config = write_config(**{"vault.trust": [public_line(bytes(32))]})
    done = understudy(config, "artifacts", "push")
    assert 3 == done.returncode
    assert "vault.trust asks for signatures, and vault.sign_with names no key" in done.stderr
    assert not (tmp_path / "vault" / "packs").exists()
    assert "sign_with" not in understudy(config, "config", "check", "--offline").stderr


def test_a_vault_of_another_service_is_refused_with_exit_code_4(write_config):
    assert 0 == understudy(write_config(), "artifacts", "push").returncode
    done = understudy(write_config("other", service="search"), "vault", "verify")
    assert 4 == done.returncode
    assert "belongs to the service 'recommender', this config is for search" in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_a_signature_is_checked_by_the_page_alone(write_config, tmp_path):
    made = understudy(write_config(), "--json", "vault", "keygen", "--out", str(tmp_path / "key.pem"))
    config = write_config(
        **{"vault.trust": [json.loads(made.stdout)["public"]], "vault.sign_with": f"file:{tmp_path}/key.pem"}
    )
    assert 0 == understudy(config, "artifacts", "push").returncode
    section = PAGE.read_text(encoding="utf-8").split("## Signatures")[1].split("\n## ")[0]
    [program] = [part.split("```")[0] for part in section.split("```py\n")[1:]]
    manifests = list((tmp_path / "vault").rglob("*.json"))
    names = [str(path.relative_to(tmp_path / "vault")) for path in manifests]
    [key] = [name for name in names if is_manifest(name)]
    begin = f"data = open({str(tmp_path / 'vault' / key)!r}, 'rb').read(); key = {key!r}; service = "
    command = [sys.executable, "-I", "-c"]
    assert 0 == subprocess.run([*command, f"{begin}'recommender'\n{program}"], check=False).returncode
    wrong = subprocess.run([*command, f"{begin}'other'\n{program}"], capture_output=True, text=True, check=False)
    assert wrong.stderr.strip().endswith("InvalidSignature")
