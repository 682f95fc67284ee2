"""Plans beside the register, so that a commander at another machine runs exactly what was shown."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pydantic import ValidationError

from understudy.errors import Corrupt, NotFound, Refused
from understudy.failover.plan import Plan
from understudy.settings import other

if TYPE_CHECKING:
    from datetime import datetime

    from understudy.failover.register import Register
    from understudy.objects.interface import ObjectStore
    from understudy.service import Service
    from understudy.settings import SiteRole

_PREFIX = "plans/"
FAILBACK = "going back is a failback, which is not built yet"
_ID = re.compile(r"[a-z2-7]{6}")


def target_of(service: Service, site: str = "") -> SiteRole:
    """Return the site that a plan leads to: the one that is named, else the standby.

    Raises:
        Refused: that site is active already; or it is the home site, and the way home is a failback.
        InvalidConfig: no site of that name.
    """
    settings, active = service.settings, service.active()
    target = settings.role_of(site) if site else other(active)
    name = settings.site(target).name
    if target == active:
        raise Refused(f"{name} is active already", hint="nothing is to be done", next_command="understudy status")
    if target == "home":
        message = f"{settings.site(active).name} is active, so a plan toward {name} cannot be made: {FAILBACK}"
        hint = f"the service runs UNPROTECTED at {settings.site(active).name} until {name} is rebuilt by hand"
        raise Refused(message, hint=hint, next_command="understudy status")
    return target


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
