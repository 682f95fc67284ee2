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
    assert {"understudy", "understudy-failover"} <= set(first["pools"])
    assert 6 == len(first["deployments"])
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
