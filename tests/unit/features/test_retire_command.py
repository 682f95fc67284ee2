"""``understudy features retire``, from the config to the source's own store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.unit.example import example
from understudy import opening
from understudy.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A service whose register and offline store are folders, with a writer that died an hour ago."""
    for name in ("register", "lake"):
        (tmp_path / name).mkdir()
    changes = {
        "register.url": f"file://{tmp_path}/register",
        "components.feature_store.pairs.0.offline": f"file://{tmp_path}/lake",
    }
    path = tmp_path / "understudy.yaml"
    path.write_text(yaml.safe_dump(example(**changes)), encoding="utf-8")
    opening.open_register(load_settings(str(path))).initialise("recommender")
    state = tmp_path / "lake" / "writers" / "pod-a.json"
    state.parent.mkdir()
    promised = {"writer": "pod-a", "flushed_through": "2026-11-21T12:01:30+00:00", "closed": False}
    state.write_text(json.dumps(promised), encoding="utf-8")
    os.utime(state, (state.stat().st_mtime - 3600,) * 2)
    return str(path)


def retire(config: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "understudy", "-c", config, "features", "retire", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_dead_writer_is_retired_at_the_source(config: str, tmp_path: Path) -> None:
    done = retire(config, "user_features", "pod-a")
    assert (0, "") == (done.returncode, done.stderr)
    assert "writer pod-a retired after 1h00m of silence; the next push moves the watermark on\n" == done.stdout
    assert json.loads((tmp_path / "lake" / "writers" / "pod-a.json").read_text(encoding="utf-8"))["closed"]


def test_an_unknown_writer_is_one_sentence_and_exit_code_5(config: str) -> None:
    done = retire(config, "user_features", "pod-b")
    assert 5 == done.returncode
    assert "no writer pod-b is known in" in done.stderr
    assert "Known are: pod-a" in done.stderr
    assert 1 == len(done.stderr.splitlines())
