"""Every vendor has a contract run on a real server, or says why there is none."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.servers import NAMES, NO_REAL_SERVER, PROVED_BY, script
from understudy.opening import VENDORS

pytestmark = pytest.mark.slow  # a loop of 30 seconds has no room for it

ROOT = Path(__file__).parents[2]
SCRIPTS = {path.stem for path in (ROOT / "sandbox" / "servers").glob("*.py")} - {"__init__", "__main__", "server"}
#: Where a server may be named as one that a contract runs on: the contracts, and the fixtures that they share.
SOURCES = [*(ROOT / "tests" / "contracts").glob("*.py"), *(ROOT / "tests").glob("*.py")]


def collect(*arguments: str) -> list[str]:
    """Return the ids of the tests that pytest would run, such as ``test_x[versitygw]``."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--co", "-p", "no:xdist", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split("::", 1)[1] for line in done.stdout.splitlines() if "::" in line]


@pytest.fixture(scope="module")
def contracts() -> list[str]:
    """All contract tests, those on real servers too."""
    return collect("--real-servers", "tests/contracts")


def test_every_vendor_is_proved_by_a_real_server_or_says_why_not():
    assert {vendor.scheme for vendor in VENDORS} == {*PROVED_BY, *NO_REAL_SERVER}
    assert set() == PROVED_BY.keys() & NO_REAL_SERVER.keys()
    assert all(reason.strip() for reason in NO_REAL_SERVER.values())
    assert set() == set(PROVED_BY.values()) - set(NAMES)


def test_every_vendor_without_a_real_server_has_a_contract_all_the_same():
    contracts = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "contracts").glob("*.py"))
    adapters = {vendor.scheme: vendor.adapter.rpartition(":")[2] for vendor in VENDORS}
    assert [] == [scheme for scheme in NO_REAL_SERVER if not re.search(rf"\b{adapters[scheme]}\b", contracts)]


def test_every_script_is_among_the_names_and_is_called_like_its_server():
    assert set(NAMES) == SCRIPTS
    assert list(NAMES) == [script(name).SERVER.name for name in NAMES]


def test_every_real_server_appears_in_the_contracts():
    text = "\n".join(path.read_text(encoding="utf-8") for path in SOURCES)
    assert [] == [name for name in NAMES if not re.search(rf'\breal(_server)?\(\s*"{name}"', text)]


@pytest.mark.slow
def test_every_server_that_proves_a_vendor_runs_tests_of_its_own(contracts: list[str]):
    params = "\n".join(test.partition("[")[2] for test in contracts)
    assert [] == [name for name in PROVED_BY.values() if not re.search(rf"\b{name}\b", params)]


@pytest.mark.slow
def test_what_a_server_cannot_prove_is_a_test_that_exists_and_has_a_reason(contracts: list[str]):
    known = {*contracts, *(test.partition("[")[0] for test in contracts)}
    for name in NAMES:
        for test, reason in script(name).CANNOT_PROVE.items():
            assert test in known, f"{name}: {test}"
            assert 10 < len(reason), f"{name}: {test}"


@pytest.mark.slow
def test_no_real_server_is_asked_for_unless_told_so():
    plain = collect("tests/contracts/test_objects.py")
    assert 100 < len(plain)
    assert [] == [test for test in plain if re.search("versitygw|fake_gcs", test)]
