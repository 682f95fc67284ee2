"""Deploy everything to Prefect, as often as you like: ``python -m deployments.deploy -c config/production.yaml``.

Creates or updates, for the service of the config: the two work pools, the deployments of deployments/prefect.yaml, the
notification blocks that ``notify`` names, and the automations of deployments/automations.yaml. What it finds as it
should be it leaves alone; what does not belong there any more it names, and removes nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, get_current_settings

from deployments.automations import automations, put_automations
from deployments.blocks import put_blocks
from understudy.errors import InvalidConfig, UnderstudyError, Unreachable
from understudy.settings import load_settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from understudy.settings import ComponentName, Settings

CHECKOUT = Path(__file__).parents[1]
POOLS = {
    "understudy": "Copies and rebuilds, on their schedules.",
    "understudy-failover": "The failover and its plans, so that no backlog of copies stands before it.",
}


#: Whose pairs say how often a flow runs, and how long after its copy a rebuild waits.
SCHEDULED: dict[str, tuple[ComponentName, timedelta]] = {
    "flows.replicate_artifacts.replicate_artifacts": ("training", timedelta(0)),
    "flows.replicate_vectors.replicate_vectors": ("vector_index", timedelta(0)),
    "flows.replicate_offline.replicate_offline": ("feature_store", timedelta(0)),
    "flows.rebuild_features.rebuild_features": ("feature_store", timedelta(minutes=1)),
}
_ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)


def schedules_of(settings: Settings, component: ComponentName, shift: timedelta) -> list[dict[str, Any]]:
    """Return the schedules that a component's pairs ask for by ``every``, as prefect.yaml writes them.

    One flow copies all pairs, so the shortest period serves them all; times of day are added up.
    """
    every = [pair.every for pair in settings.components[component].pairs] if component in settings.components else []
    periods = [each for each in every if isinstance(each, timedelta)]
    clocks = sorted({clock for each in every if isinstance(each, str) for clock in each.split(",")})
    schedules: list[dict[str, Any]] = []
    if periods:
        anchor = (_ANCHOR + shift).isoformat()
        schedules.append({"interval": min(periods).total_seconds(), "anchor_date": anchor})
    schedules += [{"cron": f"{int(clock[3:])} {int(clock[:2])} * * *", "timezone": "UTC"} for clock in clocks]
    return schedules


def prefect_file(settings: Settings) -> str:
    """Return deployments/prefect.yaml with the schedules of the config."""
    document = yaml.safe_load((CHECKOUT / "deployments" / "prefect.yaml").read_text(encoding="utf-8"))
    for deployment in document["deployments"]:
        if deployment["entrypoint"] in SCHEDULED:
            component, shift = SCHEDULED[deployment["entrypoint"]]
            deployment["schedules"] = schedules_of(settings, component, shift)
    return yaml.safe_dump(document, sort_keys=False)


def deploy(config: Path) -> list[str]:
    """Deploy for one config and return what was changed, a line each.

    Raises:
        InvalidConfig: the config is wrong, or ``notify`` names a block that cannot be made; nothing was changed.
        Unreachable: Prefect does not answer.
        UnderstudyError: with Prefect's words.
    """
    settings = load_settings(config)
    api = PREFECT_API_URL.value()
    if not api:
        raise InvalidConfig(
            "PREFECT_API_URL is not set", hint="set it to your server, such as http://127.0.0.1:4200/api"
        )
    try:
        return _deploy(settings, config)
    except httpx.TransportError as error:
        raise Unreachable(f"Prefect at {api} does not answer: {type(error).__name__}") from error


def _deploy(settings: Settings, config: Path) -> list[str]:
    said: list[str] = []
    with get_client(sync_client=True) as client:
        blocks = put_blocks(client, settings, said)
        for name, description in POOLS.items():
            _put_pool(client, name, description, said)
        before = _deployments(client, settings)
        _prefect_deploy(settings, config)
        after = _deployments(client, settings)
        said += [f"deployment {name}: created" for name in sorted(set(after) - set(before))]
        known = {entrypoint for entrypoint, _ in _entrypoints(settings)}
        said += [
            f"deployment {name} is not of the file; remove it: prefect deployment delete {name}"
            for name, entrypoint in sorted(after.items())
            if entrypoint not in known
        ]
        put_automations(client, settings, automations(settings, list(blocks.values())), said)
    return said


def _put_pool(client: SyncPrefectClient, name: str, description: str, said: list[str]) -> None:
    """Create a pool, or give it its description. What an operator set (type, limit, pause, template) stays."""
    try:
        found = client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type="process", description=description))
        said.append(f"work pool {name}: created")
        return
    if found.description != description:
        client.update_work_pool(name, WorkPoolUpdate(description=description))
        said.append(f"work pool {name}: updated")


def _entrypoints(settings: Settings) -> list[tuple[str, dict[str, Any]]]:
    document = yaml.safe_load(prefect_file(settings))
    return [(each["entrypoint"], each) for each in document["deployments"]]


def _deployments(client: SyncPrefectClient, settings: Settings) -> dict[str, str]:
    """Return the service's deployments on the server: FLOW/NAME to entry point."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

    chosen = DeploymentFilter(name=DeploymentFilterName(any_=[settings.service]))
    found = client.read_deployments(deployment_filter=chosen)
    return {f"{client.read_flow(each.flow_id).name}/{each.name}": each.entrypoint or "" for each in found}


def _prefect_deploy(settings: Settings, config: Path) -> None:
    environment = {
        **os.environ,
        **get_current_settings().to_environment_variables(exclude_unset=True),
        "UNDERSTUDY_SERVICE": settings.service,
        "UNDERSTUDY_CONFIG": str(config.resolve()),
        "UNDERSTUDY_CHECKOUT": str(CHECKOUT),
    }
    prefect = Path(sys.executable).with_name("prefect")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prefect.yaml"
        file.write_text(prefect_file(settings), encoding="utf-8")
        command = [str(prefect), "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        done = subprocess.run(command, cwd=CHECKOUT, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        raise UnderstudyError(
            f"prefect deploy failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}",
            hint="see that PREFECT_API_URL names a running server",
        )


def main() -> int:
    """Deploy from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("UNDERSTUDY_CONFIG", "config/production.yaml")
    parser.add_argument("-c", "--config", type=Path, default=default)
    try:
        said = deploy(parser.parse_args().config)
    except UnderstudyError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write("".join(f"{line}\n" for line in said))
    sys.stdout.write("deployed; next: prefect worker start --pool understudy, and another for understudy-failover\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
