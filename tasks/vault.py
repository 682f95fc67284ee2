"""The vault itself: read back, and pruned."""

from __future__ import annotations

from tasks.house import scheduled_task
from tasks.progress import shown
from understudy.report import Report
from understudy.service import open_service
from understudy.vault.verified import Kind


@scheduled_task("verify-vault")
def verify_vault(config: str, kind: Kind | None = None) -> list[Report]:
    """Check that the vault can be read, by listing, by a sample or whole; None is what is due. Raises Corrupt."""
    service = open_service(config or None)
    result = service.verify_vault(kind, progress=shown("verify vault"))
    result.require()
    return [result.as_report(service.name)]


@scheduled_task("prune-vault")
def prune_vault(config: str, *, write: bool) -> list[Report]:
    """Take out of the vault what is not kept and nothing needs, or only say what that is. Raises Corrupt."""
    service = open_service(config or None)
    result = service.prune_vault(write=write, progress=shown("prune vault"))
    result.require()
    return [result.as_report(service.name)]
