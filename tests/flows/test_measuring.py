"""A scheduled run measures itself, and calls the dead man's switch once the standby is proven."""

from __future__ import annotations

import gzip

import pytest
import yaml
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prefect import flow

from flows.replicate_artifacts import replicate_artifacts
from tasks.house import direct_task
from tests.flows.dead_server import config_of
from tests.listener import listening
from understudy.secrets import Secret

pytestmark = [pytest.mark.prefect, pytest.mark.slow, pytest.mark.timeout(240)]


def runs(heard):
    """Return (operation, verdict) of each run that the collector was told of."""
    found = []
    for _, path, headers, body in heard.calls:
        if path != "/v1/metrics":
            continue
        request = ExportMetricsServiceRequest()
        request.ParseFromString(gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body)
        for metric in request.resource_metrics[0].scope_metrics[0].metrics:
            if metric.name == "understudy.replication.runs":
                for point in metric.sum.data_points:
                    labels = {each.key: each.value.string_value for each in point.attributes}
                    found.append((labels["operation"], labels["verdict"]))
    return found


def test_each_task_pushes_what_it_did_and_the_switch_is_called_when_all_is_proven(tmp_path, monkeypatch):
    with listening() as heard:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("PING", f"{heard.url}/ping-4711")
        path = config_of(tmp_path)
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        document["metrics"] = {"otlp": heard.url, "ping": "env:PING"}
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        state = replicate_artifacts(config=str(path), return_state=True)
        assert "Completed" == state.name, state.message
        assert [("push_artifacts", "changed"), ("hydrate_artifacts", "changed")] == runs(heard)
        # The push alone proves nothing of the standby, so only the hydrate calls.
        assert ["/v1/metrics", "/v1/metrics", "/ping-4711"] == [call[1] for call in heard.calls]

        heard.calls.clear()
        (tmp_path / "register" / "register.json").unlink()
        state = replicate_artifacts(config=str(path), return_state=True)
        assert "Refused" == state.name
        assert [("push_artifacts", "refused")] == runs(heard)
        assert ["/v1/metrics"] == [call[1] for call in heard.calls]


def test_a_vendors_own_error_with_a_secret_is_kept_by_prefect_without_it():
    Secret("planted-state-4711")

    @direct_task("failing")
    def fail():
        raise LookupError("401 for planted-state-4711")

    found = []

    @flow(name="failing-with-a-secret")
    def work():
        found.append(fail(return_state=True))
        raise LookupError(found[0].message)

    found.append(work(return_state=True))
    assert ["Failed"] * 2 == [state.name for state in found]
    assert "LookupError: 401 for ***" in found[0].message
    assert "planted" not in "".join(state.message for state in found)
