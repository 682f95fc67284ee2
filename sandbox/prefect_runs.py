"""Runs deployments as a schedule or a person in the UI would, and follows them on the screen."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.sorting import LogSort
from prefect.events.worker import EventsWorker
from prefect.states import Scheduled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from uuid import UUID

_POLL_SECONDS = 0.5
_LINES_SECONDS = 8.0
_QUIET_SECONDS = 2.5


@dataclass(frozen=True)
class Ended:
    """How a flow run ended: its state's name as the UI shows it, the reason, and the seconds it took in all."""

    name: str
    state: str
    completed: bool
    message: str
    seconds: float


class Runs:
    """Flow runs of one service's deployments on one Prefect server (``PREFECT_API_URL``)."""

    def __init__(self, service: str) -> None:
        self.service = service
        self._client: SyncPrefectClient = get_client(sync_client=True)

    def close(self) -> None:
        """Send what Prefect's client still has to say, so that it does not complain when the server is gone."""
        EventsWorker.drain_all(timeout=_LINES_SECONDS)

    def pause_schedules(self) -> int:
        """Pause every schedule, so that a demo on two cores runs what it shows and nothing beside; return how many."""
        paused = 0
        for deployment in self._client.read_deployments():
            for schedule in deployment.schedules:
                self._client.update_deployment_schedule(deployment.id, schedule.id, active=False)
                paused += 1
        return paused

    def start(self, flow: str, **parameters: Any) -> UUID:
        """Start a run of ``flow/service`` and return its id."""
        deployment = self._client.read_deployment_by_name(f"{flow}/{self.service}")
        run = self._client.create_flow_run_from_deployment(
            deployment.id, parameters=parameters, state=Scheduled(), tags=["demo"]
        )
        return run.id

    def follow(self, run: UUID, *, say: Callable[[str], None] | None = None, timeout: float = 180.0) -> Ended:
        """Wait for a run to end; hand each line that the product logged to ``say`` as it arrives."""
        started, shown = time.monotonic(), 0
        while True:
            found = self._client.read_flow_run(run)
            if say is not None:
                shown = self._tell(run, shown, say)
            if found.state is not None and found.state.is_final():
                if say is not None:
                    self._tell_the_rest(run, shown, say)
                return Ended(
                    name=found.name,
                    state=found.state.name or "",
                    completed=found.state.is_completed(),
                    message=found.state.message or "",
                    seconds=time.monotonic() - started,
                )
            if time.monotonic() - started > timeout:
                return Ended(found.name, "Not ended", completed=False, message=f"no end within {timeout:.0f} s",
                             seconds=timeout)  # fmt: skip
            time.sleep(_POLL_SECONDS)

    def publish(self, key: str, markdown: str) -> None:
        """Keep a page as an artifact that belongs to no run."""
        self._client.create_artifact(ArtifactCreate(key=key, type="markdown", data=markdown))

    def run_all(self, flows: Iterable[str]) -> list[Ended]:
        """Start several flows side by side and wait for all."""
        return [self.follow(run) for run in [self.start(flow) for flow in flows]]

    def _tell_the_rest(self, run: UUID, shown: int, say: Callable[[str], None]) -> None:
        """Wait for the last lines: they are sent in a batch, when the run's process ends after its state is known."""
        deadline, quiet_since = time.monotonic() + _LINES_SECONDS, time.monotonic()
        while time.monotonic() < min(deadline, quiet_since + _QUIET_SECONDS):
            before, shown = shown, self._tell(run, shown, say)
            if shown != before:
                quiet_since = time.monotonic()
            time.sleep(_POLL_SECONDS)

    def _tell(self, run: UUID, shown: int, say: Callable[[str], None]) -> int:
        logs = self._client.read_logs(
            LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run])), offset=shown, sort=LogSort.TIMESTAMP_ASC
        )
        for line in logs:
            if line.name.startswith("understudy") and line.level >= logging.INFO:
                say(line.message)
        return shown + len(logs)
