"""After each copy of the offline store: the standby's online store rebuilt from it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.features import rebuild_features as rebuild
from tasks.names import run_name
from tasks.screen import concluded, configured_pairs
from understudy.report import Report


@flow(name="rebuild-features", flow_run_name=run_name("features"), persist_result=False)
def rebuild_features(pairs: list[str] | None = None, as_of: datetime | None = None, config: str = "") -> State[Any]:
    """Rebuild the standby's online feature store from the offline store in the vault, proven by digest.

    Args:
        pairs: the feature views to rebuild, by the names in the config; empty rebuilds all.
        as_of: the state at this moment (for a backfill or to undo a bad write); empty takes the newest.
        config: the config file; empty takes $UNDERSTUDY_CONFIG of the worker.
    """

    def work() -> list[Report]:
        names = configured_pairs(config, "feature_store", pairs or [])
        return [report for pair in names for report in rebuild(config, pair, None, as_of)]

    return concluded(work, key="features")
