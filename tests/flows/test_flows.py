"""The few tests that need Prefect itself: states, names, artifacts, and one call of its client."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client

from flows.failover import failover
from flows.plan_failover import plan_failover
from flows.replicate_artifacts import replicate_artifacts
from flows.replicate_offline import replicate_offline
from tests.unit.example import example_in_folders
from tests.unit.failover.situation import settings as situation_settings
from tests.unit.failover.situation import situation
from understudy.failover.plan import make_plan
from understudy.failover.plans import save_plan
from understudy.objects.file import FileStore
from understudy.service import open_service
from understudy.threads import best_effort

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(240)]


def safetensors(seed):
    data = bytes((seed + i) % 251 for i in range(4096))
    header = json.dumps({"w": {"dtype": "U8", "shape": [4096], "data_offsets": [0, 4096]}}).encode()
    return struct.pack("<Q", len(header)) + header + data


@pytest.fixture
def config(tmp_path):
    """A service whose stores are folders: a model pushed by hand, and nothing else."""
    (tmp_path / "lake").mkdir()
    document = example_in_folders(tmp_path, **{"components.feature_store.pairs.0.offline": f"file://{tmp_path}/lake"})
    path = tmp_path / "understudy.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    home = FileStore(str(tmp_path / "home"))
    home.put("minilm/1/model.safetensors", safetensors(1))
    home.put("minilm/1/config.json", b"{}")
    open_service(path).register.initialise("recommender")
    return path


def read_run(state):
    with get_client(sync_client=True) as client:
        return client.read_flow_run(state.state_details.flow_run_id)


def test_a_copy_completes_and_a_second_one_ends_unchanged_with_the_reason(config):
    first = replicate_artifacts(config=str(config), return_state=True)
    again = replicate_artifacts(config=str(config), return_state=True)
    assert ("Completed", "Unchanged") == (first.name, again.name)
    assert "minilm 1: unchanged, 0 of 2 files new" in again.message
    assert "artifacts-all" == read_run(first).name
    table = Artifact.get("replication-artifacts")
    assert {"unchanged"} == {row["verdict"] for row in json.loads(table.data)}


def test_a_copy_that_left_a_damaged_model_ends_as_corrupt_after_the_others_were_done(config, tmp_path):
    manifest = tmp_path / "vault" / "artifacts" / "aaa" / "1" / "00000001.json"
    replicate_artifacts(config=str(config), return_state=True)
    manifest.parent.mkdir(parents=True)
    manifest.write_bytes(b"{}")
    home = FileStore(str(tmp_path / "home"))
    home.put("minilm/2/model.safetensors", safetensors(2))
    home.put("minilm/2/config.json", b"{}")
    state = replicate_artifacts(config=str(config), return_state=True)
    assert ("Corrupt", True) == (state.name, state.is_failed())
    assert "aaa: left as it is, artifacts/aaa/1/00000001.json" in state.message
    assert (tmp_path / "vault" / "artifacts" / "minilm" / "2" / "00000001.json").exists()


def test_a_register_that_cannot_be_read_refuses_the_copy(config, tmp_path):
    (tmp_path / "register" / "register.json").unlink()
    state = replicate_artifacts(config=str(config), return_state=True)
    assert "Refused" == state.name
    assert "nothing is copied" in state.message
    assert [] == list((tmp_path / "vault").glob("artifacts/**/*.json"))


def test_a_bad_config_is_a_state_with_the_line_to_mend(config):
    config.write_text(config.read_text(encoding="utf-8").replace("rpo: 5m", "rpo: '5'"), encoding="utf-8")
    state = replicate_offline(config=str(config), return_state=True)
    assert "Bad config" == state.name
    assert '"5" has no unit; write 5m' in state.message


def test_a_failover_without_a_fresh_plan_is_refused_and_the_epoch_stays(config):
    state = failover(config=str(config), confirm="recommender", return_state=True)
    assert "Refused" == state.name
    assert "understudy failover plan" in state.message
    assert 1 == open_service(config).register.read().epoch


def resumed_with(config, plan, typed):
    """Run the failover in a thread, wait for its pause, type something, and return its final state."""
    with ThreadPoolExecutor(1) as pool, get_client(sync_client=True) as client:
        before = {run.id for run in client.read_flow_runs()}
        ended = pool.submit(lambda: failover(plan=plan, config=str(config), return_state=True))
        deadline = time.monotonic() + 60
        paused = []
        while not paused and time.monotonic() < deadline:
            runs = [run for run in client.read_flow_runs() if run.id not in before]
            paused = [run for run in runs if run.state is not None and run.state.is_paused()]
            time.sleep(0.2)  # the server is asked again, not the clock
        answer = client.resume_flow_run(paused[0].id, run_input={})
        assert "REJECT" == answer.status.value, "an empty form was accepted"
        assert "ACCEPT" == client.resume_flow_run(paused[0].id, run_input={"service": typed}).status.value
        return ended.result(timeout=60)


def test_the_failover_pauses_for_the_services_name_and_another_word_changes_nothing(config):
    service = open_service(config)
    plan = make_plan(situation(now=service.register.now()), situation_settings())
    save_plan(service.register.store, plan)
    state = resumed_with(config, plan.id, "recomender")
    assert "Refused" == state.name
    assert "nothing was changed" in state.message
    assert 1 == service.register.read().epoch
    assert "failover-recommender-" + plan.id == read_run(state).name


def test_a_plan_for_dead_endpoints_says_so_in_a_state(config):
    state = plan_failover(site="mars", config=str(config), return_state=True)
    assert "Bad config" == state.name
    assert "there is no site 'mars'" in state.message


def test_the_failover_ends_with_the_prefect_server_dead_since_its_first_step(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.flows.dead_server", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    left = json.loads(done.stdout) if done.stdout else done.stderr[-3000:]
    assert left["killed"], left
    assert {"home": 0, "away": 100} == left["traffic"], left
    assert ("away", True, False) == (left["active"], left["writes"], left["held"])
    assert left["plan"]
    assert "pointers/minilm.json" in left["served"]
    assert "ConnectError" in left["ended"], "the server was not dead at the end, so this proves nothing"
    assert left["seconds"] < 60


def test_what_only_shows_something_is_left_behind_after_two_seconds(caplog):
    began = time.monotonic()
    with caplog.at_level("WARNING", logger="understudy.threads"):
        assert not best_effort(lambda: time.sleep(30), "showing the page")
    assert 1.9 < time.monotonic() - began < 4
    assert "showing the page took longer than 2 s; going on without it" in caplog.text
    assert best_effort(lambda: None, "showing the page")
    assert not best_effort(lambda: 1 / 0, "showing the page")


def test_the_failover_form_explains_every_field():
    properties = failover.parameters.properties
    assert ["plan", "reason", "accept_loss", "accept_unfenced", "confirm", "config"] == list(properties)
    assert [] == [name for name, field in properties.items() if not field.get("description")]
