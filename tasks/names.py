"""Run names that say what a run is about, before anyone opens it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect.runtime import flow_run

if TYPE_CHECKING:
    from collections.abc import Callable


def run_name(noun: str) -> Callable[[], str]:
    """Return a namer: ``vectors-products`` for the pairs chosen, ``vectors-all`` when none is."""

    def name() -> str:
        pairs = flow_run.parameters.get("pairs") or ["all"]
        return "-".join([noun, *pairs])

    return name
