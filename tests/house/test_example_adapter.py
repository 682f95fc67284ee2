"""CONTRIBUTING's six steps, taken by a package outside of this one: examples/understudy-sqlite."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "understudy-sqlite"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The example, installed as a user would, into a folder of its own; the environment that sees it."""
    folder = tmp_path_factory.mktemp("site-packages")
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    install = [
        uv,
        "pip",
        "install",
        "-q",
        "--python",
        sys.executable,
        "--no-deps",
        "--target",
        str(folder),
        str(EXAMPLE),
    ]
    subprocess.run(install, check=True, capture_output=True, timeout=120)
    return {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"}


def run(environment, *arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=200
    )


@pytest.mark.slow
def test_an_installed_adapter_keeps_the_whole_contract_of_an_object_store(installed, tmp_path):
    url = f"sqlite://{tmp_path}/contract.db"
    done = run(installed, "-m", "pytest", "-p", "no:xdist", "tests/contracts/test_objects.py", "--adapter", url)
    assert 0 == done.returncode, done.stdout[-3000:]
    assert 20 < int(re.search(r"(\d+) passed", done.stdout)[1])
    assert "skipped" not in done.stdout


@pytest.mark.slow
def test_the_contract_finds_what_an_adapter_does_wrong(installed, tmp_path):
    """An adapter that overwrites what it should only create is caught."""
    module = next(Path(folder) / "understudy_sqlite.py" for folder in installed["PYTHONPATH"].split(":"))
    broken = tmp_path / "understudy_sqlite.py"
    broken.write_text(
        module.read_text(encoding="utf-8").replace("if stood != expected:", "if False:"), encoding="utf-8"
    )
    environment = {**installed, "PYTHONPATH": f"{tmp_path}:{installed['PYTHONPATH']}"}
    url = f"sqlite://{tmp_path}/contract.db"
    done = run(environment, "-m", "pytest", "-p", "no:xdist", "tests/contracts/test_objects.py", "--adapter", url)
    assert 1 == done.returncode
    assert "test_creating_twice_conflicts_and_the_first_bytes_stay" in done.stdout


@pytest.mark.slow
def test_a_vault_lives_in_an_installed_adapter(installed, tmp_path):
    code = (
        "import yaml; from tests.unit.example import example; from understudy.command.root import run;"
        f"open('c.yaml', 'w').write(yaml.safe_dump(example(**{{'vault.url': 'sqlite://{tmp_path}/v.db',"
        f" 'register.url': 'sqlite://{tmp_path}/r.db', 'components': {{}}}})));"
        "import sys; sys.exit(run(['-c', 'c.yaml', 'vault', 'verify', '--deep']))"
    )
    done = run(installed, "-c", code, cwd=tmp_path)
    assert 0 == done.returncode, done.stderr
    assert "all well" in done.stdout
