"""``understudy status``: the one screen."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from understudy.errors import NotReady, UnderstudyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from understudy.command.root import Context
    from understudy.command.screen import Screen
    from understudy.status import Status

_CLEAR = "\x1b[H\x1b[J"


@click.command()
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--every",
    "every_seconds",
    type=click.FloatRange(min=1),
    default=5,
    show_default=True,
    help="Seconds, with --watch.",
)
@click.pass_obj
def status(ctx: Context, *, watch: bool, every_seconds: float) -> int:
    """Show recovery point and time beside the targets, and by what they are proven. Exit code 5 when one is missed."""
    from understudy.service import open_service

    service = open_service(ctx.config)
    if watch:
        watch_status(service.status, ctx.screen, ticks(every_seconds))
        return 0
    found = service.status()
    show(found, ctx.screen)
    return 0 if found.ok else NotReady.exit_code


def ticks(every_seconds: float) -> Iterator[None]:
    """Yield for ever, that long apart."""
    while True:
        yield
        time.sleep(every_seconds)


def watch_status(look: Callable[[], Status], screen: Screen, moments: Iterator[None]) -> None:
    """Show the status at each moment; what cannot be read now is said in its place, for a watch outlives an outage.

    On a terminal the screen is drawn anew each time; elsewhere, and under ``--json``, one status follows the other.
    """
    for _ in moments:
        if sys.stdout.isatty() and not screen.as_json:
            sys.stdout.write(_CLEAR)
        try:
            show(look(), screen)
        except UnderstudyError as error:
            screen.error(error)


def show(found: Status, screen: Screen) -> None:
    """Print one status."""
    from understudy.status import render

    screen.result(found.as_json(), render(found))
