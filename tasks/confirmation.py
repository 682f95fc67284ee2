"""The pause before the point of no return: whoever resumes types the service's name."""

from __future__ import annotations

from prefect import pause_flow_run
from prefect.input import RunInput

from understudy.report import human_seconds

_WAIT_SECONDS = 600


class TypedName(RunInput):
    """What the form asks for. It has no default: resuming with an empty form is not accepted."""

    service: str


def confirmed(service: str, typed: str, page: str) -> bool:
    """Return whether the service's name was typed: as a parameter, or in the pause that this opens.

    Args:
        service: the name to type.
        typed: the parameter; empty opens the pause.
        page: the plan, shown beside the form.
    """
    if typed:
        return typed.strip() == service
    form = TypedName.with_initial_data(
        description=f"{page}\nType **{service}** to run this plan (within {human_seconds(_WAIT_SECONDS)})."
    )
    answer = pause_flow_run(wait_for_input=form, timeout=_WAIT_SECONDS)
    return answer.service.strip() == service
