"""What is told outside after a run: measurements to the collector, and a call to the dead man's switch.

Best effort with a limit on each part; a run neither fails nor waits long for it, and a failover does not wait at all.
"""

from __future__ import annotations

import contextvars
import threading
from typing import TYPE_CHECKING

from understudy import secrets
from understudy.threads import BEST_EFFORT_SECONDS, best_effort

if TYPE_CHECKING:
    from collections.abc import Sequence

    from understudy.metrics.gather import Gathered
    from understudy.metrics.instruments import Sample
    from understudy.report import Report
    from understudy.service import Service


def tell_outside(
    service: Service,
    pair: str,
    operation: str,
    reports: Sequence[Report],
    *,
    seconds: float,
    failed: str = "",
    wait: bool = True,
) -> None:
    """Push what a run measured, and ping when it was verified and every pair is within its targets.

    Args:
        service: whose.
        pair: what was copied or rebuilt.
        operation: how, such as ``push_artifacts``.
        reports: of the run; none when an error ended it.
        seconds: wall time of the run.
        failed: the kind of error that ended it; empty when none did.
        wait: False on a failover's path: it goes on at once.
    """
    metrics = service.settings.metrics
    if metrics.otlp is None and metrics.ping is None:
        return

    def tell() -> None:
        found: list[Gathered] = []
        in_time = best_effort(lambda: found.append(_gathered(service)), "reading the standby's state")
        gathered = found[0] if in_time else None
        if metrics.otlp is not None:
            endpoint = metrics.otlp
            samples = _of_run(service, pair, operation, reports, seconds=seconds, failed=failed)
            samples += gathered.samples if gathered else ()
            best_effort(lambda: _push(endpoint, service, samples), "sending the measurements")
        well = gathered is not None and gathered.within_targets
        if metrics.ping is not None and wait and not failed and verified(reports) and well:
            reference = metrics.ping
            best_effort(lambda: _ping(reference), "calling the dead man's switch")

    if wait:
        tell()
    else:
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(tell,), daemon=True, name="metrics").start()


def verified(reports: Sequence[Report]) -> bool:
    """Whether a run ended with something that was proven, and nothing that is held back."""
    return bool(reports) and all(report.verdict != "held" and report.proven for report in reports)


def _gathered(service: Service) -> Gathered:
    from understudy.metrics.gather import gather

    return gather(service, seconds=_SEND_SECONDS)


def _of_run(
    service: Service, pair: str, operation: str, reports: Sequence[Report], *, seconds: float, failed: str
) -> list[Sample]:
    from understudy.metrics.counts import of_reports

    component = next(
        (name for name, found in service.settings.components.items() if any(p.name == pair for p in found.pairs)), ""
    )
    labels = {"service": service.name, "component": component, "pair": pair, "operation": operation}
    return of_reports(reports, labels, failed=failed, seconds=seconds)


def _push(endpoint: str, service: Service, samples: Sequence[Sample]) -> None:
    from understudy.metrics.otlp import push

    push(endpoint, samples, service=service.name, seconds=_SEND_SECONDS)


def _ping(reference: str) -> None:
    from understudy.metrics.ping import ping

    ping(secrets.resolve(reference).reveal(), seconds=_SEND_SECONDS)


#: A little less than best effort waits, so that an error is said in its own words, and a store that hangs by name.
_SEND_SECONDS = BEST_EFFORT_SECONDS - 0.2
