"""By vault.prune_every, or by hand: what vault.keep does not keep, and nothing needs, is taken out of the vault."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import State

from tasks.names import service_name
from tasks.screen import concluded
from tasks.vault import prune_vault as prune


@flow(name="prune-vault", flow_run_name=service_name("prune"), persist_result=False)
def prune_vault(mode: Literal["prune", "dry run"] = "prune", config: str = "") -> State[Any]:
    """Condemn what is not kept and nothing needs, and delete what has been condemned for vault.condemned_for.

    Args:
        mode: a dry run only says what would go.
        config: the config file; empty takes $UNDERSTUDY_CONFIG of the worker.
    """
    return concluded(lambda: prune(config, write=mode == "prune"), key="prune")
