"""Encryption, another key and comparing through the config and the command line: sentences and exit codes."""

from __future__ import annotations

import json
import shlex
import stat
import tarfile

import pytest
import yaml

from tests.models import model_files
from tests.shapes import wrong
from tests.unit.command.test_vault import understudy
from tests.unit.example import example
from understudy import opening
from understudy.features.log import LogWriter
from understudy.metrics.gather import gather
from understudy.service import open_service
from understudy.settings import load_settings

pytestmark = pytest.mark.slow  # each command is a process


@pytest.fixture
def write_config(tmp_path):
    for name in ("register", "vault", "home-vault", "source", "serving"):
        (tmp_path / name).mkdir()

    def write(name="understudy", **changes):
        folders = {
            "register.url": f"file://{tmp_path}/register",
            "vault.url": f"file://{tmp_path}/vault",
            "vault.home_url": f"file://{tmp_path}/home-vault",
            "components.training.pairs.0.home": f"file://{tmp_path}/source",
            "components.training.pairs.0.away": f"file://{tmp_path}/serving",
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(example(**{**folders, **changes})), encoding="utf-8")
        return path

    opening.open_register(load_settings(str(write()))).initialise("recommender")
    for name, data in model_files().items():
        file = tmp_path / "source" / "m" / "1" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return write


def keygen(config, path):
    done = understudy(config, "--json", "vault", "keygen", "--encryption", "--out", str(path))
    assert 0 == done.returncode, done.stdout
    made = json.loads(done.stdout)
    assert [] == wrong("vault keygen", made)
    return made["id"], path.read_text(encoding="ascii").strip()


@pytest.fixture
def sealed(write_config, tmp_path):
    """A config whose vault is encrypted and holds a model, and its key's id."""
    name, _ = keygen(write_config(), tmp_path / "one.key")
    config = write_config("sealed", **{"vault.encrypt_with": f"file:{tmp_path}/one.key"})
    done = understudy(config, "artifacts", "push")
    assert (0, "") == (done.returncode, done.stderr)
    return config, name


def test_a_key_is_made_once_and_its_bytes_are_not_printed(write_config, tmp_path):
    done = understudy(write_config(), "vault", "keygen", "--encryption", "--out", str(tmp_path / "a b.key"))
    line = (tmp_path / "a b.key").read_text(encoding="ascii")
    assert (0, 0o600) == (done.returncode, stat.S_IMODE((tmp_path / "a b.key").stat().st_mode))
    assert line.partition(":")[0] in done.stdout
    assert line.partition(":")[2][:12] not in done.stdout
    assert "without it nobody can read the vault" in done.stdout
    again = understudy(write_config(), "vault", "keygen", "--encryption", "--out", str(tmp_path / "a b.key"))
    assert 3 == again.returncode
    assert "is never written over" in again.stderr
    assert line == (tmp_path / "a b.key").read_text(encoding="ascii")


def test_what_is_pushed_is_read_with_the_key_alone(sealed, write_config, tmp_path):
    config, _ = sealed
    for command in ("artifacts list", "artifacts show m", "vault stat", "vault verify --deep", "vault prune"):
        done = understudy(config, *shlex.split(command))
        assert (0, "") == (done.returncode, done.stderr), command
    assert 0 == understudy(config, "artifacts", "pull", "m", "1", "--to", str(tmp_path / "out")).returncode
    for path, data in model_files().items():
        assert data == (tmp_path / "out" / "m" / "1" / path).read_bytes()
    assert 0 == understudy(config, "artifacts", "hydrate", "--site", "away").returncode
    done = understudy(write_config(), "artifacts", "show", "m")
    assert 3 == done.returncode
    assert "and vault.encrypt_with names no key" in done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_config_check_compares_the_key_with_the_vaults(sealed, write_config, tmp_path):
    config, first = sealed

    def check(config):
        found = json.loads(understudy(config, "--json", "config", "check", "--seconds", "5").stdout)
        return {one["what"].partition(" ")[0]: one for one in found if one["what"].startswith(("vault ", "secret "))}

    found = check(config)
    assert (True, True) == (found["vault"]["ok"], found["secret"]["ok"])
    assert "who loses it loses the vault" in found["secret"]["words"]
    assert first in found["secret"]["words"]
    other, _ = keygen(config, tmp_path / "two.key")
    found = check(write_config("wrong", **{"vault.encrypt_with": f"file:{tmp_path}/two.key"}))
    assert (False, True) == (found["vault"]["ok"], found["secret"]["ok"])
    assert f"is encrypted with {first}, which is not a key of this config" in found["vault"]["words"]
    assert other in found["vault"]["words"]
    (tmp_path / "bad.key").write_text("planted-secret-value\n", encoding="ascii")
    found = check(write_config("bad", **{"vault.encrypt_with": f"file:{tmp_path}/bad.key"}))
    assert "key 1 of vault.encrypt_with is not 32 bytes" in found["secret"]["words"]
    assert "planted-secret-value" not in json.dumps(found)


