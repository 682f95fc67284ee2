"""``understudy iam``: the least-privilege policies of the config, for AWS and Google Cloud. Asks no server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from understudy.errors import InvalidConfig

if TYPE_CHECKING:
    from understudy.command.root import Context

_IDENTITIES = ("replicator", "hydrator", "copies", "pruner", "failover", "drill", "writer", "exporter", "operator")
_CLOUDS = ("aws", "gcp")
_ACCOUNT = re.compile(r"\d{12}|\*")


@click.command()
@click.option("--identity", type=click.Choice(_IDENTITIES), help="Of this one; else of all.")
@click.option("--cloud", type=click.Choice(_CLOUDS), help="Of this cloud; else of both.")
@click.option("--standby", metavar="SITE", help="The site that is filled; else the config's away site.")
@click.option("--account", default="*", metavar="ID", help="The AWS account in ARNs; else any.")
@click.option("--kms-key", "kms_keys", multiple=True, metavar="ARN", help="A key that encrypts buckets in AWS.")
@click.option("--out", metavar="DIR", help="Write the files there, for Terraform, aws and gcloud.")
@click.pass_obj
def iam(ctx: Context, /, identity: str | None, cloud: str | None, out: str | None, **options: Any) -> None:  # noqa: ANN401 - click's own
    """Print the policies that each identity needs and nothing beyond: from the config alone, no server is asked.

    Make them again when the config changes, and with --standby HOME before the way back after a failover.
    """
    from understudy.iam.policies import policies_of, remove_stale, write_files
    from understudy.settings import load_settings

    if not _ACCOUNT.fullmatch(options["account"]):
        raise InvalidConfig(f"{options['account']!r} is no AWS account", hint="write its twelve digits")
    for key in options["kms_keys"]:
        if not key.startswith("arn:"):
            raise InvalidConfig(f"{key!r} is no ARN of a key", hint="write arn:aws:kms:REGION:ACCOUNT:key/ID")
    settings = load_settings(ctx.config)
    clouds = (cloud,) if cloud else _CLOUDS
    chosen = [
        policies_of(
            each,  # type: ignore[arg-type] # click has checked it
            settings,
            clouds=clouds,  # type: ignore[arg-type] # the same
            standby=settings.role_of(options["standby"]) if options["standby"] else "away",
            account=options["account"],
            kms_keys=options["kms_keys"],
        )
        for each in ([identity] if identity else _IDENTITIES)
    ]
    value: dict[str, Any] = {each.identity: each.as_json() for each in chosen}
    if out is None:
        ctx.screen.result(value, [line for each in chosen for line in each.render()])
        return
    written = write_files(chosen, Path(out))
    removed = remove_stale(chosen, Path(out), clouds=clouds)  # type: ignore[arg-type] # the same
    notes = sorted({note for each in chosen for note in each.notes})
    lines = [f"{len(written)} files in {out}", *(f"removed: {path}" for path in removed)]
    lines += [*(f"note: {note}" for note in notes)]
    lines.append("next: terraform -chdir=deployments/terraform plan, or docs/deploying.md for aws and gcloud")
    value = {"files": [str(path) for path in written], "removed": [str(path) for path in removed], "notes": notes}
    ctx.screen.result(value, lines)
