"""Whether a config would work: every endpoint answers, and every schedule meets its target."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from understudy import opening
from understudy.errors import UnderstudyError
from understudy.report import human_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.service import Service
    from understudy.settings import Settings

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried: what, whether it holds, and what is wrong."""

    what: str
    ok: bool
    words: str = ""


def check_schedules(settings: Settings, usual_seconds: dict[str, float] | None = None) -> list[Finding]:
    """Return a finding a pair: its period and usual duration together must stay within the component's RPO.

    Args:
        settings: the config.
        usual_seconds: how long a pair's replication usually takes, by the pair's name; unknown counts as 0.
    """
    findings = []
    for name, component in settings.components.items():
        for pair in component.pairs:
            what = f"schedule {pair.name}"
            period = _DAY if isinstance(pair.every, str) else pair.every
            usual = timedelta(seconds=(usual_seconds or {}).get(pair.name, 0.0))
            if component.rpo is not None and period + usual > component.rpo:
                words = (
                    f"every {human_seconds(period.total_seconds())} plus {human_seconds(usual.total_seconds())} "
                    f"of work exceeds the RPO of {name}, {human_seconds(component.rpo.total_seconds())}; "
                    "write a shorter period under every"
                )
                findings.append(Finding(what, ok=False, words=words))
            else:
                findings.append(Finding(what, ok=True))
    return findings


def check_service(service: Service) -> list[Finding]:
    """Try every store of the config side by side, then judge the schedules; never raises for what it finds."""
    settings = service.settings
    trials: list[tuple[str, Callable[[], object]]] = [
        (f"vault {settings.vault.url}", lambda: service.vault),
        (f"register {settings.register_.url}", lambda: service.register.read()),
        (f"traffic {settings.traffic.url}", lambda: opening.open_traffic(settings).read()),
        (f"capacity {settings.capacity.away}", lambda: opening.open_compute(settings, "away").describe()),
    ]
    if settings.alerts:
        trials.append((f"alerts {settings.alerts.url}", lambda: opening.open_alerts(settings).read()))
    for role in ("home", "away"):
        for pair in settings.components["training"].pairs if "training" in settings.components else ():
            trials.append((f"models {getattr(pair, role)}", lambda p=pair, r=role: next(service.models(p, r).list(), None)))
        for pair in settings.components["vector_index"].pairs if "vector_index" in settings.components else ():
            trials.append((f"index {getattr(pair, role)}", lambda p=pair, r=role: service.index(p, r).describe()))
        for pair in settings.components["feature_store"].pairs if "feature_store" in settings.components else ():
            trials.append((f"online {getattr(pair, role)}", lambda p=pair, r=role: service.online(p, r).pointer()))
            trials.append((f"offline of {role}", lambda p=pair, r=role: next(service.offline(p, r).list(), None)))

    def attempt(trial: tuple[str, Callable[[], object]]) -> Finding:
        what, call = trial
        try:
            call()
        except UnderstudyError as error:
            return Finding(what, ok=False, words=str(error))
        return Finding(what, ok=True)

    with ThreadPoolExecutor(max_workers=8) as pool:
        findings = list(pool.map(attempt, trials))
    return [*findings, *check_schedules(settings)]
