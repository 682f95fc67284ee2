"""All that a failover looks at and acts on, opened once and handed to the engine: no globals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from understudy.errors import Unreachable
from understudy.failover.observed import Health
from understudy.traffic.watch import Client, Seen, watch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from understudy.alerts.interface import Alerts
    from understudy.compute.interface import Compute
    from understudy.failover.register import Register
    from understudy.report import Report
    from understudy.settings import ComponentName, Settings
    from understudy.traffic.interface import Traffic
    from understudy.vault.store import Vault

_PROBES = 3
_PROBE_SECONDS = 1.0


class Outside(Protocol):
    """The service as its clients see it."""

    def health(self, address: str) -> Health:
        """Ask a site's front door a few times; a site that does not answer is an observation, not an error."""

    def watch(self, address: str, *, times: int, seconds_max: float, tell: Callable[[str], None]) -> Seen:
        """Wait until the name leads to ``address``, the service answers and takes a write. Raises NotReady."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatchUp:
    """What brings the target to a set, passed in by the caller: plain functions, or Prefect's tasks.

    Each takes the sequence of the set that the plan names, so that all bring the same one whatever is composed
    meanwhile. It may be called again after a kill, finds what is done already, and proves what the target now has
    before it returns.
    """

    hydrate_model: Callable[[int], Report | Sequence[Report]]
    rebuild_index: Callable[[int], Report | Sequence[Report]]
    rebuild_features: Callable[[int], Report | Sequence[Report]]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Both sites' shared machinery and the target's; nothing of the source, which may be gone.

    Attributes:
        journal_directory: of the journal's copy on the local disk; None keeps none.
        alerts: None when none are configured.
    """

    settings: Settings
    register: Register
    vault: Vault
    traffic: Traffic
    compute: Compute
    alerts: Alerts | None
    outside: Outside
    catch_up: CatchUp
    journal_directory: Path | None = None


class FrontDoor:
    """The service seen through DNS and HTTP, as its config describes it."""

    def __init__(self, settings: Settings, *, name: str) -> None:
        """Take paths, probes and resolvers from the config.

        Args:
            settings: of the service.
            name: that clients resolve.
        """
        traffic = settings.traffic
        self._client = Client(name, traffic.port, scheme=traffic.scheme)
        self._quick = Client(name, traffic.port, scheme=traffic.scheme, timeout=_PROBE_SECONDS)
        self._resolvers = traffic.resolvers
        inference = settings.components.get("inference")
        self._health = inference.health if inference else "/health"
        self._probe = _probe_of(settings, "inference")
        self._canary = _probe_of(settings, "feature_store")

    def health(self, address: str) -> Health:
        """See ``Outside``."""
        answered, detail = 0, ""
        for _ in range(_PROBES):
            try:
                answer = self._quick.call(address, self._health)
            except Unreachable as error:
                detail = error.hint or error.message
                continue
            answered += answer.good
            detail = detail if answer.good else f"{self._health} answers {answer.status}"
        return Health(answered, _PROBES, detail)

    def watch(self, address: str, *, times: int, seconds_max: float, tell: Callable[[str], None]) -> Seen:
        """See ``Outside``."""
        return watch(
            self._client,
            address=address,
            resolvers=self._resolvers,
            health=self._health,
            probe=self._probe,
            canary=self._canary,
            times=times,
            seconds_max=seconds_max,
            tell=tell,
        )


def _probe_of(settings: Settings, name: ComponentName) -> tuple[str, dict[str, Any]] | None:
    component = settings.components.get(name)
    return (component.probe.path, component.probe.body) if component and component.probe else None
