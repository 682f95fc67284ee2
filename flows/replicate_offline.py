"""Each two minutes: the offline feature store into the vault, and its watermark forward."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.features import replicate_offline as replicate
from tasks.names import run_name
from tasks.screen import concluded, configured_pairs
from understudy.report import Report


@flow(name="replicate-offline", flow_run_name=run_name("offline"), persist_result=False)
def replicate_offline(pairs: list[str] | None = None, config: str = "") -> State[Any]:
    """Copy what is new in the offline feature store into the vault and move its watermark.

    Args:
        pairs: the feature views to copy, by the names in the config; empty copies all.
        config: the config file; empty takes $UNDERSTUDY_CONFIG of the worker.
    """

    def work() -> list[Report]:
        return [replicate(config, pair) for pair in configured_pairs(config, "feature_store", pairs or [])]

    return concluded(work, key="offline")
