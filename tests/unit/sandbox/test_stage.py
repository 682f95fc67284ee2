"""The stage: one at a time in a directory; its template is a config."""

from __future__ import annotations

import fcntl
import os
import re
import time
from typing import TYPE_CHECKING

import pytest

from sandbox.process import ServerDidNotStart, launch, marked
from sandbox.seed import FEATURES, history
from sandbox.stage import TEMPLATE, AlreadyRunning, Stage
from understudy.settings import load_settings

if TYPE_CHECKING:
    from pathlib import Path


def test_a_second_stage_in_the_same_directory_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    (tmp_path / "processes.json").write_text("{}")
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(AlreadyRunning, match="another process runs the sandbox"):
            Stage(tmp_path, prefect=False).start_servers()
    assert (tmp_path / "processes.json").exists()


def test_the_template_with_its_variables_set_is_a_config(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(re.findall(r"\$\{([A-Z][A-Z0-9_]*)\}", TEMPLATE.read_text())):
        monkeypatch.setenv(name, {"SERVICE_PORT": "8080", "LEASE": "8s"}.get(name, "127.0.0.1:1"))
    settings = load_settings(TEMPLATE)
    assert "recommender" == settings.service
    assert {"inference", "feature_store", "vector_index", "training"} == set(settings.components)


def test_the_history_is_the_same_again_and_has_versions_and_late_arrivals() -> None:
    first, again = (list(history(200, ["one title", "another"])) for _ in range(2))
    assert all(one.equals(other) for one, other in zip(first, again, strict=True))
    rows = [row for table in first for row in table.to_pylist()]
    assert 200 == len({row["entity"] for row in rows})
    assert 200 < len(rows)
    newest: dict[str, object] = {}
    late = 0
    for row in rows:
        event = row["event_timestamp"]
        late += row["entity"] in newest and event < newest[row["entity"]]
        newest[row["entity"]] = max(event, newest.get(row["entity"], event))
    assert 0 < late < len(rows)
    assert any(row[name] is None for row in rows for name in FEATURES)


def test_a_server_that_does_not_come_up_ends_the_others_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Stage, "_start_postgres", lambda self, place: self._start_module(place, "gcs", "no", "sandbox.no")
    )
    monkeypatch.setattr(
        Stage, "_start_moto", lambda self, place, _key, name: self._launch(place, name, ["sleep", "60"], lambda: False)
    )
    log = tmp_path / "bystander.log"
    bystander = launch(["sleep", "60"], name="not of the stage", log=log, ready=lambda: True)
    outer = dict(os.environ)
    began = time.monotonic()
    stage = Stage(tmp_path / "stage", prefect=False, passages=10)
    with pytest.raises(ServerDidNotStart, match=r"No module named sandbox\.no"):
        stage.start_servers()
    assert time.monotonic() - began < 20
    assert [] == marked(stage._mark)
    assert outer == dict(os.environ)
    assert bystander.running()
    bystander.kill()
    Stage(tmp_path / "stage")._take_directory(print)
