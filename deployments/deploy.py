"""Deploy everything to Prefect, as often as you like: ``python -m deployments.deploy -c config/production.yaml``.

Creates or updates the two work pools and the deployments of deployments/prefect.yaml for the service of the config.
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

import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate

from understudy.errors import UnderstudyError
from understudy.settings import load_settings

if TYPE_CHECKING:
    from understudy.settings import ComponentName, Settings

CHECKOUT = Path(__file__).parents[1]
POOLS = {
    "understudy": "Copies, rebuilds and plans, on their schedules.",
    "understudy-failover": "The failover alone, so that no backlog of copies stands before it.",
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


def deploy(config: Path) -> str:
    """Deploy for one config and return what was said. Raises InvalidConfig; CalledProcessError with Prefect's words."""
    settings = load_settings(config)
    with get_client(sync_client=True) as client:
        for name, description in POOLS.items():
            client.create_work_pool(WorkPoolCreate(name=name, type="process", description=description), overwrite=True)
    environment = {
        **os.environ,
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
    return done.stdout


def main() -> int:
    """Deploy from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("UNDERSTUDY_CONFIG", "config/production.yaml")
    parser.add_argument("-c", "--config", type=Path, default=default)
    try:
        deploy(parser.parse_args().config)
    except UnderstudyError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    sys.stdout.write("deployed; next: prefect worker start --pool understudy, and another for understudy-failover\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
