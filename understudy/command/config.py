"""``understudy config check``: every store, the register, the traffic, and every schedule, tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from understudy.command.screen import table
from understudy.errors import InvalidConfig

if TYPE_CHECKING:
    from understudy.command.root import Context


@click.group()
def config() -> None:
    """The config: check."""


@config.command("check")
@click.pass_obj
def check(ctx: Context) -> None:
    """Try every endpoint and schedule of the config; one line each, and exit code 3 when one fails."""
    from understudy.check import check_service
    from understudy.service import open_service

    findings = check_service(open_service(ctx.config))
    lines = table(["WHAT", "RESULT"], [[item.what, "ok" if item.ok else item.words] for item in findings])
    failed = [item for item in findings if not item.ok]
    if failed:
        raise InvalidConfig("\n".join(f"{item.what}: {item.words}" for item in failed))
    ctx.screen.result([{"what": item.what, "ok": item.ok, "words": item.words} for item in findings], lines)
