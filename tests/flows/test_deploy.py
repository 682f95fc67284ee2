"""`make deploy` against a real Prefect server: twice is once, a change is made in place, what is left over is said."""

from __future__ import annotations

import json

import pytest
import yaml
from prefect.blocks.core import Block
from prefect.client.orchestration import get_client
from prefect.events.schemas.automations import AutomationCore

import deployments.automations
from deployments.automations import FILE, put_automations
from deployments.blocks import put_blocks
from deployments.deploy import deploy
from tests.unit.example import example
from understudy.errors import InvalidConfig
from understudy.settings import load_settings

pytestmark = [pytest.mark.prefect, pytest.mark.slow, pytest.mark.timeout(400)]

SECRET = "https://hooks.example.com/planted-4711"
NAMES = ["failed or crashed", "a copy is refused", "missed target", "killed without a word", "nothing starts"]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "understudy.yaml"
    document = example(service="deployed", notify=["block:custom-webhook/on-call"])
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def everything():
    """Return all that a deployment makes, {kind: {name: document}}, with ids."""
    with get_client(sync_client=True) as client:
        deployed = [each for each in client.read_deployments() if each.name == "deployed"]
        block = client.read_block_document_by_name("on-call", "custom-webhook", include_secrets=False)
        return {
            "pools": {each.name: each.model_dump(mode="json") for each in client.read_work_pools()},
            "deployments": {each.entrypoint: each.model_dump(mode="json") for each in deployed},
            "blocks": {"on-call": block.model_dump(mode="json")},
            "automations": {
                each.name: each.model_dump(mode="json")
                for each in client.read_automations()
                if each.name.startswith("understudy deployed: ")
            },
        }


def ids(found):
    return {kind: {name: document["id"] for name, document in each.items()} for kind, each in found.items()}


def test_deploying_twice_is_deploying_once_and_a_change_is_made_in_place(config, tmp_path, monkeypatch):
    with pytest.raises(InvalidConfig, match="UNDERSTUDY_CUSTOM_WEBHOOK_ON_CALL"):
        deploy(config)
    monkeypatch.setenv("UNDERSTUDY_CUSTOM_WEBHOOK_ON_CALL", SECRET)
    said = deploy(config)
    first = everything()
    assert {"understudy", "understudy-failover", "understudy-prune"} <= set(first["pools"])
    assert 8 == len(first["deployments"])
    assert {f"understudy deployed: {name}" for name in NAMES} == set(first["automations"])
    assert "block:custom-webhook/on-call: created from UNDERSTUDY_CUSTOM_WEBHOOK_ON_CALL" in said
    assert "planted" not in json.dumps([first, said]), "a secret is where it can be read"
    assert SECRET == Block.load("custom-webhook/on-call").secrets.get_secret_value()["url"]

    text = FILE.read_text(encoding="utf-8").replace(
        "threshold: 1\n      within: 120", "threshold: 1\n      within: 150"
    )
    document = yaml.safe_load(text)
    document["automations"] = [each for each in document["automations"] if each["name"] != "nothing starts"]
    changed = tmp_path / "automations.yaml"
    changed.write_text(yaml.safe_dump(document), encoding="utf-8")
    with get_client(sync_client=True) as client:
        by_hand = first["automations"]["understudy deployed: missed target"]
        client.pause_automation(by_hand["id"])
        assert [] == deploy(config), "a second time something was changed"
        assert ids(first) == ids(everything())
        assert not everything()["automations"][by_hand["name"]]["enabled"], "what an operator switched off is on again"

        monkeypatch.setattr(deployments.automations, "FILE", changed)
        monkeypatch.setenv("UNDERSTUDY_CUSTOM_WEBHOOK_ON_CALL", SECRET + "2")
        said = []
        settings = load_settings(config)
        blocks = put_blocks(client, settings, said)
        put_automations(client, settings, deployments.automations.automations(settings, list(blocks.values())), said)
        assert ids(first) == ids(everything())
        assert 150 == everything()["automations"]["understudy deployed: killed without a word"]["trigger"]["within"]
        left_over = (
            "automation 'understudy deployed: {}' is not of the file; remove it: prefect automation delete --id {}"
        )
        gone = first["automations"]["understudy deployed: nothing starts"]["id"]
        assert [
            "block:custom-webhook/on-call: updated from UNDERSTUDY_CUSTOM_WEBHOOK_ON_CALL",
            "automation 'understudy deployed: killed without a word': updated",
            left_over.format("nothing starts", gone),
        ] == said
        twice = next(each for each in client.read_automations() if each.name.endswith("deployed: missed target"))
        second = client.create_automation(AutomationCore.model_validate(twice.model_dump(exclude={"id"})))
        said = []
        put_automations(client, settings, deployments.automations.automations(settings, list(blocks.values())), said)
        assert ["missed target", "nothing starts"] == sorted(line.split("'")[1].partition(": ")[2] for line in said)
        client.delete_automation(second)


