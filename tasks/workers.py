"""A push's work on the workers of a Prefect task runner: Dask or Ray, as the config says."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, cast

from tasks.house import shared_task
from understudy.artifacts.spread import Part, PartSent
from understudy.errors import InvalidConfig
from understudy.report import Report
from understudy.service import open_service

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from prefect.task_runners import TaskRunner

    from understudy.artifacts.spread import Workers
    from understudy.settings import Runner, Settings

#: Of the class of each runner: its module, its name, and what installs it.
_RUNNERS: dict[Runner, tuple[str, str, str]] = {
    "dask": ("prefect_dask", "DaskTaskRunner", "pip install 'understudy[dask]'"),
    "ray": ("prefect_ray", "RayTaskRunner", "pip install 'understudy[ray]'"),
}


@shared_task("push-models-of-{pair}")
def push_models(config: str, pair: str, names: list[str]) -> list[Report]:
    """Send some models of a pair into the vault, each whole."""
    service = open_service(config or None)
    return service.push_models(service.settings.pair("training", pair), names)


@shared_task("send-part-of-{part.model}-{part.version}")
def send_part(config: str, pair: str, part: Part) -> PartSent:
    """Send a part of a large version into the vault; the push that asked for it records the version."""
    service = open_service(config or None)
    return service.send_part(service.settings.pair("training", pair), part)


class TaskWorkers:
    """Workers of a push, each piece of work a task run; see ``understudy.artifacts.spread.Workers``."""

    def __init__(self, runner: TaskRunner[Any], config: str, pair: str) -> None:
        """Take a started runner, and what every worker opens its own stores by."""
        self._runner = runner
        self._config = config
        self._pair = pair

    def push_models(self, groups: Sequence[tuple[str, ...]]) -> list[list[Report]]:
        """Push each group of models in a task of its own."""
        return self._all(push_models, [{"names": list(names)} for names in groups])

    def send_parts(self, parts: Sequence[Part]) -> list[PartSent]:
        """Send each part in a task of its own, the longest first."""
        order = sorted(range(len(parts)), key=lambda number: -parts[number].size)
        sent = self._all(send_part, [{"part": parts[number]} for number in order])
        return [found for _, found in sorted(zip(order, sent, strict=True), key=lambda pair: pair[0])]

    def _all(self, task: Any, given: list[dict[str, Any]]) -> list[Any]:  # noqa: ANN401 - either of the two tasks
        shared = {"config": self._config, "pair": self._pair}
        futures = [self._runner.submit(task, parameters=shared | each) for each in given]
        # All are waited for, whatever becomes of one: none may still write when the run has ended.
        for future in futures:
            future.wait()
        return [future.result() for future in futures]


@contextlib.contextmanager
def workers(settings: Settings, config: str, pair: str, runner: Runner | None) -> Iterator[Workers | None]:
    """Yield the workers of a push, None where the run's own threads do all.

    Args:
        settings: of the service.
        config: the config file, as the workers are to open it.
        pair: which they work on.
        runner: instead of the one in the config.

    Raises:
        InvalidConfig: what the runner needs is not installed; the sentence says what installs it.
    """
    chosen = runner or settings.runner
    if chosen == "threads":
        yield None
        return
    module, name, extra = _RUNNERS[chosen]
    try:
        made = getattr(__import__(module), name)
    except ImportError as error:
        raise InvalidConfig(f"runner: {chosen} needs {module}, which is not installed", next_command=extra) from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would tell its makers what runs here
    address = settings.runner_address if chosen == settings.runner else None
    with made(**_options(chosen, address)) as started:
        yield cast("Workers", TaskWorkers(started, config, pair))


def _options(chosen: Runner, address: str | None) -> dict[str, Any]:
    if address is not None:
        return {"address": address}
    if chosen == "dask":
        # Each worker is a process that has threads of its own. No dashboard; its server takes any free port.
        pages = {"dashboard_address": None, "scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"}}
        return {"cluster_kwargs": {"host": "127.0.0.1", "threads_per_worker": 1, **pages}}
    return {"init_kwargs": {"include_dashboard": False}}
