"""Each night: a share of the vault read back and decoded; each week all of it."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.names import service_name
from tasks.screen import concluded
from tasks.vault import verify_vault as verify


@flow(name="verify-vault", flow_run_name=service_name("verify"), persist_result=False)
def verify_vault(kind: Literal["due", "quick", "sampled", "deep"] = "due", config: str = "") -> State[Any]:
    """Compare the vault's listing with what was recorded, read a share of it or all, and keep what was found.

    Args:
        kind: due takes what the config's vault.verify asks for now: a sample, or everything when that is due.
        config: the config file; empty takes $UNDERSTUDY_CONFIG of the worker.
    """
    return concluded(lambda: verify(config, None if kind == "due" else kind), key="vault")
