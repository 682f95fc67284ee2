"""What people see in the Prefect UI: named final states with their reason, tables and pages as artifacts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.states import Completed, Failed

from tasks.names import artifact_key
from tasks.progress import end_progress
from understudy.errors import UnderstudyError
from understudy.report import human_bytes, human_seconds
from understudy.service import open_service
from understudy.threads import best_effort

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from prefect.client.schemas.objects import State

    from understudy.report import Report
    from understudy.settings import ComponentName

logger = logging.getLogger("understudy.prefect")

STATE_NAMES = {
    "refused": "Refused",
    "held": "Refused",
    "not_ready": "Missed target",
    "config": "Bad config",
    "corrupt": "Corrupt",
    "unreachable": "Unreachable",
    "stopped": "Stopped part way",
}


def configured_pairs(config: str, component: ComponentName, wanted: Sequence[str] = ()) -> list[str]:
    """Return the pairs of a component to work on: those wanted, or all of them. Raises InvalidConfig."""
    settings = open_service(config or None).settings
    if wanted:
        return [settings.pair(component, name).name for name in wanted]
    return [pair.name for pair in settings.components[component].pairs] if component in settings.components else []


def concluded(work: Callable[[], list[Report]], *, key: str) -> State[Any]:
    """Do a scheduled flow's work; show its table; end in a state whose name and message say what happened."""
    try:
        reports = work()
    except UnderstudyError as error:
        return refusal(error)
    finally:
        end_progress()
    for report in reports:
        logger.info("%s", report.sentence)
    best_effort(
        lambda: create_table_artifact(key=artifact_key("replication", key), table=[table_row(r) for r in reports]),
        "showing the table",
    )
    message = " | ".join(report.sentence for report in reports) or "nothing is configured"
    if any(report.details.get("action") == "damaged" for report in reports):
        return Failed(name="Corrupt", message=message)
    if all(report.verdict == "unchanged" for report in reports):
        return Completed(name="Unchanged", message=message)
    if any(report.verdict == "held" for report in reports):
        return Completed(name="Held", message=message)
    return Completed(message=message)


def refusal(error: UnderstudyError) -> State[Any]:
    """Return the final state of a run that an error ended: its name says what kind, its message what to do."""
    logger.error("%s", error)
    return Failed(name=STATE_NAMES.get(error.kind, "Failed"), message=str(error))


def planned(page: str, plan_id: str, *, may_run: bool) -> State[Any]:
    """Log a plan line by line and return the final state of its run."""
    for line in page.strip().strip("`").strip().splitlines():
        logger.info("%s", line)
    if may_run:
        return Completed(message=f"plan {plan_id} may be run")
    return Failed(name="Refused", message=f"plan {plan_id} would be refused; it says by which gate")


def not_confirmed(service: str) -> State[Any]:
    """Return the final state of a failover whose confirmation was wrong."""
    return Failed(name="Refused", message=f"{service} was not typed; nothing was changed")


def finished(sentence: str) -> State[Any]:
    """Return the final state of a failover that was carried out."""
    return Completed(message=sentence)


def table_row(report: Report) -> dict[str, str]:
    """Return one line of the replication table."""
    return {
        "what": f"{report.noun} {report.name}",
        "verdict": report.verdict,
        "new": f"{report.items_new:,} of {report.items_total:,}",
        "sent": human_bytes(report.bytes_sent),
        "took": human_seconds(report.seconds),
        "version": report.version,
        "proven": report.proven,
        "watermark": report.watermark.isoformat(timespec="seconds") if report.watermark else "",
    }


def show_page(key: str, markdown: str, description: str = "") -> bool:
    """Show a page in the UI; best effort, never longer than two seconds."""
    return best_effort(
        lambda: create_markdown_artifact(key=artifact_key(key), markdown=markdown, description=description or None),
        "showing the page",
    )
