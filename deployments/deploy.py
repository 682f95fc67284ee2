"""Deploy everything to Prefect, as often as you like: ``python -m deployments.deploy -c config/production.yaml``.

Creates or updates the two work pools and the deployments of deployments/prefect.yaml for the service of the config.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate

from understudy.errors import UnderstudyError
from understudy.settings import load_settings

CHECKOUT = Path(__file__).parents[1]
POOLS = {
    "understudy": "Copies, rebuilds and plans, on their schedules.",
    "understudy-failover": "The failover alone, so that no backlog of copies stands before it.",
}


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
    command = [str(prefect), "--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml"]
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