def test_another_key_is_taken_step_by_step(sealed, write_config, tmp_path):
    config, first = sealed
    second, line = keygen(config, tmp_path / "two.key")
    old = (tmp_path / "one.key").read_text(encoding="ascii")
    both = write_config("both", **{"vault.encrypt_with": f"file:{tmp_path}/both.key"})
    (tmp_path / "both.key").write_text(f"{line}\n{old}", encoding="ascii")
    done = understudy(both, "artifacts", "push")
    assert 3 == done.returncode
    assert "next: understudy vault rekey --yes" in done.stderr
    done = understudy(both, "vault", "rekey")
    assert (0, f"{second} is new to it\nnext: understudy vault rekey --yes\n") == (done.returncode, done.stdout)
    told = json.loads(understudy(both, "--json", "vault", "rekey", "--all").stdout)
    assert ([], {second, first}) == (wrong("vault rekey", told), set(told["counted"]))
    done = understudy(both, "vault", "rekey", "--yes")
    assert (0, f"the vault encrypts with {second} from now on\n") == (done.returncode, done.stdout)
    assert 0 == understudy(both, "artifacts", "push").returncode
    done = understudy(both, "vault", "rekey", "--all", "--yes")
    assert 0 == done.returncode
    assert f"no longer needed: {first}" in done.stdout
    alone = write_config("alone", **{"vault.encrypt_with": f"file:{tmp_path}/two.key"})
    assert 0 == understudy(alone, "vault", "verify", "--deep").returncode
    assert 3 == understudy(config, "vault", "verify").returncode


def test_two_vaults_are_compared_by_site_or_url_and_differ_with_exit_code_5(sealed, write_config, tmp_path):
    config, _ = sealed
    home = write_config("home", **{"vault.url": f"file://{tmp_path}/home-vault"})
    done = understudy(config, "vault", "compare", "aws-use1", "gcp-usc1")
    assert 5 == done.returncode
    assert f"file://{tmp_path}/home-vault is no vault" in done.stderr
    assert 0 == understudy(home, "artifacts", "push").returncode
    done = understudy(config, "vault", "compare", "aws-use1", f"file://{tmp_path}/vault")
    assert (0, "") == (done.returncode, done.stderr)
    assert "both hold the same (" in done.stdout
    for path, data in model_files(changed=1).items():
        file = tmp_path / "source" / "m" / "2" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    assert 0 == understudy(home, "artifacts", "push").returncode
    done = understudy(config, "vault", "compare", "home", "away")
    assert (5, "") == (done.returncode, done.stderr)
    assert "artifacts/m/2/00000001.json: only the first has it" in done.stdout.splitlines()
    assert "the second lacks " in done.stdout
    told = json.loads(understudy(config, "--json", "vault", "compare", "home", "away").stdout)
    assert ([], False) == (wrong("vault compare", told), told["equal"])


def test_services_and_metrics_of_an_encrypted_vault_have_its_key(sealed, tmp_path):
    config, _ = sealed
    service = open_service(config)
    pair = service.settings.pair("feature_store")
    (tmp_path / "vault" / "offline" / pair.name).mkdir(parents=True)
    with LogWriter(service.offline(pair, "away"), "w"):
        pass
    state = service.vault.store.get(f"offline/{pair.name}/writers/w.json")
    assert json.loads(state)["closed"]
    samples, problems = gather(service), ""
    assert any("watermark" in sample.instrument.name for sample in samples.samples), problems


def test_a_debug_bundle_of_an_encrypted_vault_has_no_key_in_it(sealed, tmp_path):
    config, _ = sealed
    done = understudy(config, "debug", "bundle", "--out", str(tmp_path / "bundle.tar.gz"))
    key = (tmp_path / "one.key").read_text(encoding="ascii").partition(":")[2].strip()
    with tarfile.open(tmp_path / "bundle.tar.gz") as archive:
        texts = {member.name.rpartition("/")[2]: archive.extractfile(member).read().decode() for member in archive}
    assert '"packs"' in texts["vault.json"], done.stderr
    assert not [name for name, text in texts.items() if key in text]
