"""What every task of this house has in common: no cache, no stored result, and retries for what may pass."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from prefect.cache_policies import NO_CACHE
from prefect.tasks import Task

from tasks.blocks import read_secret_block
from understudy import secrets
from understudy.errors import Transient, UnderstudyError
from understudy.metrics.after import tell_outside
from understudy.redaction import redact
from understudy.report import Report
from understudy.service import open_service

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State, TaskRun

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("understudy.prefect")

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
            fn=_measured(_without_secrets(function)),
            task_run_name=run_name,
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=2,
            retry_delay_seconds=[5, 30],
            retry_condition_fn=may_pass,
        )

    return decorate


def _without_secrets(function: Callable[P, R]) -> Callable[P, R]:
    """Keep a vendor's own error that repeats a secret out of the run's state, where Prefect stores its words."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except UnderstudyError:
            raise
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            if redact(words) == words:
                raise
            raise Transient(words) from None  # retried, as what nobody foresaw is

    return guarded


def _measured(function: Callable[P, R]) -> Callable[P, R]:
    """Have what a task did told outside (collector, dead man's switch), whether it ended well or not."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def measured(*args: P.args, **kwargs: P.kwargs) -> R:
        given = signature.bind(*args, **kwargs).arguments
        began = time.monotonic()
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            failed = _FAILED_AS.get(kind := getattr(error, "kind", "error"), kind)
            _tell(function.__name__, given, [], time.monotonic() - began, failed=failed)
            raise
        reports = result if isinstance(result, list) else [result]
        found = [each for each in reports if isinstance(each, Report)]
        _tell(function.__name__, given, found, time.monotonic() - began)
        return result

    return measured


#: A copy that is held back and an epoch that is held are two things.
_FAILED_AS = {"held": "held_by_another"}


def _tell(operation: str, given: Mapping[str, Any], reports: list[Report], seconds: float, *, failed: str = "") -> None:
    try:
        service = open_service(given["config"] or None)
        on_failovers_path = given.get("set_sequence") is not None
        what = given.get("pair", "vault")
        tell_outside(service, what, operation, reports, seconds=seconds, failed=failed, wait=not on_failovers_path)
    except Exception as error:  # noqa: BLE001 - what only tells of a run must not fail it
        logger.warning("telling of the run was not possible: %s", error)


def shared_task(run_name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a task that does a part of another one's work, maybe on another machine; that one tells of it outside."""

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        return Task(
            fn=_without_secrets(function),
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
        return Task(fn=_without_secrets(function), task_run_name=run_name, cache_policy=NO_CACHE, persist_result=False)

    return decorate


secrets.resolvers["block"] = read_secret_block
