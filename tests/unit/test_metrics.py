"""Measurements: read from the stores, exposed to Prometheus, pushed by OTLP, and the call to the dead man's switch."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import timedelta

import pytest
import yaml
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from tests.listener import listening
from tests.unit.example import example
from understudy import opening
from understudy.errors import InvalidConfig, Unreachable
from understudy.metrics import instruments
from understudy.metrics.after import tell_outside, verified
from understudy.metrics.counts import of_reports
from understudy.metrics.exposition import StoreCollector, exposition, serve
from understudy.metrics.gather import gather, proof_kind
from understudy.metrics.instruments import INSTRUMENTS
from understudy.metrics.otlp import push
from understudy.metrics.ping import ping
from understudy.report import Report
from understudy.service import open_service
from understudy.vault.pointers import proven_key, watermark_key

pytestmark = pytest.mark.slow  # a loop of 30 seconds has no room for it

PAIRS = {"feature_store": "user_features", "vector_index": "products", "training": "models"}
REPORT = Report(
    noun="artifacts", name="minilm", verdict="changed", sentence="", items_total=10, items_new=1, bytes_total=1000,
    bytes_read=300, bytes_sent=72, proven="sha256 10/10",
)  # fmt: skip


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def open_(tmp_path):
    """Open a service of folders, with dotted settings changed, whose pairs were all copied and proven just now."""
    for folder in ("vault", "register"):
        (tmp_path / folder).mkdir()

    def opened(**changes):
        places = {"vault.url": f"file://{tmp_path}/vault", "register.url": f"file://{tmp_path}/register"}
        path = tmp_path / "understudy.yaml"
        path.write_text(yaml.safe_dump(example(**{**places, **changes})), encoding="utf-8")
        return open_service(path)

    service = opened()
    service.register.initialise("recommender")
    now = service.vault.store.now()
    for component, pair in PAIRS.items():
        service.vault.move_pointer(watermark_key(component, pair), lambda _: {"watermark": now.isoformat()})
        service.vault.move_pointer(proven_key("away", pair), lambda _: {"by": "sha256 12/12", "at": now.isoformat()})
    return opened


def values(text):
    """Return the exposition as {(name, sorted labels): value}, as Prometheus parses it."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text, name, **labels):
    return values(text)[name, tuple(sorted({"service": "recommender", **labels}.items()))]


def names(text):
    return {name for name, _ in values(text)}


# ---------------------------------------------------------------------- Prometheus


def test_the_exposition_shows_what_the_stores_say(open_):
    service = open_()
    mark = service.vault.store.now() - timedelta(hours=3)
    service.vault.move_pointer(watermark_key("vector_index", "products"), lambda _: {"watermark": mark.isoformat()})
    service.register.renew("writer-1", "home", 1, 15.0)
    text = exposition(service)
    products = {"component": "vector_index", "pair": "products"}
    assert pytest.approx(mark.timestamp(), abs=1) == value(text, "understudy_watermark_timestamp_seconds", **products)
    assert pytest.approx(3 * 3600, abs=60) == value(text, "understudy_watermark_lag_seconds", **products)
    proven = value(text, "understudy_last_verified_timestamp_seconds", site="gcp-usc1", by="sha256", **products)
    assert pytest.approx(time.time(), abs=60) == proven
    assert 3600 == value(text, "understudy_rpo_target_seconds", component="vector_index")
    assert 1800 == value(text, "understudy_rto_target_seconds", component="vector_index")
    assert [1, 1, 1, 0] == [value(text, f"understudy_{name}") for name in ("up", "epoch", "protected", "failover_held")]
    assert 15 == value(text, "understudy_lease_duration_seconds", site="aws-use1", writer="writer-1")
    assert (1, 0) == tuple(value(text, "understudy_active", site=site) for site in ("aws-use1", "gcp-usc1"))


def test_a_service_that_serves_from_its_own_vault_is_unprotected(open_):
    service = open_()
    claim = service.register.claim(1, who="ana", host="here", plan="aaaaaa", target="away")
    service.register.record_fence(claim, "leases", {})
    service.register.enable_writes(claim)
    text = exposition(service)
    assert (0, 2, 1) == tuple(value(text, f"understudy_{name}") for name in ("protected", "epoch", "failover_held"))


