"""Prometheus: the text exposition, computed from the stores each time it is asked for."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from understudy.errors import InvalidConfig
from understudy.metrics.gather import GATHER_SECONDS, STORES, Turns, by_instrument, gather, up_samples

try:
    from prometheus_client import CollectorRegistry, generate_latest, start_http_server
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as missing:
    raise InvalidConfig(
        "Prometheus' client is not installed", hint="install it with: pip install 'understudy[metrics]'"
    ) from missing

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from wsgiref.simple_server import WSGIServer

    from prometheus_client.metrics_core import Metric

    from understudy.metrics.instruments import Sample
    from understudy.service import Service

logger = logging.getLogger("understudy.metrics")


class StoreCollector(Collector):
    """Reads the stores at each scrape. A store that does not answer is a 0, and its old values are gone."""

    def __init__(self, service: Service, *, seconds: float = GATHER_SECONDS) -> None:
        """Name the service; ``seconds`` is what each store may take, both at once."""
        self._service = service
        self._seconds = seconds
        self._turns = Turns()

    def describe(self) -> list[Metric]:
        """Return nothing: registering must not read the stores."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every gauge that the stores fill now."""
        for instrument, samples in by_instrument(self.read()).items():
            family = GaugeMetricFamily(instrument.prometheus, instrument.words, labels=instrument.labels)
            for sample in samples:
                family.add_metric([sample.labels[label] for label in instrument.labels], sample.value)
            yield family

    def read(self) -> tuple[Sample, ...]:
        """Return the values; of a store that could not be read, or not in time, ``understudy_store_up`` 0 alone."""
        try:
            gathered = gather(self._service, seconds=self._seconds, turns=self._turns)
        except Exception as error:  # noqa: BLE001 - a scrape must be answered, and by a 0 rather than by silence
            logger.warning("nothing can be measured: unexpected %s", type(error).__name__)
            return tuple(up_samples(self._service.name, STORES))
        for store, problem in gathered.problems.items():
            logger.warning("the %s cannot be read: %s", store, problem)
        return gathered.samples


def exposition(service: Service, *, seconds: float = GATHER_SECONDS) -> str:
    """Return every gauge as Prometheus' text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StoreCollector(service, seconds=seconds))
    return generate_latest(registry).decode()


def serve(service: Service, address: str, *, seconds: float = GATHER_SECONDS) -> tuple[WSGIServer, threading.Thread]:
    """Serve ``/metrics`` from a thread of its own, and return the server and the thread.

    Args:
        service: whose stores are read at each scrape.
        address: ``127.0.0.1:9464``; port 0 takes a free one.
        seconds: what a scrape may take.

    Raises:
        InvalidConfig: the address is none, or it is taken.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise InvalidConfig(f"{address!r} is no address to serve at", hint="write it like 127.0.0.1:9464")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StoreCollector(service, seconds=seconds))
    try:
        server, thread = start_http_server(int(port), addr=host.strip("[]"), registry=registry)
    except (OSError, OverflowError) as error:
        raise InvalidConfig(
            f"{address} cannot be served at: {getattr(error, 'strerror', None) or error}", hint="choose another port"
        ) from error
    return server, thread
