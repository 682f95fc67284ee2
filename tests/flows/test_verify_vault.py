"""The nightly flow under Prefect; progress on a run's page: one artifact, and a dead server holds nobody up."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

import pytest
import yaml
from prefect import flow, task
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from flows.verify_vault import verify_vault
from tasks import progress
from tasks.progress import Bar, end_progress, shown
from tests.models import model_files
from tests.unit.example import example_in_folders
from understudy.objects.file import FileStore
from understudy.service import open_service

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(240)]


@pytest.fixture
def config(tmp_path):
    """A service of folders with a model in its vault."""
    document = example_in_folders(tmp_path)
    for component in ("feature_store", "vector_index"):
        del document["components"][component]
    path = tmp_path / "understudy.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    for name, data in model_files().items():
        FileStore(str(tmp_path / "home")).put(f"m/1/{name}", data)
    service = open_service(path)
    service.register.initialise("recommender")
    service.push_artifacts(service.settings.pair("training"))
    return path


def artifacts_of(run):
    """Return the progress artifacts of a flow run, as (key, percent, description)."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run])))
    return [(each.key, each.data, each.description) for each in found if each.type == "progress"]


def test_the_first_night_reads_everything_and_the_second_a_share_and_the_page_says_so(config):
    for kind in ("deep", "sample of"):
        state = verify_vault(config=str(config), return_state=True)
        assert state.is_completed()
        assert f"all well ({kind}" in state.message
    table = Artifact.get("replication-vault")
    assert "sampled" in table.data


def test_damage_ends_the_run_as_corrupt_and_stays_on_the_status(config, tmp_path):
    pack = next(path for path in (tmp_path / "vault" / "packs").rglob("*") if path.is_file())
    data = bytearray(pack.read_bytes())
    data[5] ^= 4
    pack.write_bytes(data)
    state = verify_vault(config=str(config), return_state=True)
    assert ("Corrupt", True) == (state.name, state.is_failed())
    assert pack.name in state.message
    assert "DAMAGED" == open_service(config).status().vault.verdict


def test_a_run_shows_one_progress_artifact_for_all_of_its_tasks_and_its_last_words():
    @task
    def copy(name):
        tell = shown("test")
        for step in range(101):
            tell(name, step, 100, "bytes")

    @flow
    def copies():
        try:
            for name in ("one", "two"):
                copy(name)
        finally:
            end_progress()

    state = copies(return_state=True)
    [(key, percent, description)] = artifacts_of(state.state_details.flow_run_id)
    assert ("progress-test", 100.0) == (key, percent)
    assert description.startswith("two: 100 B of 100 B (100 %)")


@pytest.fixture
def calls(monkeypatch):
    """Replace the calls of the server by a list of what they were asked, and of when."""
    made = []

    def create(percent, *, key, description):
        made.append((time.monotonic(), "create", percent, description))
        return key

    def update(_artifact, percent, *, description):
        made.append((time.monotonic(), "update", percent, description))

    monkeypatch.setattr(progress, "create_progress_artifact", create)
    monkeypatch.setattr(progress, "update_progress_artifact", update)
    monkeypatch.setattr(progress, "PERIOD_SECONDS", 0.2)
    return made


def test_a_thousand_words_a_second_are_a_call_now_and_then(calls):
    bar = Bar("progress-test")
    until = time.monotonic() + 0.7
    while time.monotonic() < until:
        bar("one", int(1000 - 1000 * (until - time.monotonic())), 1000, "bytes")
        time.sleep(0.001)
    bar.close()
    assert ["create", *["update"] * (len(calls) - 1)] == [what for _, what, *_ in calls]
    assert 2 <= len(calls) <= 6
    assert min(after[0] - before[0] for before, after in pairwise(calls[:-1])) >= 0.19


def test_a_server_that_hangs_holds_nobody_up_and_one_that_is_dead_is_left_alone(monkeypatch):
    asked, let_go = [], threading.Event()

    def hang(*_, **__):
        asked.append(1)
        let_go.wait(30)
        raise OSError

    monkeypatch.setattr(progress, "create_progress_artifact", hang)
    bar = Bar("progress-test")
    began = time.monotonic()
    for step in range(1000):
        bar("one", step, 1000, "bytes")
    assert time.monotonic() - began < 1
    bar.close(0.2)
    assert 0.15 < time.monotonic() - began < 1.5
    let_go.set()
    time.sleep(0.1)
    assert [1] == asked
    bar("one", 1000, 1000, "bytes")  # a closed bar takes words, and says none
    assert [1] == asked
