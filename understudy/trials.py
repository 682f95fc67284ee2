"""What is tried of each place that a config names: its rights by use, and nothing that anybody would miss or notice.

What is written are probes: objects of a fixed name that no reader looks at, made once and left, for whoever replicates
needs no right to delete. Whether a right is there that is *not* needed is not tried: that would take a real deletion.
"""

from __future__ import annotations

import contextvars
import json
import socket
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from understudy import opening
from understudy.errors import (
    Conflict,
    Corrupt,
    Denied,
    InvalidConfig,
    NotFound,
    NotReady,
    Permanent,
    UnderstudyError,
    Unreachable,
)
from understudy.finding import Finding
from understudy.objects.interface import Safeguarded
from understudy.report import human_seconds
from understudy.vault.pointers import watermark_key
from understudy.vectors.interface import NoSuchIndex

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.compute.interface import Compute
    from understudy.failover.register import Register
    from understudy.objects.interface import ObjectStore, Safeguards
    from understudy.service import Service
    from understudy.settings import ComponentName, Pair, Settings, SiteRole
    from understudy.traffic.interface import Traffic
    from understudy.vault.store import Vault
    from understudy.vectors.interface import VectorStore

TRIAL_SECONDS = 10.0
#: The vendors' packages are imported meanwhile, and a cloud's own chain looks for credentials.
OPEN_SECONDS = 30.0
_WORDS_MAX = 600

PROBE_KEY = "probe/config-check"
POINTER_PROBE_KEY = "pointers/artifacts/.config-check.json"  # where a replicator may move pointers
SERVING_PROBE_KEY = "understudy-probe"
REGISTER_PROBE_KEY = "probe.json"
_PROBE = b'"written by understudy config check, which never needs to remove it"\n'


@dataclass(frozen=True, slots=True)
class Trial:
    """One place to try.

    Attributes:
        what: such as ``vault gs://bucket``.
        place: of the setting that names it.
        open: makes the adapter; may import its vendor's package.
        ask: tries what is needed and returns what is worth knowing; raises UnderstudyError.
        needs: the references to secrets that opening takes.
    """

    what: str
    place: tuple[str | int, ...]
    open: Callable[[], Any]
    ask: Callable[[Any], str]
    needs: tuple[str | None, ...] = ()


def trials_of(service: Service, *, writes: bool = True) -> list[Trial]:
    """Return what there is to try of a config; nothing is opened yet. Without ``writes`` no probe is written."""
    settings = service.settings
    away = settings.sites.away.credentials
    trials = [
        Trial(
            f"vault {settings.vault.url}",
            ("vault", "url"),
            lambda: service.vault,
            try_vault if writes else read_vault,
            (away,),
        ),
        Trial(
            f"register {settings.register_.url}",
            ("register", "url"),
            lambda: service.register,
            partial(try_register, service=settings.service, writes=writes),
            (settings.register_.credentials,),
        ),
        Trial(
            f"traffic {settings.traffic.url}",
            ("traffic", "url"),
            lambda: opening.open_traffic(settings),
            partial(_try_traffic, settings),
            (settings.traffic.credentials,),
        ),
    ]
    for role in _ROLES:
        url = settings.capacity.away if role == "away" else settings.capacity.home
        if url:
            place, needs = ("capacity", role), (settings.site(role).credentials,)
            group = partial(opening.open_compute, settings, role)
            trials.append(Trial(f"capacity {url}", place, group, partial(_try_compute, settings, role), needs))
    if settings.alerts is not None:
        what, needs = f"alerts {settings.alerts.url}", (settings.alerts.credentials,)
        trials.append(Trial(what, ("alerts", "url"), lambda: opening.open_alerts(settings), _try_alerts, needs))
    for name, component in settings.components.items():
        for number, pair in enumerate(component.pairs):
            for role in _ROLES:
                trials += _trials_of_pair(service, name, number, pair, role, writes=writes)
    return [*trials, *_trials_of_metrics(settings)]


_ROLES: tuple[SiteRole, ...] = ("home", "away")