def schedules(config):
    """Return the service's schedules on the server: {flow: [(id of the deployment, schedule)]}."""
    service = load_settings(config).service
    with get_client(sync_client=True) as client:
        found = [each for each in client.read_deployments() if each.name == service]
        return {
            (each.entrypoint or "").rpartition(".")[2]: [(each.id, schedule) for schedule in each.schedules]
            for each in found
        }


def switch(found, *, active):
    with get_client(sync_client=True) as client:
        for deployment, schedule in found:
            client.update_deployment_schedule(deployment, schedule.id, active=active)


def actives(config):
    return {flow: {each.active for _, each in found} for flow, found in schedules(config).items()}


def test_a_paused_schedule_stays_paused_and_that_of_a_component_that_left_is_removed(tmp_path, monkeypatch):
    (tmp_path / "hook").write_text(SECRET + "\n", encoding="utf-8")
    monkeypatch.setenv("UNDERSTUDY_CUSTOM_WEBHOOK_PAUSED", f"file:{tmp_path}/hook")
    path = tmp_path / "understudy.yaml"

    def written(**changes):
        document = example(service="paused", notify=["block:custom-webhook/paused"], **changes)
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return path

    deploy(written())
    assert SECRET == Block.load("custom-webhook/paused").secrets.get_secret_value()["url"]
    before = actives(path)
    scheduled = {"replicate_artifacts", "replicate_vectors", "replicate_offline", "rebuild_features", "plan_failover"}
    assert scheduled | {"verify_vault"} == {flow for flow, found in before.items() if found == {True}}
    switch(schedules(path)["replicate_vectors"] + schedules(path)["plan_failover"], active=False)
    said = deploy(path)
    expected = before | {"replicate_vectors": {False}, "plan_failover": {False}}
    assert expected == actives(path)
    resume = [line.rpartition("prefect deployment schedule resume ")[2].split() for line in said]
    assert {"replicate-vectors/paused", "plan-failover/paused"} == {name for name, _ in resume}
    there = {str(each.id) for found in schedules(path).values() for _, each in found if not each.active}
    assert there == {schedule for _, schedule in resume}, "the command that is printed names no schedule of now"

    deploy(written(**{"components.vector_index.pairs.0.every": "17m"}))
    ((_, now),) = schedules(path)["replicate_vectors"]
    assert (17 * 60, False) == (now.schedule.interval.total_seconds(), now.active), "another period switched it on"
    switch(schedules(path)["replicate_vectors"], active=True)
    assert "replicate-vectors" not in "".join(deploy(path))
    assert expected | {"replicate_vectors": {True}} == actives(path)

    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    del document["components"]["vector_index"]
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    gone = "deployment replicate-vectors/paused: a schedule was removed; the config copies no vector_index"
    assert gone in deploy(path)
    assert [] == schedules(path)["replicate_vectors"]
    assert {True} == actives(path)["replicate_artifacts"]
    assert gone not in deploy(path)