@pytest.mark.parametrize(("store", "gone"), [("vault", "watermark_timestamp_seconds"), ("register", "epoch")])
def test_a_store_that_cannot_be_read_is_a_nought_and_keeps_no_stale_value(open_, tmp_path, store, gone):
    service = open_()
    assert f"understudy_{gone}" in names(exposition(service))
    (tmp_path / store).rename(tmp_path / "away")
    (tmp_path / store).write_text("this is no folder", encoding="utf-8")
    text = exposition(service)
    assert 0 == value(text, "understudy_up")
    assert 0 == value(text, "understudy_store_up", store=store)
    assert f"understudy_{gone}" not in names(text)
    (tmp_path / store).unlink()
    (tmp_path / "away").rename(tmp_path / store)
    assert 1 == value(exposition(service), "understudy_up")


def test_a_pointer_that_is_not_json_is_no_value(open_, tmp_path):
    service = open_()
    (tmp_path / "vault" / watermark_key("training", "models")).write_text("{", encoding="utf-8")
    assert 0 == value(exposition(service), "understudy_store_up", store="vault")


@pytest.mark.parametrize(
    ("store", "gone", "kept"),
    [("register", "epoch", "watermark_timestamp_seconds"), ("vault", "watermark_timestamp_seconds", "epoch")],
)
def test_a_store_that_hangs_is_said_in_time_and_hides_nothing_of_the_other(open_, monkeypatch, store, gone, kept):
    service = open_()
    collector = StoreCollector(service, seconds=0.5)
    calls = []

    def hang(*_):
        calls.append(1)
        time.sleep(30)

    register = service.register  # opened before opening hangs
    if store == "register":
        monkeypatch.setattr(type(register), "read", hang)
    else:
        monkeypatch.setattr(opening, "open_store", hang)
    for _ in range(2):
        began = time.monotonic()
        found = {(each.instrument.prometheus, each.labels.get("store", "")): each.value for each in collector.read()}
        assert time.monotonic() - began < 5
        up = {name: value for (name, _), value in found.items() if name == "understudy_up"}
        assert {"understudy_up": 0} == up
        other = "vault" if store == "register" else "register"
        assert (0, 1) == tuple(found["understudy_store_up", each] for each in (store, other))
        assert (f"understudy_{gone}", "") not in found
        assert (f"understudy_{kept}", "") in found
    assert [1] == calls, "scrapes of a store that hangs pile up"


def test_what_nobody_foresaw_is_a_nought_for_its_store_alone(open_, monkeypatch):
    service = open_()
    service.vault.move_pointer(proven_key("away", "models"), lambda _: {"another": "document"})
    text = exposition(service)
    stores = [value(text, "understudy_store_up", store=store) for store in ("vault", "register")]
    assert (0, [0, 1]) == (value(text, "understudy_up"), stores)
    monkeypatch.setattr(type(service.settings), "site", lambda *_: 1 / 0)
    monkeypatch.setattr("understudy.metrics.gather._targets", lambda *_: 1 / 0)
    text = exposition(service)
    assert [0, 0] == [value(text, "understudy_store_up", store=store) for store in ("vault", "register")]


def test_measuring_writes_nothing(open_, tmp_path):
    service = open_(**{"vault.url": f"file://{tmp_path}/fresh"})
    (tmp_path / "fresh").mkdir()
    exposition(service)
    assert [] == list((tmp_path / "fresh").iterdir())