def _trials_of_pair(
    service: Service, component: ComponentName, number: int, pair: Pair, role: SiteRole, *, writes: bool
) -> list[Trial]:
    url = pair.home if role == "home" else pair.away
    place = ("components", component, "pairs", number, role)
    needs = (service.settings.site(role).credentials, pair.password)
    if component == "training":
        ask = try_serving if role == "away" and writes else try_source
        return [Trial(f"models {url}", place, lambda: service.models(pair, role), ask, needs[:1])]
    if component == "vector_index":
        index = partial(_try_index, role)
        return [Trial(f"index {url.partition('?')[0]}", place, lambda: service.index(pair, role), index, needs)]
    if component == "feature_store":
        trials = [Trial(f"online {url}", place, lambda: service.online(pair, role), _try_online, needs)]
        if role == "home":  # at the away site it is a part of the vault
            offline = (*place[:-1], "offline" if pair.offline else "home")
            what = f"offline {pair.offline or pair.home}"
            trials.append(Trial(what, offline, lambda: service.offline(pair, role), try_source, needs[:1]))
        return trials
    return []


def _trials_of_metrics(settings: Settings) -> list[Trial]:
    trials = []
    if endpoint := settings.metrics.otlp:
        trials.append(Trial(f"metrics {endpoint}", ("metrics", "otlp"), lambda: endpoint, _try_address))
    return trials


# ---------------------------------------------------------------------- running them


class _Run:
    """A trial under way in a thread of its own; whoever waits may give it up."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.opened = threading.Event()
        self.ended = threading.Event()
        self.words = ""
        self.error: Exception | None = None
        self.began = time.monotonic()
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._work,), daemon=True, name=f"try {trial.what}").start()

    def _work(self) -> None:
        try:
            adapter = self.trial.open()
            self.began = time.monotonic()
            self.opened.set()
            self.words = self.trial.ask(adapter)
        except Exception as error:  # noqa: BLE001 - said as a finding
            self.error = error
        finally:
            self.opened.set()
            self.ended.set()

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended; False when it took longer than it may."""
        self.opened.wait(max(0.0, self.began + OPEN_SECONDS - time.monotonic()))
        return self.opened.is_set() and self.ended.wait(max(0.0, self.began + seconds - time.monotonic()))


def attempt(
    settings: Settings, trials: list[Trial], *, missing: frozenset[str] = frozenset(), seconds: float = TRIAL_SECONDS
) -> list[Finding]:
    """Run all trials side by side and return a finding each, in their order.

    Args:
        settings: know the lines.
        trials: what to try.
        missing: references whose secret is not there; what needs them is not tried.
        seconds: how long one may take after its adapter is open; a server that swallows all is given up then.
    """
    runs = [None if missing & set(trial.needs) else _Run(trial) for trial in trials]
    findings = []
    for trial, run in zip(trials, runs, strict=True):
        file, line = settings.line(*trial.place)
        say = partial(Finding, trial.what, file=file, line=line)
        if run is None:
            needed = next(reference for reference in trial.needs if reference in missing)
            findings.append(say(ok=False, words=f"was not tried: {needed} cannot be used"))
        elif not run.wait(seconds):
            words = f"gave no answer within {human_seconds(seconds)}; look whether it is up and the address is right"
            findings.append(say(ok=False, words=words, exit_code=Unreachable.exit_code))
        elif isinstance(run.error, UnderstudyError):
            findings.append(say(ok=False, words=_one_line(str(run.error)), exit_code=run.error.exit_code))
        elif run.error is not None:  # a vendor's own words may hold what is secret
            words = f"failed with {type(run.error).__name__}, which is not known here; look at this setting"
            findings.append(say(ok=False, words=words))
        else:
            findings.append(say(ok=True, words=run.words))
    return findings


def _one_line(words: str) -> str:
    """Return words without line breaks, and not without end: a server may say a whole page."""
    line = " ".join(words.split())
    return line if len(line) <= _WORDS_MAX else f"{line[: _WORDS_MAX - 3]}..."


# ---------------------------------------------------------------------- what each is asked


