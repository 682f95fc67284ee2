"""What one run counted, from its reports. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.metrics.instruments import (
    BYTES_DEDUPLICATED,
    BYTES_READ,
    BYTES_SENT,
    DURATION,
    ITEMS,
    ITEMS_NEW,
    RUNS,
    Sample,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from understudy.metrics.instruments import Instrument
    from understudy.report import Report


def of_reports(reports: Iterable[Report], labels: dict[str, str], *, failed: str = "", seconds: float) -> list[Sample]:
    """Return what a run's reports count. Pure.

    Args:
        reports: of the run; none when an error ended it.
        labels: service, component, pair and operation.
        failed: the kind of error that ended it; empty when none did.
        seconds: wall time of the run.
    """
    samples = [Sample(DURATION, seconds, labels)]
    for report in reports:
        saved = max(0, report.bytes_total - report.bytes_sent) if report.verdict != "held" else 0
        values: list[tuple[Instrument, float]] = [
            (BYTES_READ, report.bytes_read),
            (BYTES_SENT, report.bytes_sent),
            (BYTES_DEDUPLICATED, saved),
            (ITEMS, report.items_total),
            (ITEMS_NEW, report.items_new),
        ]
        samples += [Sample(instrument, value, labels) for instrument, value in values]
        samples.append(Sample(RUNS, 1, {**labels, "verdict": report.verdict}))
    if failed:
        samples.append(Sample(RUNS, 1, {**labels, "verdict": failed}))
    return samples
