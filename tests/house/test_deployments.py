"""Every deployment names a flow that exists, and the schedules meet the targets."""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module
from pathlib import Path

import yaml

from deployments.deploy import SCHEDULED, prefect_file, schedules_of
from tests.unit.example import EXAMPLE, example
from understudy.settings import Settings

ROOT = Path(__file__).parents[2]
FILE = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text(encoding="utf-8"))
SETTINGS = Settings.model_validate(EXAMPLE)


def test_every_entry_point_is_a_flow_in_a_module():
    for deployment in FILE["deployments"]:
        module, _, name = deployment["entrypoint"].rpartition(".")
        flow = getattr(import_module(module), name)
        assert set(deployment["parameters"]) <= set(flow.parameters.properties), deployment["entrypoint"]


def test_a_second_press_of_failover_never_fires_later():
    (failover,) = [each for each in FILE["deployments"] if each["entrypoint"] == "flows.failover.failover"]
    assert {"limit": 1, "collision_strategy": "CANCEL_NEW"} == failover["concurrency_limit"]
    assert "understudy-failover" == failover["work_pool"]["name"]
    assert "schedules" not in failover


def test_a_plan_runs_with_the_failovers_rights_and_never_takes_its_place():
    together = [each for each in FILE["deployments"] if each["work_pool"]["name"] == "understudy-failover"]
    assert {"flows.plan_failover.plan_failover", "flows.failover.failover"} == {each["entrypoint"] for each in together}
    assert [1, 1] == [each["concurrency_limit"]["limit"] for each in together]
    assert not any(each["work_pool"].get("work_queue_name") for each in together)
    worker = yaml.safe_load((ROOT / "deployments" / "helm" / "values-failover.yaml").read_text(encoding="utf-8"))
    assert len(together) <= worker["worker"]["config"]["limit"]
    pools = (ROOT / "deployments" / "terraform" / "modules" / "prefect_pools" / "main.tf").read_text(encoding="utf-8")
    assert "concurrency_limit " not in pools
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    assert "--limit" not in compose["worker-failover"]["command"]


def test_the_config_says_how_often_a_flow_runs():
    changed = Settings.model_validate(example(**{"components.vector_index.pairs.0.every": "10m"}))
    deployed = {
        each["entrypoint"]: each.get("schedules") for each in yaml.safe_load(prefect_file(changed))["deployments"]
    }
    assert 600 == deployed["flows.replicate_vectors.replicate_vectors"][0]["interval"]
    assert 120 == deployed["flows.replicate_offline.replicate_offline"][0]["interval"]
    assert ["0 2 * * *", "0 14 * * *"] == [
        each["cron"] for each in deployed["flows.replicate_artifacts.replicate_artifacts"]
    ]
    assert [{"interval": 300}] == deployed["flows.plan_failover.plan_failover"]


def test_the_schedules_in_the_file_are_those_of_the_reference_targets():
    for deployment in FILE["deployments"]:
        if deployment["entrypoint"] in SCHEDULED:
            component, _ = SCHEDULED[deployment["entrypoint"]]
            expected = schedules_of(SETTINGS, component, timedelta(0))
            periods = [each["interval"] for each in deployment["schedules"] if "interval" in each]
            assert [each["interval"] for each in expected if "interval" in each] == periods
            assert len([each for each in expected if "cron" in each]) == sum(
                len(each["cron"].split()[1].split(",")) for each in deployment["schedules"] if "cron" in each
            )
