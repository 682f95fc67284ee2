"""Model files: pushed into the vault, hydrated out of it."""

from __future__ import annotations

from tasks.house import scheduled_task
from tasks.progress import shown
from tasks.workers import workers
from understudy.report import Report
from understudy.service import open_service
from understudy.settings import Runner, SiteRole


@scheduled_task("push-{pair}")
def push_artifacts(config: str, pair: str, runner: Runner | None = None) -> list[Report]:
    """Send new and changed model versions of a pair into the vault, by this run's threads or by a cluster's workers."""
    service = open_service(config or None)
    chosen = service.settings.pair("training", pair)
    with workers(service.settings, config, pair, runner) as others:
        return service.push_artifacts(chosen, progress=shown("artifacts"), workers=others)


@scheduled_task("hydrate-{pair}")
def hydrate_artifacts(
    config: str, pair: str, role: SiteRole | None = None, set_sequence: int | None = None
) -> list[Report]:
    """Bring a site's serving bucket to a set's model: a failover names site and set, and has it read back."""
    service = open_service(config or None)
    chosen = service.settings.pair("training", pair)
    if role is not None and set_sequence is not None:
        return service.catch_up_models(chosen, role=role, set_sequence=set_sequence)
    return service.hydrate(chosen, role=role, set_sequence=set_sequence, follow=True, progress=shown("artifacts"))
