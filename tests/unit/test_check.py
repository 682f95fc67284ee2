from __future__ import annotations

from tests.unit.example import EXAMPLE, example
from understudy.check import check_schedules
from understudy.settings import Settings


def test_a_schedule_that_cannot_meet_the_recovery_point_is_found():
    settings = Settings.model_validate(example(**{"components.feature_store.pairs.0.every": "6m"}))
    failed = [finding for finding in check_schedules(settings) if not finding.ok]
    assert ["schedule user_features"] == [finding.what for finding in failed]
    assert "reaches the RPO of feature_store, 5m00s" in failed[0].words


def test_one_copy_a_day_cannot_meet_a_day():
    settings = Settings.model_validate(example(**{"components.training.pairs.0.every": "02:00"}))
    assert ["schedule models"] == [finding.what for finding in check_schedules(settings) if not finding.ok]


def test_the_usual_duration_counts_too():
    settings = Settings.model_validate(EXAMPLE)
    assert [] == [finding for finding in check_schedules(settings) if not finding.ok]
    slow = check_schedules(settings, {"products": 1801.0})
    assert ["schedule products"] == [finding.what for finding in slow if not finding.ok]
