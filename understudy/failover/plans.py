"""Plans beside the register, so that a commander at another machine runs exactly what was shown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic import ValidationError

from understudy.errors import Corrupt, NotFound, Refused
from understudy.failover.plan import Plan

if TYPE_CHECKING:
    from datetime import datetime

    from understudy.failover.register import Register
    from understudy.objects.interface import ObjectStore

_PREFIX = "plans/"
_ID = re.compile(r"[a-z2-7]{6}")


def save_plan(store: ObjectStore, plan: Plan) -> None:
    """Keep a plan; the same plan made anew is good for longer. Raises Unreachable."""
    store.put(f"{_PREFIX}{plan.id}.json", plan.model_dump_json(indent=1).encode())


def load_plan(store: ObjectStore, plan_id: str) -> Plan:
    """Return a plan by its id. Raises NotFound, Corrupt."""
    message = f"there is no plan {plan_id}"
    if not _ID.fullmatch(plan_id):
        raise NotFound(message, hint="an id has six characters", next_command="understudy failover plan")
    try:
        data = store.get(f"{_PREFIX}{plan_id}.json")
    except NotFound as error:
        raise NotFound(message, hint="make one", next_command="understudy failover plan") from error
    try:
        return Plan.model_validate_json(data)
    except ValidationError as error:
        message = f"plan {plan_id} cannot be read; another version of understudy wrote it"
        raise Corrupt(message, hint="make a new one", next_command="understudy failover plan") from error


def plan_to_run(register: Register, *, service: str, plan_id: str = "") -> Plan:
    """Return the plan that ``run`` takes: by its id, else the one that was left part way, else the newest fresh one.

    Raises:
        NotFound: there is no plan of that id.
        Refused: no id, nothing to resume, and no fresh plan.
    """
    if plan_id:
        return load_plan(register.store, plan_id)
    holder = register.read().holder
    if holder is not None:
        return load_plan(register.store, holder.plan)
    return newest_plan(register.store, service=service, now=register.now())


def newest_plan(store: ObjectStore, *, service: str, now: datetime) -> Plan:
    """Return the newest plan of a service that may still be run.

    Args:
        store: beside the register.
        service: whose.
        now: the register's clock.

    Raises:
        Refused: there is none.
    """
    for info in sorted(store.list(_PREFIX), key=lambda info: info.modified, reverse=True):
        try:
            plan = load_plan(store, info.key.removeprefix(_PREFIX).removesuffix(".json"))
        except (Corrupt, NotFound):
            continue
        if plan.service == service and plan.is_fresh(now):
            return plan
    message = "there is no fresh plan"
    raise Refused(message, hint="make one and read it", next_command="understudy failover plan")
