"""Nightly: new model versions into the vault, then onto the standby's serving bucket."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.artifacts import hydrate_artifacts, push_artifacts
from tasks.names import run_name
from tasks.screen import concluded, configured_pairs
from understudy.report import Report


@flow(name="replicate-artifacts", flow_run_name=run_name("artifacts"), persist_result=False)
def replicate_artifacts(
    pairs: list[str] | None = None, config: str = "", runner: Literal["threads", "dask", "ray"] | None = None
) -> State[Any]:
    """Send new and changed model versions into the vault, then bring the standby up to the newest complete set.

    Args:
        pairs: the pairs to copy, by the names in the config; empty copies all.
        config: the config file; empty takes $UNDERSTUDY_CONFIG of the worker.
        runner: who reads and sends, for this run alone; empty takes the config's.
    """

    def work() -> list[Report]:
        reports: list[Report] = []
        for pair in configured_pairs(config, "training", pairs or []):
            reports += push_artifacts(config, pair, runner)
            reports += hydrate_artifacts(config, pair)
        return reports

    return concluded(work, key="artifacts")
