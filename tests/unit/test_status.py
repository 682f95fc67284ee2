from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests.unit.example import EXAMPLE
from understudy.failover.register import Halt
from understudy.settings import Settings
from understudy.status import Status, judge, render

NOW = datetime(2026, 11, 21, 19, 4, 10, tzinfo=UTC)
SETTINGS = Settings.model_validate(EXAMPLE)
FRESH = {name: NOW - timedelta(seconds=8) for name in ("user_features", "products", "models")}
PROVEN = {name: ("digest", NOW - timedelta(minutes=1)) for name in FRESH}


def rows(**changes):
    given = {"now": NOW, "watermarks": FRESH, "proven": PROVEN, "predicted": {}} | changes
    return {row.component: row for row in judge(SETTINGS, **given)}


def status(**changes):
    values = {
        "service": "recommender", "active": "aws-use1", "active_role": "home", "standby": "gcp-usc1", "epoch": 6,
        "writes": True, "holder": "", "set_sentence": "set 3", "held": (), "protected": True, "at": NOW,
        "rows": tuple(rows().values()),
    }  # fmt: skip
    return Status(**(values | changes))


def test_all_fresh_and_proven_is_ok():
    assert {"ok"} == {row.verdict for row in rows().values()}
    assert status().ok


def test_a_watermark_older_than_the_target_is_missed_and_the_next_command_mends_it():
    late = rows(watermarks=FRESH | {"products": NOW - timedelta(minutes=72)})
    assert "MISSED" == late["vector_index"].verdict
    assert "ok" == late["feature_store"].verdict
    found = status(rows=tuple(late.values()))
    assert not found.ok
    assert "understudy vectors export" == found.next_command
    assert "next: understudy vectors export" == render(found)[-1]


def test_what_was_never_copied_or_never_proven_is_not_ok():
    assert "NEVER COPIED" == rows(watermarks=FRESH | {"models": None})["training"].verdict
    without = {name: proof for name, proof in PROVEN.items() if name != "models"}
    assert "NOT PROVEN" == rows(proven=without)["training"].verdict


def test_a_proof_of_last_month_is_none_and_the_next_command_makes_a_new_one():
    old = rows(proven=PROVEN | {"products": ("digest", NOW - timedelta(days=30))})
    assert "NOT PROVEN" == old["vector_index"].verdict
    assert "understudy vectors verify" == status(rows=tuple(old.values())).next_command


def test_a_failover_that_would_take_too_long_is_said_before_the_event():
    assert "TOO SLOW" == rows(predicted={"inference": 301.0})["inference"].verdict
    assert "ok" == rows(predicted={"inference": 299.0})["inference"].verdict


def test_a_clock_behind_the_source_is_no_negative_loss():
    ahead = rows(watermarks=FRESH | {"products": NOW + timedelta(seconds=3)})
    assert 0.0 == ahead["vector_index"].rpo_seconds


def test_a_hold_is_shown_with_who_when_and_why_and_the_next_command_lifts_it():
    order = Halt(who="ana", host="bastion-2", reason="INC-4711", since=NOW - timedelta(days=1), nonce="n")
    found = status(halt=order)
    assert "ON HOLD: failovers are on hold by ana@bastion-2 since 2026-11-20 19:04:10Z: INC-4711" == render(found)[1]
    assert "next: understudy failover release" == render(found)[-1]
    assert not found.ok
    shown = found.as_json()
    assert {"who": "ana", "host": "bastion-2", "reason": "INC-4711", "since": "2026-11-20T19:04:10Z"} == shown["hold"]
    assert None is status().as_json()["hold"]
    assert "halt" not in shown


def test_an_active_site_that_holds_its_own_vault_is_unprotected():
    unprotected = rows(protected=False)
    assert {"UNPROTECTED"} == {row.verdict for row in unprotected.values()}
    assert {None} == {row.rpo_seconds for row in unprotected.values()}
    found = status(protected=False, rows=tuple(unprotected.values()))
    assert "" == found.next_command
    assert not found.ok
    assert any(line.startswith("UNPROTECTED") for line in render(found))
