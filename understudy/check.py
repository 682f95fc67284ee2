"""Whether a config would work: every endpoint answers, and every schedule meets its target."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from understudy import opening
from understudy.errors import UnderstudyError
from understudy.report import human_seconds
from understudy.settings import longest_gap

if TYPE_CHECKING:
    from understudy.service import Service
    from understudy.settings import ComponentName, Pair, Settings, SiteRole

Trial = tuple[str, Callable[[], object]]
HOME: SiteRole = "home"
AWAY: SiteRole = "away"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried: what, whether it holds, and what is wrong."""

    what: str
    ok: bool
    words: str = ""


def check_schedules(settings: Settings, usual_seconds: dict[str, float] | None = None) -> list[Finding]:
    """Return a finding a pair: its period and usual duration together must stay below the component's RPO.

    Args:
        settings: the config.
        usual_seconds: how long a pair's replication usually takes, by the pair's name; unknown counts as 0.
    """
    findings = []
    for name, component in settings.components.items():
        for pair in component.pairs:
            what = f"schedule {pair.name}"
            period = longest_gap(pair.every)
            usual = timedelta(seconds=(usual_seconds or {}).get(pair.name, 0.0))
            if component.rpo is not None and period + usual >= component.rpo:
                words = (
                    f"every {human_seconds(period.total_seconds())} plus {human_seconds(usual.total_seconds())} "
                    f"of work reaches the RPO of {name}, {human_seconds(component.rpo.total_seconds())}; "
                    "write a shorter period, or a second time of day, under every"
                )
                findings.append(Finding(what, ok=False, words=words))
            else:
                findings.append(Finding(what, ok=True))
    return findings


def check_service(service: Service) -> list[Finding]:
    """Try every store of the config side by side, then judge the schedules; never raises for what it finds."""
    settings = service.settings
    trials: list[Trial] = [
        (f"vault {settings.vault.url}", lambda: service.vault),
        (f"register {settings.register_.url}", service.register.read),
        (f"traffic {settings.traffic.url}", lambda: opening.open_traffic(settings).read()),
        (f"capacity {settings.capacity.away}", lambda: opening.open_compute(settings, "away").read()),
    ]
    if settings.alerts:
        trials.append((f"alerts {settings.alerts.url}", lambda: opening.open_alerts(settings).read()))
    for name, component in settings.components.items():
        for pair in component.pairs:
            trials += [trial for role in (HOME, AWAY) for trial in _trials_of_pair(service, name, pair, role)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        findings = list(pool.map(_attempt, trials))
    return [*findings, *check_schedules(settings)]


def _trials_of_pair(service: Service, component: ComponentName, pair: Pair, role: SiteRole) -> list[Trial]:
    url = pair.home if role == HOME else pair.away
    if component == "training":
        return [(f"models {url}", lambda: next(service.models(pair, role).list(), None))]
    if component == "vector_index":
        return [(f"index {url}", lambda: service.index(pair, role).describe())]
    if component == "feature_store":
        return [
            (f"online {url}", lambda: service.online(pair, role).pointer()),
            (f"offline of {pair.name} at {role}", lambda: next(service.offline(pair, role).list(), None)),
        ]
    return []


def _attempt(trial: Trial) -> Finding:
    what, call = trial
    try:
        call()
    except UnderstudyError as error:
        return Finding(what, ok=False, words=str(error))
    return Finding(what, ok=True)
