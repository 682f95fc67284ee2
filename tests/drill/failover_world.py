"""A world in files for failover drills: every effect is counted, and any process can be killed at any moment of it.

A *moment* is just after something outside changed: a store's write from the main thread, or an effect on traffic,
compute, alerts or data. The n-th moment of a process can be made its last (SIGKILL) or made to freeze it (SIGSTOP).
"""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.unit.example import example
from understudy.alerts.interface import Watched
from understudy.compute.interface import Group
from understudy.errors import Conflict, NotReady
from understudy.failover.observed import Health
from understudy.failover.register import Lease, Register, State
from understudy.failover.steps import Pace
from understudy.failover.world import CatchUp, World
from understudy.objects.file import FileStore
from understudy.report import Report
from understudy.settings import Settings
from understudy.traffic.interface import Routing, Way, check_shares
from understudy.traffic.watch import Seen
from understudy.vault.store import Vault, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from understudy.objects.interface import ObjectInfo
    from understudy.settings import SiteRole

LEASE = 0.2
MARGIN = 0.05
HOME, AWAY = "192.0.2.1", "192.0.2.2"
# Longer than any machine stalls: a commander who is not stopped on purpose keeps what he holds.
PACE = Pace(
    hold_seconds=60, effect_seconds=0.1, poll_seconds=0.01, door_seconds=2, watch_times=2, watch_seconds=2,
    catch_up_seconds=0.3,
)  # fmt: skip
# For drills in which a dead or frozen commander's hold must lapse before they go on.
BRIEF = replace(PACE, hold_seconds=0.6)


class Moments:
    """Counts the moments of this process and ends it at one of them."""

    def __init__(self, *, last: int = 0, how: int = signal.SIGKILL) -> None:
        self.count = 0
        self._last = last
        self._how = how

    def __call__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        self.count += 1
        if self.count == self._last:
            os.kill(os.getpid(), self._how)


class KillingStore(FileStore):
    """A folder of objects whose every write of the main thread is a moment."""

    def __init__(self, folder: Path, moment: Callable[[], None]) -> None:
        super().__init__(folder)
        self._moment = moment

    def replace(self, key: str, data: bytes, *, expected: str | None) -> ObjectInfo:
        """Write; ``create`` comes here too."""
        info = super().replace(key, data, expected=expected)
        # A sign of life, from its own thread, is none: what a moment does would be done by two threads at once.
        if threading.current_thread() is threading.main_thread():
            self._moment()
        return info


class Files:
    """The outside world: one JSON file a thing, and a log with a line an effect."""

    def __init__(self, folder: Path, moment: Callable[[], None]) -> None:
        self._folder = folder
        self._moment = moment

    def read(self, name: str) -> Any:
        return json.loads((self._folder / name).read_text())

    def write(self, name: str, value: Any) -> None:
        temporary = self._folder / f"{name}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(value))
        temporary.replace(self._folder / name)

    def effect(self, what: str, name: str, value: Any) -> None:
        self.write(name, value)
        with (self._folder / "effects.log").open("a") as log:
            log.write(what + "\n")
        self._moment()


class FileTraffic:
    control_plane = "files"
    compare_and_set = False

    def __init__(self, files: Files) -> None:
        self._files = files

    def read(self) -> Routing:
        shares = self._files.read("traffic")
        ways: dict[SiteRole, Way] = {"home": Way(HOME, shares["home"]), "away": Way(AWAY, shares["away"])}
        return Routing("recommendations.example.com", ways, 60)

    def prepare(self, addresses: Mapping[SiteRole, str], *, active: SiteRole, ttl: int) -> Routing:
        raise NotImplementedError

    def shift(self, shares: Mapping[SiteRole, int], *, expected: Routing) -> Routing:
        check_shares(shares, expected)
        self._files.effect(f"shift-{shares['away']}", "traffic", dict(shares))
        return self.read()


class FileCompute:
    control_plane = "files"

    def __init__(self, files: Files) -> None:
        self._files = files

    def read(self) -> Group:
        size = self._files.read("compute")
        return Group("mig", size, size, stable=True)

    def resize(self, size: int) -> Group:
        self._files.effect(f"resize-{size}", "compute", size)
        return self.read()

    def await_running(self, size: int, *, seconds_max: float, tell: Callable[[Group], None] | None = None) -> Group:
        group = self.read()
        if group.running < size:
            raise NotReady(f"{group.running} of {size} run after {seconds_max}s")
        if tell:
            tell(group)
        return group


class FileAlerts:
    control_plane = "files"

    def __init__(self, files: Files) -> None:
        self._files = files

    def read(self) -> Watched:
        return Watched(**self._files.read("alerts"))

    def point(self, address: str, port: int, *, expected: Watched) -> Watched:
        if self.read() != expected:
            raise Conflict("changed by someone else")
        watched = Watched(address, port, str(int(expected.token) + 1))
        self._files.effect("alerts", "alerts", asdict(watched))
        return self.read()


