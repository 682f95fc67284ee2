"""What `make deploy` reads, writes and says, as far as it needs no Prefect server; the rest is in tests/flows."""

from __future__ import annotations

import sys
from datetime import timedelta

import pytest
import yaml
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule

from deployments import blocks
from deployments.deploy import _prefect_deploy, prefect_file
from tests.unit.example import EXAMPLE
from understudy.errors import UnderstudyError
from understudy.secrets import Secret
from understudy.settings import Settings

SETTINGS = Settings.model_validate(EXAMPLE)
URL = "https://hooks.example.com/planted-deploy-4711"
VECTORS = "flows.replicate_vectors.replicate_vectors"
ARTIFACTS = "flows.replicate_artifacts.replicate_artifacts"


@pytest.mark.parametrize("slug", ["slack-webhook", "custom-webhook", "pager-duty-webhook"])
@pytest.mark.parametrize("kind", ["", "env:", "file:"])
def test_a_block_is_made_from_a_variable_an_other_variable_or_a_file(tmp_path, monkeypatch, slug, kind):
    (tmp_path / "secret").write_text(URL, encoding="utf-8")
    monkeypatch.setenv("ELSEWHERE", URL)
    value = {"": URL, "env:": "env:ELSEWHERE", "file:": f"file:{tmp_path}/secret"}[kind]
    wanted = blocks.Wanted(slug, "on-call", "HOOK")
    made = blocks._made(wanted, {"HOOK": value, "HOOK_API_KEY": value})
    assert URL in str(blocks._values(made))
    assert URL not in repr(made)
    assert "no ***" == UnderstudyError(f"no {URL}").message


def active_in_file(entrypoint, there):
    (found,) = [
        each
        for each in yaml.safe_load(prefect_file(SETTINGS, {entrypoint: there}))["deployments"]
        if each["entrypoint"] == entrypoint
    ]
    return [each.get("active", True) for each in found["schedules"]]


def on_server(schedule, *, active):
    return DeploymentSchedule(schedule=schedule, active=active)


def test_a_schedule_is_active_as_the_same_one_is_on_the_server_and_a_new_one_unless_all_are_paused():
    half_hour, hour = (IntervalSchedule(interval=timedelta(minutes=each)) for each in (30, 60))
    night = CronSchedule(cron="0 2 * * *", timezone="UTC")
    assert [True] == active_in_file(VECTORS, [])
    assert [False] == active_in_file(VECTORS, [on_server(half_hour, active=False), on_server(night, active=True)])
    assert [True] == active_in_file(VECTORS, [on_server(half_hour, active=True), on_server(night, active=False)])
    assert [True] == active_in_file(VECTORS, [on_server(hour, active=True)])
    assert [False] == active_in_file(VECTORS, [on_server(hour, active=False)])
    noon = CronSchedule(cron="0 14 * * *", timezone="UTC")
    assert [False, True] == active_in_file(ARTIFACTS, [on_server(night, active=False), on_server(noon, active=True)])


@pytest.fixture
def prefect(tmp_path, monkeypatch):
    """Put a program in the place of the prefect command; it exits with 3 after what it is given to say."""

    def put(script):
        command = tmp_path / "prefect"
        command.write_text(f"#!/bin/sh\n{script}\nexit 3\n", encoding="utf-8")
        command.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        with pytest.raises(UnderstudyError) as error:
            _prefect_deploy("", SETTINGS, tmp_path / "understudy.yaml")
        return str(error.value)

    return put


def test_when_prefect_fails_its_last_twenty_lines_are_shown_without_secrets(prefect):
    Secret(URL)
    said = prefect(f"for i in $(seq 30); do echo line $i; done; echo; echo 'no: {URL}' >&2")
    lines = said.splitlines()
    assert lines[0].startswith("prefect deploy ended with exit code 3. See that PREFECT_API_URL")
    assert [*(f"  line {i}" for i in range(12, 31)), "  no: ***"] == lines[1:]


def test_when_prefect_fails_without_a_word_that_is_said(prefect):
    assert prefect("").endswith("names a running server. It said nothing")
