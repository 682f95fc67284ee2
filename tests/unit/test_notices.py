"""What people are told, and that they are told it once."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.unit.failover.situation import settings, situation
from tests.unit.test_status import PROVEN, rows, status
from understudy.errors import Refused, StoppedPartWay, Unreachable
from understudy.failover.engine import Outcome
from understudy.failover.plan import make_plan
from understudy.failover.telling import Event
from understudy.notices import Marks, Notice, of_error, of_event, of_outcome, of_standing
from understudy.objects.memory import MemoryStore
from understudy.vault.store import Vault

PLAN = make_plan(situation(), settings())
CLAIM = Notice("recommender", 7, "claim", "a failover has begun")


def whats(notices):
    return [notice.what for notice in notices]


def test_the_claim_is_told_when_it_is_made_and_not_when_it_is_tried():
    assert [] == of_event(Event("validate", "claim", "began", "claiming epoch 7"), PLAN)
    (claim,) = of_event(Event("validate", "claim", "done", "epoch 7 is held by ana@bastion"), PLAN)
    assert "understudy/recommender/7/claim" == claim.key
    assert "a failover to gcp-usc1 has begun: epoch 7 is held by ana@bastion" in claim.sentence


def test_a_failover_that_is_resumed_tells_what_the_one_before_could_not():
    resumed = Event("validate", "", "told", "resuming what ana@bastion left at epoch 7")
    assert ["claim"] == whats(of_event(resumed, PLAN))
    (no_return,) = [action.id for action in PLAN.actions if action.no_return]
    assert ["claim"] == whats(of_event(Event("writes", no_return, "began", ""), PLAN))
    for what in ("done", "already"):
        assert ["claim", "no-return"] == whats(of_event(Event("writes", no_return, what, ""), PLAN))
    assert [] == of_event(Event("dns", "", "stopped", "no answer"), PLAN)


def test_the_end_is_told_and_that_it_came_too_late():
    done = Outcome(plan=PLAN.id, epoch=7, target="gcp-usc1", verdict="done", seconds=200.0)
    assert ["finished"] == whats(of_outcome(done, PLAN))
    late = of_outcome(replace(done, seconds=400.0), PLAN)
    assert ["finished", "missed-rto"] == whats(late)
    assert "the failover took 6m40s, the target is 5m00s" == late[1].sentence
    assert ["finished"] == whats(of_outcome(replace(done, verdict="nothing"), PLAN))


def test_the_same_reason_with_other_figures_is_the_same_notice():
    old, older = (of_error(Refused(f"plan {PLAN.id} is {age}m old"), PLAN) for age in (12, 14))
    assert old.key == older.key
    other = of_error(Refused("the vault cannot be read"), PLAN)
    assert old.key != other.key
    assert of_error(StoppedPartWay("stopped at dns"), PLAN).what.startswith("stopped-")


def test_what_stands_against_a_failover_is_told_and_what_does_not_is_over():
    assert {None} == set(of_standing(status(), PLAN).values())
    missed = status(rows=tuple(rows(proven=PROVEN, watermarks={}).values()))
    standing = of_standing(missed, PLAN)
    assert "vector_index is NEVER COPIED" == standing["target-vector_index"].sentence
    unfenced = make_plan(situation(state=situation().state.model_copy(update={"leases": {}})), settings())
    gates = {what: notice for what, notice in of_standing(status(), unfenced).items() if notice}
    assert ["gate-fence"] == list(gates)
    assert ["unprotected"] == [what for what, notice in of_standing(status(protected=False), None).items() if notice]


# ---------------------------------------------------------------------- once


@pytest.fixture
def beside():
    return Vault(MemoryStore())


def test_a_notice_is_sent_once_to_each_channel_also_by_another_process(beside):
    sent = []
    for _ in range(2):
        marks = Marks(beside)
        for channel in ("slack-webhook/a", "pager-duty-webhook/b"):
            marks.once(CLAIM, channel, lambda channel=channel: sent.append(channel))
    assert ["slack-webhook/a", "pager-duty-webhook/b"] == sent


def test_of_many_who_tell_at_once_one_does(beside):
    sent, ready = [], threading.Barrier(8)

    def tell():
        ready.wait()
        Marks(beside).once(CLAIM, "slack-webhook/a", lambda: sent.append(1))

    threads = [threading.Thread(target=tell) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [1] == sent


def fail():
    raise Unreachable("no answer")


def test_what_could_not_be_sent_is_tried_again(beside):
    with pytest.raises(Unreachable):
        Marks(beside).once(CLAIM, "slack-webhook/a", fail)
    assert Marks(beside).once(CLAIM, "slack-webhook/a", lambda: None)


def test_who_died_while_telling_is_stood_in_for_after_a_minute(beside):
    (key,) = ["pointers/told/7/claim/slack-webhook-a.json"]
    for ago, expected in ((10, False), (120, True)):
        at = (beside.store.now() - timedelta(seconds=ago)).isoformat()
        beside.move_pointer(key, lambda _, at=at: {"state": "telling", "at": at})
        assert expected == Marks(beside).once(CLAIM, "slack-webhook/a", lambda: None)
    assert "told" == json.loads(beside.store.get(key))["state"]


def test_without_a_mark_it_is_told_rather_than_kept_quiet_and_by_one_process_once(beside, monkeypatch):
    monkeypatch.setattr(beside.store, "head", lambda _key: fail())
    sent, marks = [], Marks(beside)
    for _ in range(2):
        marks.once(CLAIM, "slack-webhook/a", lambda: sent.append(1))
    assert [1] == sent


def test_what_is_over_is_said_if_its_beginning_was(beside):
    marks = Marks(beside)
    assert not marks.over(CLAIM, "slack-webhook/a", lambda: None)
    assert [] == list(beside.store.list("pointers/"))
    marks.once(CLAIM, "slack-webhook/a", lambda: None)
    assert [True, False] == [Marks(beside).over(CLAIM, "slack-webhook/a", lambda: None) for _ in range(2)]
    assert Marks(beside).once(CLAIM, "slack-webhook/a", lambda: None)


STANDING = replace(CLAIM, what="target-vector_index")
MARK = "pointers/told/7/target-vector_index/slack-webhook-a.json"


def test_an_end_that_could_not_be_sent_is_tried_again_and_the_notice_is_not_repeated_meanwhile(beside):
    Marks(beside).once(STANDING, "slack-webhook/a", lambda: None)
    with pytest.raises(Unreachable):
        Marks(beside).over(STANDING, "slack-webhook/a", fail)
    assert not Marks(beside).once(STANDING, "slack-webhook/a", lambda: None)
    assert Marks(beside).over(STANDING, "slack-webhook/a", lambda: None)
    assert "over" == json.loads(beside.store.get(MARK))["state"]


def test_of_many_who_tell_an_end_at_once_one_does_and_who_died_at_it_is_stood_in_for(beside):
    Marks(beside).once(STANDING, "slack-webhook/a", lambda: None)
    sent = []

    def slowly():
        assert not Marks(beside).over(STANDING, "slack-webhook/a", lambda: sent.append(2))
        assert not Marks(beside).once(STANDING, "slack-webhook/a", lambda: sent.append(3))
        sent.append(1)

    assert Marks(beside).over(STANDING, "slack-webhook/a", slowly)
    assert [1] == sent
    at = (beside.store.now() - timedelta(seconds=120)).isoformat()
    beside.move_pointer(MARK, lambda _: {"state": "ending", "at": at})
    assert Marks(beside).over(STANDING, "slack-webhook/a", lambda: None)


def test_what_stood_in_an_earlier_epoch_is_found_until_its_end_is_told(beside):
    marks = Marks(beside)
    gone = replace(STANDING, epoch=5, what="gate-fence")
    for notice in (STANDING, gone, CLAIM, replace(STANDING, epoch=8), replace(STANDING, epoch=6)):
        marks.once(notice, "slack-webhook/a", lambda: None)
    marks.once(replace(STANDING, what="unprotected"), "pager-duty-webhook/b", lambda: None)
    marks.over(replace(STANDING, epoch=6), "slack-webhook/a", lambda: None)

    def found(channel):
        return [(each.epoch, each.what) for each in Marks(beside).open_before("recommender", 8, channel)]

    assert [(5, "gate-fence"), (7, "target-vector_index")] == found("slack-webhook/a")
    assert [(7, "unprotected")] == found("pager-duty-webhook/b")
    for notice in (STANDING, gone):
        assert marks.over(notice, "slack-webhook/a", lambda: None)
    assert [] == found("slack-webhook/a")
    assert marks.open_before("recommender", 9, "slack-webhook/a")[0].key.startswith("understudy/recommender/8/")
