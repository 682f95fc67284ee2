"""Model files: pushed into the vault, hydrated out of it."""

from __future__ import annotations

from tasks.house import scheduled_task
from understudy.report import Report
from understudy.service import open_service
from understudy.settings import SiteRole


@scheduled_task("push-{pair}")
def push_artifacts(config: str, pair: str) -> list[Report]:
    """Send new and changed model versions of a pair into the vault."""
    service = open_service(config or None)
    return service.push_artifacts(service.settings.pair("training", pair))


@scheduled_task("hydrate-{pair}")
def hydrate_artifacts(config: str, pair: str, role: SiteRole | None = None) -> list[Report]:
    """Bring a site's serving bucket to the model that the newest set pins."""
    service = open_service(config or None)
    return service.hydrate(service.settings.pair("training", pair), role=role)
