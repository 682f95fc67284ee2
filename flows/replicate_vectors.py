"""Each half hour: vector indexes into the vault, then rebuilt at the standby."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.names import run_name
from tasks.screen import concluded, configured_pairs
from tasks.vectors import export_vectors, rebuild_index
from understudy.report import Report


@flow(name="replicate-vectors", flow_run_name=run_name("vectors"), persist_result=False)
def replicate_vectors(pairs: list[str] | None = None, config: str = "") -> State[Any]:
    """Export vector indexes into the vault, then rebuild them at the standby: proven by digest, swapped by rename.

    Args:
        pairs: the indexes to copy, by the names in the config; empty copies all.
        config: the config file; empty takes $UNDERSTUDY_CONFIG of the worker.
    """

    def work() -> list[Report]:
        reports: list[Report] = []
        for pair in configured_pairs(config, "vector_index", pairs or []):
            reports += [export_vectors(config, pair), *rebuild_index(config, pair)]
        return reports

    return concluded(work, key="vectors")
