"""For the incident commander: shows the plan, waits for the service's name, then puts the standby on stage.

The catch-up runs the very tasks that the schedules run. Everything that only shows something is best effort, and no
subflow, variable or blocking artifact stands on this path: with the Prefect server dead the engine goes on.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.artifacts import hydrate_artifacts
from tasks.confirmation import confirmed
from tasks.failover import AcceptedLoss, find_plan, outcome_page, plan_page, run_engine
from tasks.features import rebuild_features
from tasks.names import failover_name
from tasks.screen import configured_pairs, finished, not_confirmed, refusal, show_page
from tasks.vectors import rebuild_index
from understudy.errors import UnderstudyError
from understudy.failover.world import CatchUp


@flow(name="failover", flow_run_name=failover_name, persist_result=False)
def failover(
    plan: str = "",
    reason: str = "",
    accept_loss: list[AcceptedLoss] | None = None,
    accept_unfenced: str = "",
    confirm: str = "",
    config: str = "",
) -> State[Any]:
    """Put the standby on stage, after its plan.

    Args:
        plan: the plan's id, as plan-failover showed it; empty takes the newest that is still fresh.
        reason: a ticket or a sentence; it is kept in the journal.
        accept_loss: losses over a target that you accept, each with its component and a bound in minutes.
        accept_unfenced: why the old writers are known to be stopped, when the plan says that nothing proves it.
        confirm: the service's name, to go on without the pause in which it is asked for.
        config: the config file; empty takes $UNDERSTUDY_CONFIG of the worker.
    """
    try:
        chosen, service = find_plan(config, plan)
        show_page(f"plan-{service}", plan_page(chosen), f"plan {chosen.id}")
        if not confirmed(service, confirm, plan_page(chosen)):
            return not_confirmed(service)
        role = chosen.target
        catch_up = CatchUp(
            hydrate_model=lambda set_sequence: [
                report
                for pair in configured_pairs(config, "training")
                for report in hydrate_artifacts(config, pair, role, set_sequence)
            ],
            rebuild_index=lambda set_sequence: [
                report
                for pair in configured_pairs(config, "vector_index")
                for report in rebuild_index(config, pair, role, set_sequence)
            ],
            rebuild_features=lambda set_sequence: [
                report
                for pair in configured_pairs(config, "feature_store")
                for report in rebuild_features(config, pair, role, None, set_sequence)
            ],
        )
        outcome = run_engine(
            config,
            chosen,
            catch_up,
            who="prefect",
            accepted=accept_loss or [],
            unfenced=accept_unfenced,
            reason=reason,
        )
    except UnderstudyError as error:
        return refusal(error)
    show_page(f"failover-{service}", outcome_page(chosen, outcome))
    return finished(outcome.sentence)
