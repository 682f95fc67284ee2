"""Each five minutes, and by hand as the dry run: what a failover would do now."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.failover import make_plan, plan_page
from tasks.names import service_name
from tasks.notifying import announce_standing
from tasks.screen import planned, refusal, show_page
from understudy.errors import UnderstudyError


@flow(name="plan-failover", flow_run_name=service_name("plan"), persist_result=False)
def plan_failover(site: str = "", config: str = "") -> State[Any]:
    """Show what a failover would do now, what it would lose and how long it would take. Changes nothing.

    Args:
        site: the site that would become active; empty is the standby.
        config: the config file; empty takes $UNDERSTUDY_CONFIG of the worker.
    """
    try:
        plan, may_run = make_plan(config, site)
    except UnderstudyError as error:
        return refusal(error)
    show_page(f"plan-{plan.service}", plan_page(plan), f"plan {plan.id}")
    announce_standing(config, plan)
    return planned(plan_page(plan), plan.id, may_run=may_run)
