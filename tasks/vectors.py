"""Vector indexes: exported to Parquet, rebuilt from stored embeddings."""

from __future__ import annotations

from tasks.house import scheduled_task
from understudy.report import Report
from understudy.service import open_service
from understudy.settings import SiteRole


@scheduled_task("export-{pair}")
def export_vectors(config: str, pair: str) -> Report:
    """Export the active site's index into the vault."""
    service = open_service(config or None)
    return service.export_vectors(service.settings.pair("vector_index", pair))


@scheduled_task("rebuild-{pair}")
def rebuild_index(
    config: str, pair: str, role: SiteRole | None = None, set_sequence: int | None = None
) -> list[Report]:
    """Rebuild a site's index from the vault, prove it, swap it in; a failover names site and set."""
    service = open_service(config or None)
    chosen = service.settings.pair("vector_index", pair)
    if role is not None and set_sequence is not None:
        return service.catch_up_index(chosen, role=role, set_sequence=set_sequence)
    return [service.rebuild_index(chosen, role=role, set_sequence=set_sequence)]