def try_vault(vault: Vault) -> str:
    """Create once, read back, be refused a second time, move a pointer. Raises UnderstudyError."""
    store = vault.bare
    _create_once(store, PROBE_KEY)
    _compare_and_set(store, POINTER_PROBE_KEY)
    notes = ["created and read; removing was not tried, for it is not needed"]
    notes += _versions(store, "an object that is overwritten by mistake cannot be brought back")
    return "; ".join(notes)


def read_vault(vault: Vault) -> str:
    """Open it, list it and read its first object; nothing is written. Raises UnderstudyError."""
    return try_source(vault.store)


def try_register(register: Register, *, service: str, writes: bool = True) -> str:
    """Read it and prove that the store honours compare-and-set, on an object beside it. Raises UnderstudyError."""
    try:
        state = register.read()
    except NotFound:
        if writes:
            _compare_and_set(register.store, REGISTER_PROBE_KEY)  # whoever initialises it needs that
        raise
    if state.service != service:
        message = f"this is the register of {state.service!r}"
        raise InvalidConfig(message, hint=f"give {service} a prefix of its own")
    if not writes:
        return f"epoch {state.epoch}; read; writing was not tried"
    try:
        _compare_and_set(register.store, REGISTER_PROBE_KEY)
    except Denied:  # whoever replicates only reads it
        return f"epoch {state.epoch}; read; writing is not allowed, which a failover and a writer's lease need"
    return f"epoch {state.epoch}; read, and written by compare-and-set"


def try_source(store: ObjectStore) -> str:
    """List it and read a byte of its first object. Raises UnderstudyError."""
    first = next(iter(store.list()), None)
    if first is None:
        return "listed; it is empty, so reading was not tried"
    store.get_range(first.key, 0, min(1, first.size))
    return "; ".join(["listed and read", *_versions(store, "an object that changes while it is copied is not noticed")])


def try_serving(store: ObjectStore) -> str:
    """List it, write a probe and take it away again where that is allowed. Raises UnderstudyError."""
    next(iter(store.list()), None)
    _create_once(store, SERVING_PROBE_KEY)
    try:
        store.delete(SERVING_PROBE_KEY)
    except Denied:
        return f"listed and written; {SERVING_PROBE_KEY} stays there, for removing is not allowed, nor needed"
    return "listed and written"


def _create_once(store: ObjectStore, key: str) -> None:
    """Prove create-if-absent: the first creation is held, a second one with other bytes is refused."""
    try:
        store.create(key, _PROBE)
    except Conflict:
        pass  # of an earlier check: who may not create is denied before anybody looks whether it is there
    except Denied:
        if not _holds(store, key):  # a store that asks for the right to overwrite first
            raise
    if not _holds(store, key):
        raise Corrupt(f"{key} in {store.url} holds other bytes than were written", hint="remove it and try again")
    try:
        store.create(key, b"second\n")
    except (Conflict, Denied):
        return
    message = f"{store.url} overwrites what a conditional write must leave alone"
    raise Permanent(message, hint="it must honour If-None-Match: *, or generation preconditions; use another store")


def _holds(store: ObjectStore, key: str) -> bool:
    try:
        return store.get(key) == _PROBE
    except NotFound:
        return False


def _compare_and_set(store: ObjectStore, key: str) -> None:
    """Prove compare-and-set: a write with the token that stands is held, one with an older token is refused."""
    try:
        token: str | None = store.head(key).token
    except NotFound:
        token = None
    stamp = json.dumps({"by": "understudy config check", "nonce": time.time_ns()}).encode()
    try:
        store.replace(key, stamp, expected=token)
    except Conflict:
        return  # another check was quicker, and this one was refused as it must be
    try:
        store.replace(key, b"{}", expected=token)
    except Conflict:
        return
    message = f"{store.url} does not honour compare-and-set: a write with an old token was accepted"
    raise Permanent(message, hint="it must honour If-Match, or generation preconditions; use another store")


