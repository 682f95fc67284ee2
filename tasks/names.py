"""Run names that say what a run is about, before anyone opens it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prefect.runtime import flow_run

from understudy.errors import UnderstudyError
from understudy.service import open_service

if TYPE_CHECKING:
    from collections.abc import Callable


def artifact_key(*parts: str) -> str:
    """Return an artifact key of lowercase letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def service_name(noun: str) -> Callable[[], str]:
    """Return a namer: ``plan-recommender``."""
    return lambda: f"{noun}-{_service()}"


def failover_name() -> str:
    """Return ``failover-recommender-k7qf2m``, or ``-newest`` where no plan is named."""
    return f"failover-{_service()}-{flow_run.parameters.get('plan') or 'newest'}"


def _service() -> str:
    try:
        return open_service(flow_run.parameters.get("config") or None).name
    except UnderstudyError:
        return "unknown"  # the run itself says what is wrong with the config


def run_name(noun: str) -> Callable[[], str]:
    """Return a namer: ``vectors-products`` for the pairs chosen, ``vectors-all`` when none is."""

    def name() -> str:
        pairs = flow_run.parameters.get("pairs") or ["all"]
        return "-".join([noun, *pairs])

    return name
