"""The failover: planned, and run by the engine that knows no Prefect."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from tasks.house import direct_task
from tasks.notifying import announced
from understudy.failover.decide import Acceptances, refused
from understudy.failover.engine import Outcome, prepare
from understudy.failover.engine import run as run_plan
from understudy.failover.plan import Plan, render
from understudy.failover.plans import plan_to_run, save_plan, target_of
from understudy.failover.telling import event_line
from understudy.report import human_seconds
from understudy.service import open_service

if TYPE_CHECKING:
    from understudy.failover.telling import Event
    from understudy.failover.world import CatchUp

logger = logging.getLogger("understudy.prefect")


_CATCH_UP = ("model", "index", "features")


class AcceptedLoss(BaseModel):
    """A loss that the commander accepts, for one component, up to a bound."""

    component: Literal["feature_store", "vector_index", "training", "evaluation"]
    minutes: float = Field(gt=0)


@direct_task("plan")
def make_plan(config: str, site: str = "") -> tuple[Plan, bool]:
    """Observe both sites and keep the plan; also whether its gates would let it run."""
    service = open_service(config or None)
    target = target_of(service, site)
    plan = prepare(service.world(target), target=target)
    save_plan(service.register.store, plan)
    return plan, not refused(plan.gates)


@direct_task("find-plan")
def find_plan(config: str, plan_id: str = "") -> tuple[Plan, str]:
    """Return a plan by its id (empty: the one left part way, else the newest fresh one) and the service's name."""
    service = open_service(config or None)
    return plan_to_run(service.register, service=service.name, plan_id=plan_id), service.name


def run_engine(
    config: str, plan: Plan, catch_up: CatchUp, *, who: str, accepted: list[AcceptedLoss], unfenced: str, reason: str
) -> Outcome:
    """Run a plan; what happens goes to the run page's log. Not a task: nothing may stand between it and the engine."""
    service = open_service(config or None)
    acceptances = Acceptances(
        loss_seconds={loss.component: loss.minutes * 60 for loss in accepted}, unfenced=unfenced, reason=reason
    )
    world = service.world(plan.target, catch_up=catch_up)
    with announced(service, plan) as people:
        outcome = run_plan(plan, world, who=who, acceptances=acceptances, progress=people.heard(_log))
        people.ended(outcome)
    return outcome


def _log(event: Event) -> None:
    if event.what == "told" and event.action in _CATCH_UP:
        return  # the product has logged the same sentence itself
    logger.info("%s", event_line(event))


def plan_page(plan: Plan) -> str:
    """Return a plan as markdown."""
    return f"```\n{render(plan)}\n```\n"


def outcome_page(plan: Plan, outcome: Outcome) -> str:
    """Return what a failover did as markdown, one line an action."""
    values: dict[str, Any] = asdict(outcome)
    lines = [f"**{outcome.sentence}**", "", "| stage | action | took |", "|---|---|---|"]
    lines += [
        f"| {action.stage} | {action.sentence} | {human_seconds(values['actions'][action.id])} |"
        for action in plan.actions
        if action.id in values["actions"]
    ]
    if not outcome.journal_complete:
        lines += ["", "The vault lacks a part of the journal; its second copy is beside the register."]
    return "\n".join([*lines, "", f"next: `understudy report {outcome.epoch}`", ""])