def _versions(store: ObjectStore, otherwise: str) -> list[str]:
    """Return what is worth knowing of how a bucket keeps its objects; ``otherwise``: what follows without versions."""
    while not isinstance(store, Safeguarded) and (inner := getattr(store, "bare", None)) is not None:
        store = inner
    if isinstance(store, Safeguarded):
        return _kept(store.safeguards(), otherwise)
    try:
        return [] if store.abilities.versions else [f"versioning is off: {otherwise}"]
    except Denied:
        return ["whether it keeps versions may not be asked"]


def _kept(found: Safeguards, otherwise: str) -> list[str]:
    words = []
    if found.versions in ("off", "suspended"):
        words.append(f"versioning is {found.versions}: {otherwise}; turn it on for that bucket")
    for replica in found.replicas:
        rule = f"rule {replica.rule}, " if replica.rule else ""
        if not replica.enabled:
            words.append(f"replicates nothing to {replica.target} ({rule}disabled)")
            continue
        timed = "within a promised time" if replica.timed else "with no promised time"
        deletes = ", deletions too" if replica.deletes else ""
        words.append(f"the bucket replicates itself to {replica.target} ({rule}{timed}{deletes})")
    if found.regions:
        words.append(found.regions)
    if found.soft_delete_seconds:
        words.append(f"what is deleted can be brought back for {human_seconds(found.soft_delete_seconds)}")
    if found.unasked:
        words.append(f"may not be asked: {', '.join(found.unasked)}")
    return words


def _try_index(role: SiteRole, index: VectorStore) -> str:
    try:
        found = index.describe()
    except NoSuchIndex:
        if role == "home":
            raise
        return "answers; the first rebuild makes the table"
    return f"{found.rows:,} rows of {found.schema.dimension:,} numbers; writing was not tried"


def _try_online(online: Any) -> str:  # noqa: ANN401 - an OnlineStore
    return "read; writing was not tried" if online.pointer() else "answers; nothing is rebuilt there yet"


def _try_traffic(settings: Settings, traffic: Traffic) -> str:
    found = traffic.read()
    wanted = settings.traffic.addresses
    for role, address in wanted.items():
        way = found.ways.get(role)
        if way is None or way.address != address:
            said = f"leads to {way.address}" if way else "has no record"
            message = f"{found.name} {said} for {role}, and traffic.addresses says {address}"
            raise NotReady(message, hint="correct one of them")
    limit = settings.traffic.ttl_max.total_seconds()
    if found.ttl > limit:
        message = f"{found.name} has a TTL of {found.ttl}s, and traffic.ttl_max is {human_seconds(limit)}"
        raise NotReady(message, hint="lower the records' TTL: clients keep an old answer for so long")
    return f"TTL {found.ttl}s; writing was not tried"


def _try_compute(settings: Settings, role: SiteRole, compute: Compute) -> str:
    group = compute.read()
    words = f"{group.running} of {group.size} instances run; resizing was not tried"
    if role == "away" and group.size < settings.capacity.warm:
        words += f"; capacity.warm is {settings.capacity.warm}"
    return words


def _try_alerts(alerts: Any) -> str:  # noqa: ANN401 - Alerts
    watched = alerts.read()
    return f"watches {watched.address}:{watched.port}; changing it was not tried"


def _try_address(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), TRIAL_SECONDS).close()
    except (OSError, ValueError) as error:
        message = f"{parts.hostname}:{parts.port or ''} cannot be reached: {getattr(error, 'strerror', None) or error}"
        raise Unreachable(message, hint="look whether the collector is up") from error
    return "answers; nothing was sent"


def measured(service: Service) -> dict[str, float]:
    """Return the seconds between the moment that a pair's last copy stands for and its being in the vault.

    By the pair's name, for those that were copied: from the watermark to the time at which the pointer to it was
    written, by the clocks of the stores. Raises UnderstudyError.
    """
    found = {}
    for name, component in service.settings.components.items():
        for pair in component.pairs:
            try:
                key = watermark_key(name, pair.name)
                info = service.vault.store.head(key)
            except (NotFound, KeyError):
                continue
            pointer = service.vault.pointer(key)
            if isinstance(pointer, dict) and pointer.get("watermark"):
                span = info.modified - datetime.fromisoformat(pointer["watermark"])
                found[pair.name] = max(0.0, span.total_seconds())
    return found
