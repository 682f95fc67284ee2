"""``understudy init``: a config to fill in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from understudy.command.root import Context
    from understudy.starting import Cloud

_CLOUDS = click.Choice(["aws", "gcp"])


@click.command("init")
@click.option("--from", "source", type=_CLOUDS, required=True, help="The cloud where the service runs.")
@click.option("--to", "target", type=_CLOUDS, required=True, help="The cloud where its standby is to be.")
@click.option("--service", default="recommender", show_default=True, metavar="NAME", help="The service's name.")
@click.option("--force", is_flag=True, help="Overwrite what is there.")
@click.pass_obj
def init(ctx: Context, *, source: Cloud, target: Cloud, service: str, force: bool) -> None:
    """Write config/production.yaml, its schema and .env.example to fill in; never a secret."""
    from understudy.schema import text
    from understudy.starting import CONFIG, ENVIRONMENT, config_text, environment_text, write_files

    config = Path(ctx.config) if ctx.config else CONFIG
    written = {config: config_text(source, target, service), ENVIRONMENT: environment_text()}
    write_files(Path(), written, force=force)
    schema = config.with_name("schema.json")  # editors complete from it; it is made, so it is made anew
    write_files(Path(), {schema: text()}, force=True)
    asked = f" -c {config}" if ctx.config else ""
    ctx.screen.result(
        {"written": [str(config), str(schema), str(ENVIRONMENT)]},
        [
            f"written: {config}, {schema}, {ENVIRONMENT}",
            f"in {config}: write your own names where it says FILL-IN",
            "secrets: copy .env.example to .env, fill it in there, keep it out of Git",
            f"next: understudy{asked} config check --offline, until nothing is wrong",
            f"then, while the home site serves: understudy{asked} register init, config check, a first push, status",
        ],
    )
