"""The whole road without Prefect, and each sabotage against the same proof: it turns what it must, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from sandbox.client import Client, NotAnswered, Watch, Writer
from sandbox.proof import Proof, Recorded, prove, record
from sandbox.sabotage import SABOTAGES
from sandbox.seed import add_version_2, seed
from sandbox.stage import Stage
from understudy.service import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.client import Written

pytestmark = pytest.mark.slow

PASSAGES, ENTITIES = 60, 100


class Done(NamedTuple):
    """How a command ended: its exit code and its JSON."""

    code: int
    value: Any


@dataclass
class Drill:
    """What the road left behind."""

    stage: Stage
    recorded: Recorded
    killed_at: datetime
    acknowledged: list[Written]
    watch: Watch
    without_fence: Done
    plan: Done
    failover: Done
    held_back: tuple[str, ...]

    def prove(self) -> Proof:
        """Prove it all, now."""
        return prove(
            self.stage, self.recorded, killed_at=self.killed_at, acknowledged=self.acknowledged, watch=self.watch
        )


def command(stage: Stage, *arguments: str) -> Done:
    """Run the break-glass command as a person would: another process, and no Prefect anywhere."""
    line = [sys.executable, "-m", "understudy", "-c", str(stage.config), "--json", *arguments]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=90, stdin=subprocess.DEVNULL)
    return Done(done.returncode, json.loads(done.stdout))


def back_up(service: Service) -> None:
    """Run once what the schedules run."""
    settings = service.settings
    service.push_artifacts(settings.pair("training"))
    service.export_vectors(settings.pair("vector_index"))
    service.replicate_offline(settings.pair("feature_store"))
    service.hydrate(settings.pair("training"))
    service.rebuild_features(settings.pair("feature_store"))


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drill]:
    """Two small sites, backed up, home lost, failed over."""
    stage = Stage(
        tmp_path_factory.mktemp("stage"), prefect=False, passages=PASSAGES, entities=ENTITIES, lease_seconds=3
    )
    stage.start_servers()
    try:
        seed(stage)
        stage.start_service()
        recorded = record(stage)
        service = Service(stage.settings)
        back_up(service)
        add_version_2(stage)
        service.push_artifacts(stage.settings.pair("training"))
        pinned = service.newest_set()
        writer = Writer(stage).start()
        time.sleep(2)
        service.replicate_offline(stage.settings.pair("feature_store"))
        time.sleep(1)
        killed_at = datetime.now(UTC)
        stage.kill_home()
        watch = Watch(stage, recorded).start()
        undo = SABOTAGES["no-fence"].strike(stage)
        without_fence = command(stage, "failover", "plan")
        undo()
        plan = command(stage, "failover", "plan", "--to", stage.settings.sites.away.name)
        failover = command(stage, "failover", "run", plan.value["id"], "--yes", "--reason", "drill")
        assert watch.wait(30)
        time.sleep(1)
        writer.stop()
        yield Drill(
            stage, recorded, killed_at, writer.acknowledged, watch, without_fence, plan, failover,
            tuple(each.version for each in pinned.held) if pinned else (),
        )  # fmt: skip
    finally:
        stage.stop()


def test_without_sabotage_every_proof_holds(drill: Drill) -> None:
    proof = drill.prove()
    assert {} == {row.name: row.sentence for row in proof.rows if not row.held}
    assert [] == [row.component for row in proof.targets if not row.held]
    assert proof.held
    assert ("2",) == drill.held_back


@pytest.mark.parametrize("name", ["flip-byte", "drop-pack", "stale-index", "lost-feature"])
def test_a_sabotage_turns_what_it_breaks_and_nothing_else(drill: Drill, name: str) -> None:
    sabotage = SABOTAGES[name]
    undo = sabotage.strike(drill.stage)
    try:
        proof = drill.prove()
    finally:
        undo()
    assert sabotage.breaks == proof.failed
    assert not proof.held
    assert all(row.sentence for row in proof.rows)


def test_writers_without_a_lease_are_refused_by_the_gate(drill: Drill) -> None:
    assert 4 == drill.without_fence.code
    assert sorted(SABOTAGES["no-fence"].breaks) == refused_gates(drill.without_fence)
    assert (0, []) == (drill.plan.code, refused_gates(drill.plan))


def refused_gates(plan: Done) -> list[str]:
    return [gate["name"] for gate in plan.value["gates"] if gate["verdict"] == "refused"]


def test_the_command_line_fails_over_with_no_prefect_anywhere(drill: Drill) -> None:
    away = drill.stage.settings.sites.away.name
    assert (0, "done", away) == (drill.failover.code, drill.failover.value["verdict"], drill.failover.value["target"])
    unasked = command(drill.stage, "failover", "run", drill.plan.value["id"])
    assert (4, "refused") == (unasked.code, unasked.value["error"]["kind"])
    again = command(drill.stage, "failover", "run", drill.plan.value["id"], "--yes")
    assert (0, "nothing") == (again.code, again.value["verdict"])
    followed = command(drill.stage, "failover", "status")
    assert (0, away, 2, "") == (
        followed.code, followed.value["active"], followed.value["epoch"], followed.value["held_by"],
    )  # fmt: skip
    unprotected = command(drill.stage, "status")
    assert (5, False) == (unprotected.code, unprotected.value["protected"])
    refused = command(drill.stage, "artifacts", "push")
    assert 4 == refused.code
    assert "holds the vault itself" in refused.value["error"]["message"]


def test_every_sabotage_is_told_and_has_something_to_break() -> None:
    assert {"flip-byte", "drop-pack", "stale-index", "no-fence", "lost-feature"} == set(SABOTAGES)
    assert all(each.says and each.breaks for each in SABOTAGES.values())


def test_the_lost_site_answers_nobody(drill: Drill) -> None:
    client = Client(drill.stage.settings)
    client.resolve = lambda: drill.stage.settings.traffic.addresses["home"]  # type: ignore[method-assign]
    with pytest.raises(NotAnswered, match="does not answer"):
        client.health()


@pytest.mark.parametrize(
    ("status", "path", "body"),
    [
        (400, "/recommend", {"text": "no entity"}),
        (400, "/recommend", {"entity": "canary", "k": 0}),
        (400, "/features", {"entity": "canary", "feature": "watched"}),
        (400, "/features", {"entity": "canary", "feature": "watched", "value": 1, "event_time": "yesterday"}),
    ],
)
def test_an_instance_says_what_is_wrong_with_a_request(drill: Drill, status: int, path: str, body: object) -> None:
    with pytest.raises(NotAnswered) as caught:
        Client(drill.stage.settings).call("POST", path, body)  # type: ignore[arg-type]
    assert status == caught.value.status


def test_a_write_is_read_back_and_can_be_deleted(drill: Drill) -> None:
    client = Client(drill.stage.settings)
    client.write("somebody", "interest", "How do I parse command line arguments?")
    assert "interest" in client.recommend("somebody")["features"]
    assert client.recommend("somebody")["hits"] != client.recommend("nobody")["hits"]
    client.write("somebody", "interest", None)
    assert {} == client.recommend("somebody")["features"]


def test_a_damaged_standby_is_found_and_made_again_before_it_gets_traffic(drill: Drill) -> None:
    service = Service(drill.stage.settings)
    pinned = service.newest_set()
    assert pinned is not None
    SABOTAGES["stale-index"].strike(drill.stage)
    SABOTAGES["lost-feature"].strike(drill.stage)
    index = service.catch_up_index(drill.stage.settings.pair("vector_index"), role="away", set_sequence=pinned.sequence)
    features = service.catch_up_features(drill.stage.settings.pair("feature_store"), role="away")
    assert ["changed", "changed"] == [index[-1].verdict, features[-1].verdict]
    assert {} == {row.name: row.sentence for row in drill.prove().rows if not row.held}
