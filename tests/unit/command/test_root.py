from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from tests.unit.example import example


def understudy(*arguments, **environment):
    command = [sys.executable, "-m", "understudy", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60, env={"PATH": "/usr/bin:/bin", **environment}
    )


def test_the_version_is_one_line():
    done = understudy("--version")
    assert (0, "understudy 0.1.0\n", "") == (done.returncode, done.stdout, done.stderr)


def test_an_unknown_command_is_usage():
    done = understudy("fly")
    assert 2 == done.returncode
    assert "No such command 'fly'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_config_is_one_sentence_and_exit_code_3():
    done = understudy("-c", "/absent.yaml", "status")
    assert 3 == done.returncode
    assert 1 == len(done.stderr.splitlines())
    assert "/absent.yaml cannot be read: No such file or directory" in done.stderr


def test_under_json_an_error_is_an_object_on_stdout():
    done = understudy("-c", "/absent.yaml", "--json", "status")
    assert 3 == done.returncode
    error = json.loads(done.stdout)["error"]
    assert (3, "config") == (error["code"], error["kind"])
    assert "-c FILE" in error["hint"]
    assert "" == done.stderr


@pytest.mark.slow
def test_a_dead_register_is_unreachable_in_one_sentence(tmp_path):
    path = tmp_path / "c.yaml"
    document = example(**{"register.endpoints": {"s3": "http://127.0.0.1:9"}, "vault.url": f"file://{tmp_path}/vault"})
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    done = understudy("-c", str(path), "status")
    assert 9 == done.returncode, done.stderr
    assert 1 == len(done.stderr.splitlines())


def test_starting_does_not_load_what_is_not_needed():
    heavy = ("boto3", "google.cloud", "pyarrow", "numpy", "prefect", "pydantic")
    code = f"import sys, understudy.command.root; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout
