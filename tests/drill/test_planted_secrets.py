"""Every planted secret is found nowhere: not printed, logged, stored, shown in Prefect, nor in any error."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile

import pytest

from tests.drill.planted_world import COMMANDS, CREDENTIALS, LAST, PLANTED
from understudy.redaction import forms_of

pytestmark = [pytest.mark.slow, pytest.mark.prefect, pytest.mark.timeout(900)]


def unpacked(data):
    """Yield the bytes of a file, and what it packs."""
    yield data
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
        yield data
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                if file := archive.extractfile(member):
                    yield from unpacked(file.read())
    except tarfile.TarError:
        return


def found_in(folder):
    """Return "FILE: name of the secret" for each planted secret that stands in a file, in any form."""
    forms = {name: {form.encode() for form in forms_of(text)} for name, text in PLANTED.items()}
    return sorted(
        {
            f"{path.relative_to(folder)}: {name}"
            for path in folder.rglob("*")
            if path.is_file()
            for data in unpacked(path.read_bytes())
            for name, written in forms.items()
            if any(form in data for form in written)
        }
    )


@pytest.fixture(scope="module")
def evidence(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted") / "world"
    done = subprocess.run(
        [sys.executable, "-m", "tests.drill.planted_world", str(folder)],
        capture_output=True,
        timeout=800,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PREFECT_"))},
    )
    place = folder / "evidence"
    assert 0 == done.returncode, done.stderr.decode()[-3000:]
    (place / "stdout.txt").write_bytes(done.stdout)
    (place / "stderr.txt").write_bytes(done.stderr)
    return place


def test_no_planted_secret_is_found_anywhere(evidence):
    assert [] == found_in(evidence)


def test_what_was_looked_through_is_all_that_there_is(evidence):
    exits = json.loads((evidence / "exits.json").read_text(encoding="utf-8"))
    assert {0} == {exits[f"well/{name}"] for name, *_ in COMMANDS if "failover" not in name and name != "status"}
    assert [4, 0, 0] == [exits[f"last/{name}"] for name, *_ in LAST], "the failover was to succeed, its risk accepted"
    assert 4 == exits["well/register"], "a second register was to be refused"
    assert 4 == exits["well/failover-refused"]
    assert (3, 3) == (exits["wrong-password/check"], exits["wrong-password/export"])
    assert (9, 9) == (exits["dead-databases/check"], exits["dead-databases/export"])
    assert (3, 3) == (exits["echo/check"], exits["echo/push"])
    assert {3} == {exits[f"{case}/check"] for case in ("not-json", "gcp-kind", "line-break", "secrets-in-the-config")}
    for name, least in {"flow-runs": 10, "logs": 50, "artifacts": 3, "blocks": 3, "database": 500_000}.items():
        assert exits[f"prefect/{name}"] >= least, name
    assert exits["objects"] > 20
    assert [] != list((evidence / "state").rglob("*.json*")), "no copy of the journal was kept on this machine"
    log = (evidence / "log.txt").read_text(encoding="utf-8")
    assert len(log.splitlines()) > 50
    states = json.loads((evidence / "states.json").read_text(encoding="utf-8"))
    assert states["blocks/replicate-vectors"].startswith("Completed: products: 30 rows")
    assert "aws-usw2 is active at epoch 2" in states["blocks/failover"]
    assert "password authentication failed" in states["wrong-password/replicate-vectors"]
    assert states["secrets-in-the-config/replicate-artifacts"].startswith("Bad config: ")
    assert "***" in (evidence / "commands" / "echo-register" / "check.txt").read_text(encoding="utf-8"), (
        "the echo did not say back what it was sent, so the last net was not tried"
    )


@pytest.mark.parametrize("name", PLANTED)
def test_a_secret_is_found_in_whatever_form_it_was_left(name, tmp_path):
    for number, form in enumerate(sorted(forms_of(PLANTED[name]))):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "plain").write_text(f"x{form}y", encoding="utf-8")
        with tarfile.open(folder / "bundle.tgz", "w:gz") as archive:
            archive.add(folder / "plain", "inside/plain")
        assert {f"plain: {name}", f"bundle.tgz: {name}"} <= set(found_in(folder))


def test_the_planted_credentials_are_the_planted_ones():
    assert set(CREDENTIALS.values()) <= set(PLANTED.values())
