"""Runs the failover flow against a Prefect server that is killed when the first step begins; says what was left.

``python -m tests.flows.dead_server FOLDER``
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.drill.failover_world import AWAY, HOME, MARGIN, end_state, make, open_world
from tests.models import model_files
from tests.unit.example import example_in_folders
from understudy.failover.engine import prepare
from understudy.failover.plans import save_plan
from understudy.failover.register import Register
from understudy.objects.file import FileStore
from understudy.service import Service, open_service

if TYPE_CHECKING:
    from collections.abc import Callable

    from understudy.failover.world import CatchUp, World
    from understudy.settings import SiteRole


def config_of(folder: Path) -> Path:
    """A service of one model whose stores, traffic, instances and alerts are all files."""
    make(folder)
    for old in (folder / "vault").rglob("*.json"):
        old.unlink()
    document = example_in_folders(
        folder,
        **{
            "alerts": {"url": "route53-health-check://1"},
            "traffic.addresses": {"home": HOME, "away": AWAY},
            "capacity.full": 4,
        },
    )
    del document["components"]["vector_index"], document["components"]["feature_store"]
    path = folder / "understudy.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    home = FileStore(folder / "home")
    for name, data in model_files().items():
        home.put(f"minilm/1/{name}", data)
    return path


def in_files(folder: Path, kill: Callable[[], None]) -> Callable[..., World]:
    """Return what opens the service's world: the real vault, register and catch-up; the outside in files."""

    def world(self: Service, target: SiteRole, *, catch_up: CatchUp | None = None) -> World:
        del target
        files = open_world(folder)
        given = catch_up or files.catch_up

        def first(set_sequence: int) -> Any:
            kill()
            return given.hydrate_model(set_sequence)

        return replace(
            files,
            settings=self.settings,
            register=Register(self.register.store, margin=MARGIN),
            vault=self.vault,
            catch_up=replace(given, hydrate_model=first),
        )

    return world


def main() -> None:
    """Back up, plan, then run the flow; the server dies in the midst of it."""
    folder = Path(sys.argv[1])
    os.environ.update(
        PREFECT_HOME=str(folder / "prefect"),
        PREFECT_CLIENT_MAX_RETRIES="0",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        DO_NOT_TRACK="1",
        PREFECT_LOGGING_EXTRA_LOGGERS="understudy",
    )
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.testing.utilities import prefect_test_harness

    from flows.failover import failover

    config = config_of(folder)
    service = open_service(config)
    service.push_artifacts(service.settings.pair("training"))
    killed: list[float] = []
    with prefect_test_harness(server_startup_timeout=120):
        server = SubprocessASGIServer._instances[None].server_process

        def kill() -> None:
            if not killed:
                server.kill()
                server.wait()
                killed.append(time.monotonic())

        Service.world = in_files(folder, kill)  # type: ignore[method-assign]
        plan = prepare(service.world("away"), target="away")
        save_plan(service.register.store, plan)
        ended = ""
        try:
            ended = repr(failover(plan=plan.id, config=str(config), confirm="recommender", return_state=True))
        except BaseException as error:  # noqa: BLE001 - the run's last state has nowhere to go
            ended = repr(error)
        state = end_state(folder)
        register = service.register.read()
        answer = {
            "killed": bool(killed),
            "seconds": time.monotonic() - killed[0] if killed else None,
            "ended": ended,
            "traffic": state["traffic"],
            "alerts": state["alerts"]["address"],
            "active": register.active,
            "writes": register.writes,
            "held": register.holder is not None,
            "plan": (register.finished or {}).get("plan") == plan.id,
            "served": sorted(info.key for info in FileStore(folder / "away").list()),
        }
        sys.stdout.write(json.dumps(answer))
        sys.stdout.flush()
        os._exit(0)  # the harness would drain its logs into a server that is gone


if __name__ == "__main__":
    main()
