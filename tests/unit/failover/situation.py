"""A situation that a failover may be run in, for tests that change one thing of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.unit.example import example
from understudy.alerts.interface import Watched
from understudy.compute.interface import Group
from understudy.failover.observed import Copied, Health, Observed, Pinned
from understudy.failover.register import Lease, State
from understudy.settings import Settings
from understudy.traffic.interface import Routing, Way

NOW = datetime(2026, 11, 21, 3, 10, tzinfo=UTC)


def settings(**changes: Any) -> Settings:
    return Settings.model_validate(
        example(**{"alerts": {"url": "route53-health-check://1"}, "capacity.full": 4, **changes})
    )


def lease(*, ago: float = 300, seconds: float = 15, epoch: int = 6) -> Lease:
    return Lease(site="home", epoch=epoch, seconds=seconds, renewed=NOW - timedelta(seconds=ago))


def state(**changes: Any) -> State:
    found = State(
        id="r1",
        service="recommender",
        epoch=6,
        active="home",
        writes=True,
        since=NOW,
        leases={"a": lease(), "b": lease(ago=310)},
    )
    return found.model_copy(update=changes)


def situation(**changes: Any) -> Observed:
    mark = NOW - timedelta(minutes=6)
    found = Observed(
        service="recommender",
        now=NOW,
        source="home",
        target="away",
        names={"home": "aws-use1", "away": "gcp-usc1"},
        state=state(),
        health={"home": Health(0, 3, "refused"), "away": Health(3, 3)},
        copied=(
            Copied("feature_store", "user_features", mark),
            Copied("vector_index", "products", mark),
            Copied("training", "models", mark),
        ),
        pinned=Pinned(
            sequence=4,
            model="minilm",
            version="1",
            digest="d",
            index="products",
            index_sequence=7,
            view="user_features",
        ),
        group=Group("recommender-mig", 1, 1, stable=True),
        routing=Routing(
            "recommendations.example.com", {"home": Way("192.0.2.1", 100), "away": Way("192.0.2.2", 0)}, 60
        ),
        watched=Watched("192.0.2.1", 443, "1"),
        control_planes={"traffic": "Route 53 API", "compute": "Compute Engine API", "alerts": "Route 53 API"},
    )
    return replace(found, **changes)
