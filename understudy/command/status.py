"""``understudy status``: the one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from understudy.errors import NotReady

if TYPE_CHECKING:
    from understudy.command.root import Context


@click.command()
@click.pass_obj
def status(ctx: Context) -> int:
    """Show recovery point and time beside the targets, and by what they are proven. Exit code 5 when one is missed."""
    from understudy.service import open_service
    from understudy.status import render

    found = open_service(ctx.config).status()
    ctx.screen.result(found.as_json(), render(found))
    return 0 if found.ok else NotReady.exit_code