class FileOutside:
    def __init__(self, files: Files) -> None:
        self._files = files

    def health(self, address: str) -> Health:
        answered = self._files.read("health")[address]
        return Health(answered, 3, "" if answered == 3 else "connection refused")

    def watch(self, address: str, *, times: int, seconds_max: float, tell: Callable[[str], None]) -> Seen:
        if address != AWAY or self._files.read("traffic") != {"home": 0, "away": 100}:
            raise NotReady(f"not confirmed after {seconds_max}s")
        tell("all answer")
        return Seen(1, times, 0.001, None)


def settings() -> Settings:
    return Settings.model_validate(
        example(
            **{
                "alerts": {"url": "route53-health-check://1"},
                "traffic.addresses": {"home": HOME, "away": AWAY},
                "capacity.full": 4,
            }
        )
    )


def make(folder: Path, *, home_answers: int = 0) -> None:
    """Lay out a home site whose data is all in the vault, dead if not said otherwise, and a standby of one instance.

    Args:
        folder: of the world.
        home_answers: to how many of three probes.
    """
    for name in ("vault", "register", "outside", "disk"):
        (folder / name).mkdir(parents=True)
    files = Files(folder / "outside", lambda: None)
    files.write("traffic", {"home": 100, "away": 0})
    files.write("compute", 1)
    files.write("health", {HOME: home_answers, AWAY: 3})
    files.write("alerts", {"address": HOME, "port": 443, "token": "1"})
    for name in ("model", "index", "features"):
        files.write(name, "old")
    vault = Vault(FileStore(folder / "vault"))
    now = datetime.now(UTC)
    vault.put_once("artifacts/minilm/1/00000001.json", b"{}")
    vault.put_once("vectors/products/00000001/manifest.json", b"{}")
    vault.put_once("features/user_features/00000001.json", b"{}")
    chosen = {
        "model": {"name": "minilm", "version": "1", "revision": 1, "digest": "d"},
        "index": {"name": "products", "sequence": 1},
        "features": {"view": "user_features", "sequence": 1},
    }
    vault.put_once("sets/recommender/00000001.json", to_json(chosen))
    for key in ("features/user_features", "vectors/products", "artifacts/models"):
        vault.put_once(f"pointers/{key}.json", to_json({"watermark": now.isoformat()}))
    leases = {
        f"home-{n}": Lease(site="home", epoch=6, seconds=LEASE, renewed=now).model_dump(mode="json") for n in (1, 2)
    }
    state = State.model_validate(
        {
            "id": "r1",
            "service": "recommender",
            "epoch": 6,
            "active": "home",
            "writes": True,
            "since": now,
            "leases": leases,
        }
    )
    FileStore(folder / "register").create("register.json", state.model_dump_json().encode())


def open_world(folder: Path, moment: Callable[[], None] = lambda: None) -> World:
    """Open the world of a folder, as a process that may be killed at a moment."""
    files = Files(folder / "outside", moment)

    def catch_up(name: str) -> Callable[[int], Report]:
        def call(_set_sequence: int) -> Report:
            if files.read(name) == "new":
                return Report(noun=name, name=name, verdict="unchanged", sentence=f"{name}: nothing to do")
            files.effect(name, name, "new")
            return Report(noun=name, name=name, verdict="changed", sentence=f"{name}: done")

        return call

    return World(
        settings=settings(),
        register=Register(KillingStore(folder / "register", moment), margin=MARGIN),
        vault=Vault(KillingStore(folder / "vault", moment)),
        traffic=FileTraffic(files),
        compute=FileCompute(files),
        alerts=FileAlerts(files),
        outside=FileOutside(files),
        catch_up=CatchUp(
            hydrate_model=catch_up("model"), rebuild_index=catch_up("index"), rebuild_features=catch_up("features")
        ),
        journal_directory=folder / "disk",
    )


def effects(folder: Path) -> list[str]:
    """Return every effect in order."""
    log = folder / "outside" / "effects.log"
    return log.read_text().split() if log.exists() else []


def end_state(folder: Path) -> dict[str, Any]:
    """Return all that a finished failover leaves behind, times and names of machines left out."""
    files = Files(folder / "outside", lambda: None)
    state = open_world(folder).register.read()
    return {
        **{name: files.read(name) for name in ("traffic", "compute", "alerts", "model", "index", "features")},
        "epoch": state.epoch,
        "active": state.active,
        "writes": state.writes,
        "holder": state.holder,
        "fence": state.fence.by if state.fence else None,
        "leases": state.leases,
    }
