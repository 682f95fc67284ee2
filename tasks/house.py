"""What every task of this house has in common: no cache, no stored result, and retries for what may pass."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from prefect.cache_policies import NO_CACHE
from prefect.tasks import Task

from understudy import secrets
from understudy.errors import InvalidConfig, Transient, UnderstudyError

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State, TaskRun

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("understudy.prefect")

BEST_EFFORT_SECONDS = 2.0

#: Prefect hands an extra logger its handler and no level: the product's sentences would stop at the root's WARNING.
logging.getLogger("understudy").setLevel(logging.INFO)


def may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Retry what is transient; a refusal, a conflict or corrupt bytes would only repeat."""
    found = state.result(raise_on_failure=False)
    if inspect.isawaitable(found):
        found = asyncio.run(_awaited(found))
    return isinstance(found, Transient) or not isinstance(found, UnderstudyError)


async def _awaited(found: Any) -> Any:  # noqa: ANN401 - whatever the state holds
    return await found


def scheduled_task(run_name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a task that a schedule runs: retried when that may help; no effect is skipped because its inputs were seen.

    Args:
        run_name: how its runs are called, with the parameters in braces.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        return Task(
            fn=function,
            task_run_name=run_name,
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=2,
            retry_delay_seconds=[5, 30],
            retry_condition_fn=may_pass,
        )

    return decorate


def direct_task(run_name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a task on the failover's path: tried once, for whoever waits decides what comes next."""

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        return Task(fn=function, task_run_name=run_name, cache_policy=NO_CACHE, persist_result=False)

    return decorate


def best_effort(action: Callable[[], object], what: str, seconds: float = BEST_EFFORT_SECONDS) -> bool:
    """Try something that must never hold a failover up; False when it failed or took longer than ``seconds``."""
    import contextvars

    done: list[bool] = []

    def attempt() -> None:
        try:
            action()
            done.append(True)
        except Exception as error:  # noqa: BLE001 - whatever goes wrong here must not stop what matters
            logger.warning("%s was not possible: %s", what, error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(attempt,), daemon=True, name=f"try {what}")
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        logger.warning("%s took longer than %.0f s; going on without it", what, seconds)
    return bool(done)


def read_secret_block(name: str) -> str:
    """Read ``block:secret/name`` from Prefect. Raises InvalidConfig."""
    from prefect.blocks.system import Secret

    kind, _, label = name.partition("/")
    if kind != "secret":
        raise InvalidConfig(f"block:{name} is of a kind that is not known here", hint="write block:secret/NAME")
    try:
        value = Secret.load(label).get()  # type: ignore[union-attr]
    except ValueError as error:
        raise InvalidConfig(
            f"the Prefect secret block {label!r} does not exist", hint="create it under Blocks in the Prefect UI"
        ) from error
    return str(value)


secrets.resolvers["block"] = read_secret_block
