"""People are told of a failover by Prefect's notification blocks: each thing once, and nothing waits for it."""

from __future__ import annotations

import json
import logging
import time
from datetime import timedelta

import pytest
import yaml
from prefect import flow
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

from flows.failover import failover
from tasks.notifying import Announcer, announce_standing
from tests.flows.dead_server import config_of, in_files
from tests.listener import listening
from tests.unit.example import example
from tests.unit.failover.situation import settings as situation_settings
from tests.unit.failover.situation import situation
from understudy.failover.engine import prepare
from understudy.failover.plan import make_plan
from understudy.failover.plans import save_plan
from understudy.notices import Notice
from understudy.service import Service, open_service
from understudy.threads import ThreadPool
from understudy.vault.pointers import watermark_key

pytestmark = [pytest.mark.prefect, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def channels():
    """A custom webhook and a Slack block that both lead to a loopback server."""
    with listening() as heard:
        custom = CustomWebhookNotificationBlock(
            name="incidents",
            url="{{url}}",
            json_data={"dedup_key": "{{subject}}", "text": "{{body}}"},
            secrets={"url": f"{heard.url}/custom"},
            timeout=2,
        )
        custom.save("incidents", overwrite=True)
        # apprise sends json:// to any host: the block and its way through apprise are Slack's, the words' shape is not.
        SlackWebhook(url=heard.url.replace("http", "json") + "/slack").save("incidents", overwrite=True)
        yield heard


def notify(path):
    """Name both blocks in a config, and open its service."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["notify"] = ["block:custom-webhook/incidents", "block:slack-webhook/incidents"]
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return open_service(path)


def keys(heard):
    """Return the keys that the custom webhook got, in order, without the service's name."""
    told = [json.loads(body) for _, path, _, body in heard.calls if path == "/custom"]
    return [each["dedup_key"].removeprefix("understudy/recommender/") for each in told]


def to_slack(heard):
    return [json.loads(body)["message"] for _, path, _, body in heard.calls if path == "/slack"]


def test_a_failover_tells_its_claim_its_point_of_no_return_and_its_end_once(tmp_path, monkeypatch, channels):
    config = config_of(tmp_path)
    service = notify(config)
    service.push_artifacts(service.settings.pair("training"))
    monkeypatch.setattr(Service, "world", in_files(tmp_path, lambda: None))
    plan = prepare(service.world("away"), target="away")
    save_plan(service.register.store, plan)
    done = failover(plan=plan.id, config=str(config), confirm="recommender", return_state=True)
    assert "Completed" == done.name, done.message
    epoch = plan.epoch + 1
    expected = [f"{epoch}/claim", f"{epoch}/no-return", f"{epoch}/finished"]
    assert expected == keys(channels)
    assert [True, True, True] == [
        word in sentence
        for word, sentence in zip(["has begun", "no return", "is active"], to_slack(channels), strict=True)
    ]
    again = failover(plan=plan.id, config=str(config), confirm="recommender", return_state=True)
    assert "nothing to do" in again.message
    assert expected == keys(channels), "what was told before was told again"


def test_a_refusal_is_told_once_whatever_its_figures(tmp_path, monkeypatch, channels):
    config = config_of(tmp_path)
    monkeypatch.setattr(Service, "world", in_files(tmp_path, lambda: None))
    service = notify(config)
    old = service.register.now() - timedelta(hours=1)
    plan = make_plan(situation(now=old, state=service.register.read()), situation_settings())
    save_plan(service.register.store, plan)
    for _ in range(2):
        state = failover(plan=plan.id, config=str(config), confirm="recommender", return_state=True)
        assert "Refused" == state.name
        time.sleep(1.1)  # its age in the sentence is another one
    (key,) = keys(channels)
    assert key.startswith(f"{plan.epoch + 1}/refused-{plan.id}-")
    assert 1 == len(to_slack(channels))
    assert "plans are good for" in to_slack(channels)[0]


def test_a_missed_target_is_told_when_it_begins_and_when_it_is_over(tmp_path, channels):
    path = tmp_path / "understudy.yaml"
    for folder in ("vault", "register"):
        (tmp_path / folder).mkdir()
    document = example(**{"vault.url": f"file://{tmp_path}/vault", "register.url": f"file://{tmp_path}/register"})
    del document["components"]["training"], document["components"]["feature_store"]
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    service = notify(path)
    service.register.initialise("recommender")
    service.vault.move_pointer("pointers/proven/away/products.json", lambda _: {"by": "digest", "at": moment(service)})

    def late(hours):
        value = {"watermark": moment(service, hours=hours)}
        service.vault.move_pointer(watermark_key("vector_index", "products"), lambda _: value)
        announce_standing(str(path), make_plan(situation(), situation_settings()))

    late(0)
    assert [] == keys(channels)
    late(2)
    late(3)
    assert ["1/target-vector_index"] == keys(channels)
    assert "2h00m would be lost, 1h00m may be" in to_slack(channels)[0]
    late(0)
    late(0)
    assert ["1/target-vector_index"] * 2 == keys(channels)
    assert "over" in to_slack(channels)[1]
    late(2)
    assert ["1/target-vector_index"] * 3 == keys(channels), "a second miss was kept quiet"
    service.register.claim(1, who="ana", host="here", plan="aaaaaa", target="away")
    channels.status = 500
    late(2)
    channels.status = 200
    late(2)
    ended = [
        number for number, words in enumerate(to_slack(channels)) if "over: target-vector_index (of epoch 1" in words
    ]
    told = [number for number, words in enumerate(to_slack(channels)) if "2h00m would be lost" in words]
    assert [3, 5] == ended, "the end of what stood in the epoch before was not tried until it was heard"
    assert max(told) > max(ended)
    before = len(to_slack(channels))
    late(2)
    assert before == len(to_slack(channels))


def moment(service, **ago):
    return (service.vault.store.now() - timedelta(**ago)).isoformat()


def test_a_channel_that_hangs_is_left_and_its_secret_is_in_no_log(tmp_path, channels, caplog):
    service = notify(config_of(tmp_path))
    channels.delay_seconds = 20
    announcer = Announcer(service)
    began = time.monotonic()
    announcer.tell(Notice("recommender", 2, "claim", "a failover has begun"))
    with caplog.at_level("WARNING", logger="understudy"):
        announcer.close()
    assert time.monotonic() - began < 3
    assert "longer than 2 s; going on without it" in caplog.text
    channels.delay_seconds, channels.status = 0, 404
    with caplog.at_level("WARNING", logger="understudy"):
        second = Announcer(service)
        second.tell(Notice("recommender", 3, "claim", "a failover has begun"))
        second.close(10)
    assert "block:custom-webhook/incidents did not take the notice: answers 404" in caplog.text
    assert channels.url.rpartition(":")[2] not in caplog.text
    channels.status = 200
    third = Announcer(service)
    third.tell(Notice("recommender", 3, "claim", "a failover has begun"))
    third.close(10)
    assert "3/claim" == keys(channels)[-1], "what failed was never tried again"


@pytest.fixture
def sent_to_the_server():
    """What PREFECT_LOGGING_EXTRA_LOGGERS=understudy does where Prefect is imported after it was set."""
    logger = logging.getLogger("understudy")
    added = [each for each in logging.getLogger("prefect.extra").handlers if each not in logger.handlers]
    for handler in added:
        logger.addHandler(handler)
    yield
    for handler in added:
        logger.removeHandler(handler)


@pytest.mark.usefixtures("sent_to_the_server")
def test_a_line_from_a_thread_pool_stands_on_the_run_page():
    logger = logging.getLogger("understudy.vault")

    @flow(name="logging-from-threads")
    def work():
        with ThreadPool(2) as pool:
            list(pool.map(lambda number: logger.info("from thread %d", number), range(4)))

    state = work(return_state=True)
    run = state.state_details.flow_run_id
    wanted = {f"from thread {number}" for number in range(4)}
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + 30
        found = set()
        while not wanted <= found and time.monotonic() < deadline:
            time.sleep(0.3)  # logs are sent in batches
            found = {line.message for line in client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run])))}
    assert wanted <= found
