"""``understudy register``: the object that says who is active, written once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from understudy.command.config import first_push

if TYPE_CHECKING:
    from understudy.command.root import Context


@click.group()
def register() -> None:
    """The register of epochs and leases: init."""


@register.command("init")
@click.pass_obj
def init(ctx: Context) -> None:
    """Write the register once, while the home site serves: epoch 1, home is active.

    One that is there is never overwritten: that would forget an epoch.
    """
    from understudy.errors import Conflict, Refused
    from understudy.service import open_service

    service = open_service(ctx.config)
    try:
        state = service.register.initialise(service.name)
    except Conflict as error:
        raise Refused(error.message, hint=error.hint, next_command=error.next_command) from error
    site = service.settings.site(state.active).name
    sentence = f"{service.register.url}: {service.name} is at epoch {state.epoch}, {site} is active"
    ctx.screen.result(
        {"service": state.service, "epoch": state.epoch, "active": site, "url": service.register.url},
        [sentence, f"next: understudy config check, then understudy {first_push(service.settings)}"],
    )
