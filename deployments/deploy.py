"""Deploy everything to Prefect, as often as you like: ``python -m deployments.deploy -c config/production.yaml``.

Creates or updates, for the service of the config: the two work pools, the deployments of deployments/prefect.yaml, the
notification blocks that ``notify`` names, and the automations of deployments/automations.yaml. What it finds as it
should be it leaves alone, and a schedule that an operator paused stays paused. What does not belong there any more it
names and leaves; only the schedules of a component that left the config are removed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY, PREFECT_API_URL, get_current_settings

from deployments.automations import automations, put_automations
from deployments.blocks import put_blocks
from understudy.errors import InvalidConfig, UnderstudyError, Unreachable
from understudy.redaction import remember
from understudy.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import DeploymentSchedule
    from prefect.client.schemas.responses import DeploymentResponse

    from understudy.settings import ComponentName, Settings

CHECKOUT = Path(__file__).parents[1]
POOLS = {
    "understudy": "Copies and rebuilds, on their schedules.",
    "understudy-prune": "The prune of the vault, whose workers alone may delete there.",
    "understudy-failover": "The failover and its plans, so that no backlog of copies stands before it.",
}


#: Whose pairs say how often a flow runs, and how long after its copy a rebuild waits.
SCHEDULED: dict[str, tuple[ComponentName, timedelta]] = {
    "flows.replicate_artifacts.replicate_artifacts": ("training", timedelta(0)),
    "flows.replicate_vectors.replicate_vectors": ("vector_index", timedelta(0)),
    "flows.replicate_offline.replicate_offline": ("feature_store", timedelta(0)),
    "flows.rebuild_features.rebuild_features": ("feature_store", timedelta(minutes=1)),
}
#: What the config's vault.verify says, and no component.
VERIFY = "flows.verify_vault.verify_vault"
#: What vault.prune_every says; without it the flow is run by hand.
PRUNE = "flows.prune_vault.prune_vault"
_ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)
#: Of what Prefect said before it failed.
_LINES_SHOWN_MAX = 20


def schedules_of(settings: Settings, component: ComponentName, shift: timedelta) -> list[dict[str, Any]]:
    """Return the schedules that a component's pairs ask for by ``every``, as prefect.yaml writes them.

    One flow copies all pairs, so the shortest period serves them all; times of day are added up.
    """
    every = [pair.every for pair in settings.components[component].pairs] if component in settings.components else []
    return schedules_at(every, shift)


def schedules_at(every: Sequence[timedelta | str], shift: timedelta) -> list[dict[str, Any]]:
    """Return schedules for periods, of which the shortest serves all, and for times of day, which are added up."""
    periods = [each for each in every if isinstance(each, timedelta)]
    clocks = sorted({clock for each in every if isinstance(each, str) for clock in each.split(",")})
    schedules: list[dict[str, Any]] = []
    if periods:
        anchor = (_ANCHOR + shift).isoformat()
        schedules.append({"interval": min(periods).total_seconds(), "anchor_date": anchor})
    schedules += [{"cron": f"{int(clock[3:])} {int(clock[:2])} * * *", "timezone": "UTC"} for clock in clocks]
    return schedules


def prefect_file(settings: Settings, there: Mapping[str, Sequence[DeploymentSchedule]] | None = None) -> str:
    """Return deployments/prefect.yaml with the schedules of the config.

    Args:
        settings: the config.
        there: by entry point, the schedules on the server: Prefect makes them anew, and what was paused would run.
    """
    document = yaml.safe_load((CHECKOUT / "deployments" / "prefect.yaml").read_text(encoding="utf-8"))
    for deployment in document["deployments"]:
        if (asked := _asked(settings, deployment["entrypoint"])) is not None:
            deployment["schedules"] = asked
        found = (there or {}).get(deployment["entrypoint"], ())
        for schedule in deployment.get("schedules", ()):
            if _paused(schedule, found):
                schedule["active"] = False
    return yaml.safe_dump(document, sort_keys=False)


def _asked(settings: Settings, entrypoint: str) -> list[dict[str, Any]] | None:
    """Return the schedules that the config asks for; None where it says nothing of the flow."""
    if entrypoint == PRUNE:
        return schedules_at([settings.vault.prune_every], timedelta(0)) if settings.vault.prune_every else []
    if entrypoint == VERIFY:
        verify = settings.vault.verify
        return schedules_at([verify.every], timedelta(0)) if verify else []
    if entrypoint not in SCHEDULED:
        return None
    return schedules_of(settings, *SCHEDULED[entrypoint])


def _paused(schedule: Mapping[str, Any], there: Sequence[DeploymentSchedule]) -> bool:
    """Whether an operator has paused this schedule: the same one, or all that there are when its times are new."""
    known = {_identity(each.schedule): each.active for each in there}
    active = known.get(_identity(schedule))
    return not active if active is not None else bool(there) and not any(each.active for each in there)


def _identity(schedule: object) -> tuple[object, ...]:
    """Return what makes a schedule the same one, as prefect.yaml writes it or as the server has it.

    The anchor of an interval is no part of it: without one Prefect takes the moment of the first deploy.
    """
    if isinstance(schedule, IntervalSchedule):
        return "interval", schedule.interval.total_seconds()
    if isinstance(schedule, CronSchedule):
        return "cron", schedule.cron, schedule.timezone or "UTC"
    if isinstance(schedule, Mapping):
        if "interval" in schedule:
            return "interval", float(schedule["interval"])
        return "cron", schedule["cron"], schedule.get("timezone", "UTC")
    return ("another",)  # an rrule, which prefect.yaml does not have


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
        there = {each.entrypoint or "": each.schedules for each in before.values()}
        _prefect_deploy(prefect_file(settings, there), settings, config)
        after = _deployments(client, settings)
        _end_schedules(client, settings, after, said)
        said += [f"deployment {name}: created" for name in sorted(set(after) - set(before))]
        known = {entrypoint for entrypoint, _ in _entrypoints(settings)}
        said += [
            f"deployment {name} is not of the file; remove it: prefect deployment delete {name}"
            for name, each in sorted(after.items())
            if each.entrypoint not in known
        ]
        said += [
            f"deployment {name}: a schedule is paused, as it was; to go on: "
            f"prefect deployment schedule resume {name} {schedule.id}"
            for name, each in sorted(_deployments(client, settings).items())
            for schedule in each.schedules
            if not schedule.active
        ]
        put_automations(client, settings, automations(settings, list(blocks.values())), said)
    return said


def _end_schedules(
    client: SyncPrefectClient, settings: Settings, deployed: Mapping[str, DeploymentResponse], said: list[str]
) -> None:
    """Remove the schedules of components that are not in the config: Prefect takes an empty list for none given."""
    for name, each in sorted(deployed.items()):
        if _asked(settings, each.entrypoint or "") != []:
            continue
        component, _ = SCHEDULED.get(each.entrypoint or "", (None, None))
        why = f"the config copies no {component}" if component else "the config asks for none"
        for schedule in each.schedules:
            client.delete_deployment_schedule(each.id, schedule.id)
            said.append(f"deployment {name}: a schedule was removed; {why}")


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


def _deployments(client: SyncPrefectClient, settings: Settings) -> dict[str, DeploymentResponse]:
    """Return the service's deployments on the server by FLOW/NAME."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

    chosen = DeploymentFilter(name=DeploymentFilterName(any_=[settings.service]))
    found = client.read_deployments(deployment_filter=chosen)
    return {f"{client.read_flow(each.flow_id).name}/{each.name}": each for each in found}


def _prefect_deploy(file_text: str, settings: Settings, config: Path) -> None:
    for secret in (PREFECT_API_KEY.value(), PREFECT_API_AUTH_STRING.value()):
        remember(secret.get_secret_value() if secret else None)
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
        file.write_text(file_text, encoding="utf-8")
        command = [str(prefect), "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
        done = subprocess.run(command, cwd=CHECKOUT, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        # Rich writes its boxes to stdout, a traceback goes to stderr: what matters may be in either.
        raise UnderstudyError(
            f"prefect deploy ended with exit code {done.returncode}",
            hint=f"see that PREFECT_API_URL names a running server. {_last_words(done.stdout + done.stderr)}",
        )


def _last_words(output: str) -> str:
    lines = [line.rstrip() for line in output.splitlines() if line.strip()][-_LINES_SHOWN_MAX:]
    return "\n  ".join(["Its last words:", *lines]) if lines else "It said nothing"


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
