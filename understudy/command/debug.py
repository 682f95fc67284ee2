"""``understudy debug bundle``: one file to hand to somebody who was not there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from understudy.errors import InvalidConfig
from understudy.report import human_bytes

if TYPE_CHECKING:
    from understudy.command.root import Context


@click.group()
def debug() -> None:
    """What somebody who was not there needs to see."""


@debug.command("bundle")
@click.option(
    "--out", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Else understudy-debug-TIME.tar.gz."
)
@click.pass_obj
def bundle(ctx: Context, out: Path | None) -> None:
    """Gather versions, config, status, check, register, journal and the vault's counts into one file, without secrets.

    What cannot be read is named, and its error stands in the bundle: it is made for the time when things are broken.
    """
    from datetime import UTC, datetime

    from understudy.bundle import write_bundle
    from understudy.service import open_service
    from understudy.settings import config_path

    service = open_service(ctx.config)
    target = out or Path(f"understudy-debug-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.tar.gz")
    try:
        failed = write_bundle(service, config_path(ctx.config), target)
    except OSError as error:
        raise InvalidConfig(f"{target} cannot be written: {error.strerror}", hint="name another file: --out") from error
    value = {
        "file": str(target),
        "bytes": target.stat().st_size,
        "unreadable": [{"part": part, "error": words} for part, words in failed],
    }
    lines = [f"{target}: {human_bytes(target.stat().st_size)}; read it before you send it on"]
    lines += [f"could not be read: {part}: {words}" for part, words in failed]
    ctx.screen.result(value, lines)
