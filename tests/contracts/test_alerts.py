"""Alerts over memory and a Route 53 health check (moto; it does not compare versions, so that is proven in memory)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers import new_name
from understudy.alerts.memory import MemoryAlerts
from understudy.alerts.route53 import Route53Alerts
from understudy.clouds import aws
from understudy.errors import Conflict, NotFound

if TYPE_CHECKING:
    from understudy.alerts.interface import Alerts
    from understudy.settings import Access

HOME, AWAY = "192.0.2.1", "192.0.2.2"


@pytest.fixture(params=["memory", "route53"])
def alerts(request: pytest.FixtureRequest) -> Alerts:
    if request.param == "memory":
        return MemoryAlerts(HOME, 443)
    client = aws.client("route53", request.getfixturevalue("aws_access"))
    made = client.create_health_check(
        CallerReference=new_name("check"),
        HealthCheckConfig={"IPAddress": HOME, "Port": 443, "Type": "HTTP", "ResourcePath": "/health"},
    )
    return Route53Alerts(made["HealthCheck"]["Id"], client=client)


def test_alerts_follow_the_service_and_are_read_back(alerts: Alerts) -> None:
    before = alerts.read()
    after = alerts.point(AWAY, 8443, expected=before)

    assert (HOME, 443) == (before.address, before.port)
    assert (AWAY, 8443) == (after.address, after.port)
    assert after == alerts.read() == alerts.point(AWAY, 8443, expected=after)


def test_alerts_that_someone_else_changed_are_a_conflict(alerts: Alerts) -> None:
    before = alerts.read()
    alerts.point(AWAY, 443, expected=before)

    with pytest.raises(Conflict):
        alerts.point("192.0.2.9", 443, expected=before)
    assert AWAY == alerts.read().address


def test_a_health_check_that_is_gone_is_not_found(aws_access: Access) -> None:
    with pytest.raises(NotFound):
        Route53Alerts("00000000-0000-0000-0000-000000000000", client=aws.client("route53", aws_access)).read()