def test_what_is_served_is_read_at_each_scrape(open_):
    service = open_()
    server, _ = serve(service, "127.0.0.1:0")
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/metrics"
        scrape = lambda: urllib.request.urlopen(url, timeout=10).read().decode()  # noqa: E731
        assert 1 == value(scrape(), "understudy_epoch")
        open_().register.claim(1, who="ana", host="elsewhere", plan="aaaaaa", target="away")
        assert 2 == value(scrape(), "understudy_epoch")
        with pytest.raises(InvalidConfig, match="cannot be served at"):
            serve(service, f"127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("address", ["9464", "127.0.0.1", ":9464", "127.0.0.1:http", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(open_, address):
    with pytest.raises(InvalidConfig, match=address):
        serve(open_(), address)


def test_every_gauge_that_is_exposed_is_in_the_table_with_its_labels(open_):
    service = open_()
    service.register.renew("writer-1", "home", 1, 15.0)
    service.verify_vault("quick")
    known = {each.prometheus: set(each.labels) for each in INSTRUMENTS if each.kind == "gauge"}
    found = {name: {key for key, _ in labels} for name, labels in values(exposition(service))}
    assert {name: known.get(name) for name in found} == found
    without_a_plan = {
        "understudy_rto_predicted_seconds",
        "understudy_plan_timestamp_seconds",
        "understudy_plan_refused",
    }
    without_a_budget = {"understudy_transfer_month_bytes", "understudy_transfer_month_budget_bytes"}
    assert set(known) - set(found) == without_a_plan | without_a_budget


def test_names_in_prometheus_end_with_their_unit():
    assert "understudy_last_verified_timestamp_seconds" == instruments.LAST_VERIFIED.prometheus
    assert "understudy_replication_sent_bytes_total" == instruments.BYTES_SENT.prometheus
    assert "understudy_replication_runs_total" == instruments.RUNS.prometheus
    assert "understudy_up" == instruments.UP.prometheus
    assert len(INSTRUMENTS) == len({each.prometheus for each in INSTRUMENTS})


def test_a_label_says_by_what_something_was_proven_without_its_figures():
    words = ["sha256 12/12", "digest", "digest, recall@10 0.998", "1,204 cells read back", "blake3 4/4", "12"]
    assert ["sha256", "digest", "digest", "cells", "blake3", "unknown"] == [proof_kind(each) for each in words]


# ---------------------------------------------------------------------- OTLP


def decoded(heard):
    """Return what a collector was sent, {name: (unit, kind, [(value, attributes)])}, and the resource's attributes."""
    found, resource = {}, {}
    for method, path, headers, body in heard.calls:
        assert ("POST", "/v1/metrics") == (method, path)
        request = ExportMetricsServiceRequest()
        request.ParseFromString(gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body)
        for of_resource in request.resource_metrics:
            resource |= {each.key: each.value.string_value for each in of_resource.resource.attributes}
            for metric in (each for scope in of_resource.scope_metrics for each in scope.metrics):
                kind = metric.WhichOneof("data")
                points = [
                    (
                        point.sum if kind == "histogram" else point.as_double or point.as_int,
                        {each.key: each.value.string_value for each in point.attributes},
                    )
                    for point in getattr(metric, kind).data_points
                ]
                found[metric.name] = (metric.unit, kind, points)
                if kind != "gauge":
                    assert 1 == getattr(metric, kind).aggregation_temporality, "a total would begin anew with each run"
    return found, resource


def test_a_run_is_pushed_as_deltas_and_the_stores_as_gauges(open_):
    with listening() as heard:
        service = open_(metrics={"otlp": heard.url})
        tell_outside(service, "models", "push_artifacts", [REPORT], seconds=2.5)
        found, resource = decoded(heard)
    run = {"service": "recommender", "component": "training", "pair": "models", "operation": "push_artifacts"}
    assert ("By", "sum", [(72, run)]) == found["understudy.replication.sent"]
    assert ("By", "sum", [(300, run)]) == found["understudy.replication.read"]
    assert ("By", "sum", [(928, run)]) == found["understudy.replication.deduplicated"]
    assert ("{item}", "sum", [(10, run)]) == found["understudy.replication.items"]
    assert ("{run}", "sum", [(1, {**run, "verdict": "changed"})]) == found["understudy.replication.runs"]
    assert ("s", "histogram", [(2.5, run)]) == found["understudy.replication.duration"]
    unit, kind, points = found["understudy.last_verified.timestamp"]
    assert ("s", "gauge", set(PAIRS.values())) == (unit, kind, {labels["pair"] for _, labels in points})
    assert all(abs(moment - time.time()) < 60 for moment, _ in points)
    assert {"understudy", "recommender"} == {resource["service.name"], resource["service.namespace"]}


def test_a_run_that_an_error_ended_is_counted_by_its_kind(open_):
    with listening() as heard:
        service = open_(metrics={"otlp": f"{heard.url}/v1/metrics"})
        tell_outside(service, "products", "export_vectors", [], seconds=1.0, failed="unreachable")
        found, _ = decoded(heard)
    ((count, labels),) = found["understudy.replication.runs"][2]
    assert (1, "unreachable", "vector_index") == (count, labels["verdict"], labels["component"])
    assert "understudy.replication.sent" not in found


def test_what_is_held_back_saved_nothing():
    held = Report(noun="artifacts", name="m", verdict="held", sentence="", bytes_total=1000)
    saved = [s.value for s in of_reports([held], {}, seconds=1) if s.instrument is instruments.BYTES_DEDUPLICATED]
    assert [0] == saved


@pytest.mark.parametrize(("status", "delay"), [(500, 0.0), (200, 30.0)])
def test_a_collector_that_fails_or_hangs_holds_nothing_up(open_, caplog, status, delay):
    with listening() as heard, caplog.at_level("WARNING", logger="understudy"):
        heard.status, heard.delay_seconds = status, delay
        service = open_(metrics={"otlp": heard.url})
        began = time.monotonic()
        tell_outside(service, "models", "push_artifacts", [REPORT], seconds=1.0)
        assert time.monotonic() - began < 6
        assert [] != heard.calls
    assert "did not take the measurements" in caplog.text or "took longer than 2 s" in caplog.text


def test_nobody_listening_is_an_error_that_says_where():
    with listening() as heard:
        url = heard.url
    with pytest.raises(Unreachable, match=url):
        push(url, of_reports([REPORT], {}, seconds=1), service="recommender", seconds=1.0)


def test_on_a_failovers_path_nothing_is_waited_for_and_nothing_is_pinged(open_, monkeypatch):
    with listening() as heard:
        monkeypatch.setenv("PING", f"{heard.url}/ping")
        heard.delay_seconds = 1.0
        service = open_(metrics={"otlp": heard.url, "ping": "env:PING"})
        began = time.monotonic()
        tell_outside(service, "models", "hydrate_artifacts", [REPORT], seconds=1.0, wait=False)
        assert time.monotonic() - began < 0.5
        for thread in [each for each in threading.enumerate() if "metrics" == each.name]:
            thread.join(20)
        assert ["/v1/metrics"] == [path for _, path, _, _ in heard.calls]


def test_no_telemetry_is_imported_while_none_is_configured(open_):
    open_()
    program = (
        "import sys\n"
        "from understudy.metrics.after import tell_outside\n"
        "from understudy.service import open_service\n"
        "tell_outside(open_service(sys.argv[1]), 'models', 'push', [], seconds=1.0)\n"
        "sys.exit(any(name.startswith(('opentelemetry', 'prometheus')) for name in sys.modules))\n"
    )
    config = str(open_().vault.store.url.removeprefix("file://").rsplit("/vault", 1)[0]) + "/understudy.yaml"
    assert 0 == subprocess.run([sys.executable, "-c", program, config], check=False).returncode


# ---------------------------------------------------------------------- the dead man's switch


def pinged(open_, monkeypatch, reports, *, change=None, failed=""):
    """Return the calls that the switch got after a run."""
    with listening() as heard:
        monkeypatch.setenv("PING", f"{heard.url}/token-4711")
        service = open_(metrics={"ping": "env:PING"})
        if change:
            change(service)
        tell_outside(service, "models", "push_artifacts", reports, seconds=1.0, failed=failed)
        return [(method, path) for method, path, _, _ in heard.calls]


def test_a_verified_run_pings(open_, monkeypatch):
    assert [("GET", "/token-4711")] == pinged(open_, monkeypatch, [REPORT])


def test_a_run_that_failed_or_proved_nothing_does_not_ping(open_, monkeypatch):
    assert [] == pinged(open_, monkeypatch, [], failed="corrupt")
    held = Report(noun="artifacts", name="m", verdict="held", sentence="")
    assert [] == pinged(open_, monkeypatch, [REPORT, held])
    assert not verified([])


def test_a_run_does_not_ping_while_another_pair_is_late(open_, monkeypatch):
    def late(service):
        mark = service.vault.store.now() - timedelta(hours=2)
        service.vault.move_pointer(watermark_key("vector_index", "products"), lambda _: {"watermark": mark.isoformat()})

    assert [] == pinged(open_, monkeypatch, [REPORT], change=late)


def test_a_run_does_not_ping_during_a_failover_or_after_it(open_, monkeypatch):
    def claimed(service):
        service.register.claim(1, who="ana", host="here", plan="aaaaaa", target="away")

    assert [] == pinged(open_, monkeypatch, [REPORT], change=claimed)
    assert not gather(open_()).within_targets


def test_the_switchs_url_is_a_secret_and_no_error_shows_it(open_, monkeypatch, caplog):
    with listening() as heard, caplog.at_level("WARNING", logger="understudy"):
        heard.status = 404
        monkeypatch.setenv("PING", f"{heard.url}/token-4711")
        tell_outside(open_(metrics={"ping": "env:PING"}), "models", "push", [REPORT], seconds=1.0)
    assert "answers 404" in caplog.text
    for bad in (
        "htps://x/token-4711",
        "http://127.0.0.1:token-4711/",
        "http://[token-4711/",
        heard.url + "/token-4711",
    ):
        with pytest.raises((InvalidConfig, Unreachable)) as error:
            ping(bad, seconds=0.5)
        assert "4711" not in str(error.value)
        assert "4711" not in caplog.text


def test_a_switch_that_hangs_is_left_after_two_seconds():
    with listening() as heard:
        heard.delay_seconds = 30
        began = time.monotonic()
        with pytest.raises(Unreachable):
            ping(heard.url, seconds=0.3)
        assert time.monotonic() - began < 2
