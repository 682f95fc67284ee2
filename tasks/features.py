"""Features: the offline store replicated, online stores rebuilt from it."""

from __future__ import annotations

from datetime import datetime

from tasks.house import scheduled_task
from understudy.report import Report
from understudy.service import open_service
from understudy.settings import SiteRole


@scheduled_task("replicate-{pair}")
def replicate_offline(config: str, pair: str) -> Report:
    """Copy the active site's offline store into the vault and move the watermark."""
    service = open_service(config or None)
    return service.replicate_offline(service.settings.pair("feature_store", pair))


@scheduled_task("rebuild-{pair}")
def rebuild_features(
    config: str,
    pair: str,
    role: SiteRole | None = None,
    as_of: datetime | None = None,
    set_sequence: int | None = None,
) -> list[Report]:
    """Rebuild a site's online store from the vault's offline store; a failover has it read back."""
    service = open_service(config or None)
    chosen = service.settings.pair("feature_store", pair)
    if role is not None and set_sequence is not None:
        return service.catch_up_features(chosen, role=role)
    return [service.rebuild_features(chosen, role=role, as_of=as_of)]
