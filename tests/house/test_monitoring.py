"""Rules, dashboard and automations name what the code has."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import yaml
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent

from deployments.automations import FILE, automations
from tasks.screen import STATE_NAMES
from tests.unit.example import EXAMPLE
from understudy.metrics.instruments import INSTRUMENTS
from understudy.settings import Settings

ROOT = Path(__file__).parents[2]
RULES = yaml.safe_load((ROOT / "deployments" / "monitoring" / "alerts.yaml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((ROOT / "deployments" / "monitoring" / "dashboard.json").read_text(encoding="utf-8"))
DOCUMENT = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
SETTINGS = Settings.model_validate(EXAMPLE)
LABELS = {
    name: set(each.labels) | ({"le"} if name.endswith("_bucket") else set())
    for each in INSTRUMENTS
    for name in (
        [f"{each.prometheus}_{part}" for part in ("bucket", "sum", "count")]
        if each.kind == "histogram"
        else [each.prometheus]
    )
}


def expressions():
    """Return every PromQL expression by where it stands; Grafana's variables are given a value."""
    found = {rule["alert"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"]}
    for panel in DASHBOARD["panels"]:
        found |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel["targets"]}
    found |= {each["name"]: each["expr"] for each in DASHBOARD["annotations"]["list"]}
    return {name: text.replace("$__rate_interval", "5m").replace("$service", "a") for name, text in found.items()}


@pytest.mark.parametrize("name", expressions())
def test_every_expression_is_promql(name):
    parser = pytest.importorskip("promql_parser", reason="promql-parser is not installed; it is one of the dev group")
    parser.parse(expressions()[name])


@pytest.mark.parametrize("name", expressions())
def test_every_expression_is_over_metrics_and_labels_that_the_code_has(name):
    text = expressions()[name]
    metrics = set(re.findall(r"\bunderstudy_\w+", text))
    assert set() != metrics
    assert set() == metrics - set(LABELS), "no such metric"
    for metric, matchers in re.findall(r"(understudy_\w+)\{([^}]*)\}", text):
        assert set(re.findall(r"(\w+)\s*(?:=|!)", re.sub(r'"[^"]*"', "", matchers))) <= LABELS[metric], metric
    known = set().union(*(LABELS[metric] for metric in metrics))
    for clause in re.findall(r"\b(?:on|by|group_left)\s*\(([^)]*)\)", text):
        assert {label.strip() for label in clause.split(",") if label.strip()} <= known, clause


def test_every_alert_says_what_is_wrong_with_labels_that_its_metrics_have():
    for rule in (rule for group in RULES["groups"] for rule in group["rules"]):
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "description"} == set(rule["annotations"]), rule["alert"]
        named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        metrics = set(re.findall(r"\bunderstudy_\w+", rule["expr"]))
        assert named <= set().union(*(LABELS[metric] for metric in metrics)), rule["alert"]
        assert f"`{rule['alert']}`" in DOCUMENT, "docs/monitoring.md does not say what to do"


def test_a_service_that_cannot_be_measured_is_told_whatever_else_is_silent():
    told = {rule["expr"]: rule.get("for") for group in RULES["groups"] for rule in group["rules"]}
    for expression in ("absent(understudy_up) == 1", "understudy_up == 0", "understudy_store_up == 0"):
        assert "5m" == told[expression]


def test_every_metric_is_in_the_document_and_no_other():
    assert {each.prometheus for each in INSTRUMENTS} == set(
        re.findall(r"^\| `(understudy_\w+)`", DOCUMENT, re.MULTILINE)
    )


# ---------------------------------------------------------------------- automations


def triggers():
    """Return the automations' triggers as the Prefect server evaluates them, by name."""
    made = automations(SETTINGS, [uuid4()])
    return {
        each.name.partition(": ")[2]: EventTrigger.model_validate(each.trigger.model_dump(mode="json")) for each in made
    }


def event(state, *, service="recommender", tag="training"):
    """Return the event that Prefect emits when a run of a deployment of ours enters a state."""
    run = {"prefect.resource.id": f"prefect.flow-run.{uuid4()}", "prefect.resource.name": "vectors-all"}
    tags = [{"prefect.resource.id": f"prefect.tag.{name}", "prefect.resource.role": "tag"} for name in (service, tag)]
    return ReceivedEvent(
        occurred=datetime.now(UTC), event=f"prefect.flow-run.{state}", resource=run, related=tags, id=uuid4()
    )


def told(state, **more):
    """Return which automations a state sets off at once."""
    found = triggers()
    return {
        name
        for name, each in found.items()
        if "Reactive" == each.posture.value and each.covers(event(state, **more)) and each.expects(event(state).event)
    }


def test_every_state_of_a_run_that_ended_badly_is_told_and_a_good_one_is_not():
    bad = {*STATE_NAMES.values(), "Failed", "Crashed"}
    assert [] == [state for state in bad if len(told(state)) != 1]
    assert [] == [state for state in ("Completed", "Unchanged", "Held", "Running") if told(state)]
    assert {"a copy is refused"} == told("Refused")
    assert {"missed target"} == told("Missed target")
    assert set() == told("Refused", tag="failover"), "a refused failover is told by its own flow"
    assert {"failed or crashed"} == told("Crashed", tag="failover")
    assert set() == told("Crashed", service="another")


def test_a_run_with_any_state_of_ours_is_not_taken_for_killed():
    killed = triggers()["killed without a word"]
    assert killed.starts_after("prefect.flow-run.heartbeat")
    for state in (*STATE_NAMES.values(), "Completed", "Unchanged", "Held", "Paused", "heartbeat"):
        assert killed.expects(f"prefect.flow-run.{state}"), state
    environment = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())["definitions"]["environment"]
    assert timedelta(seconds=4 * int(environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])) == killed.within


def test_without_a_channel_what_only_notifies_is_left_out():
    assert ["understudy recommender: killed without a word"] == [each.name for each in automations(SETTINGS, [])]
    assert 5 == len(yaml.safe_load(FILE.read_text(encoding="utf-8"))["automations"])
    two = automations(SETTINGS, [uuid4(), uuid4()])
    assert {"send-notification", "change-flow-run-state"} == {action.type for each in two for action in each.actions}
    assert 2 == len(two[0].actions)
