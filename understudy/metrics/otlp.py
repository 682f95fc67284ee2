"""OTLP over HTTP: what one run measured, pushed at its end.

A run is a process that lives for seconds, so nobody could scrape it. Counters are sent as deltas: this run's bytes, to
be added up by the collector. Totals would begin at nought with every run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from understudy import __version__
from understudy.errors import InvalidConfig, Unreachable
from understudy.metrics.instruments import DURATION

try:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
    from opentelemetry.sdk.metrics.export import (
        AggregationTemporality,
        MetricExportResult,
        PeriodicExportingMetricReader,
    )
    from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
    from opentelemetry.sdk.resources import Resource
except ImportError as missing:
    raise InvalidConfig(
        "OpenTelemetry is not installed",
        hint="install it with: pip install 'understudy[metrics]', or unset metrics.otlp",
    ) from missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from understudy.metrics.instruments import Instrument, Sample

_PATH = "/v1/metrics"
_SECONDS_MAX = 2.0
_DURATIONS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600)
_DELTA: dict[type, AggregationTemporality] = {
    Counter: AggregationTemporality.DELTA,
    Histogram: AggregationTemporality.DELTA,
}


class _Watched(OTLPMetricExporter):
    """Remembers whether the collector took it: the reader does not say."""

    taken: bool | None = None

    def export(self, *args: Any, **kwargs: Any) -> MetricExportResult:  # noqa: ANN401 - as the class above has it
        result = super().export(*args, **kwargs)
        self.taken = result is MetricExportResult.SUCCESS
        return result


def push(endpoint: str, samples: Sequence[Sample], *, service: str, seconds: float = _SECONDS_MAX) -> None:
    """Send samples to a collector, once.

    Args:
        endpoint: ``http://host:4318``, or the full URL up to ``/v1/metrics``. Headers, such as a token, come from
            OTEL_EXPORTER_OTLP_HEADERS.
        samples: of any instruments.
        service: whose standby it is.
        seconds: what it may take.

    Raises:
        Unreachable: the collector did not take them in time.
    """
    url = endpoint.rstrip("/")
    exporter = _Watched(
        endpoint=url if url.endswith(_PATH) else url + _PATH, timeout=seconds, preferred_temporality=_DELTA
    )
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=float("inf"))
    provider = MeterProvider(
        [reader],
        resource=Resource.create(
            {"service.name": "understudy", "service.version": __version__, "service.namespace": service}
        ),
        shutdown_on_exit=False,
        views=[View(instrument_name=DURATION.name, aggregation=ExplicitBucketHistogramAggregation(_DURATIONS))],
    )
    try:
        meter = provider.get_meter("understudy", __version__)
        made: dict[Instrument, Any] = {}
        for sample in samples:
            instrument = sample.instrument
            if instrument not in made:
                create = getattr(meter, f"create_{instrument.kind}")
                made[instrument] = create(instrument.name, unit=instrument.unit, description=instrument.words)
            act = {"counter": "add", "gauge": "set", "histogram": "record"}[instrument.kind]
            getattr(made[instrument], act)(sample.value, sample.labels)
        provider.force_flush(timeout_millis=seconds * 1000)
    finally:
        provider.shutdown(timeout_millis=seconds * 1000)
    if not exporter.taken:
        raise Unreachable(f"the collector at {endpoint} did not take the measurements", hint="see metrics.otlp")
