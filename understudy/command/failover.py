"""``understudy failover``: the same engine as the Prefect deployment, and it works with the Prefect server dead."""

from __future__ import annotations

import getpass
import socket
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from understudy.errors import InvalidConfig, Refused

if TYPE_CHECKING:
    from understudy.command.root import Context
    from understudy.command.screen import Screen
    from understudy.failover.plan import Plan
    from understudy.service import Service


@click.group()
def failover() -> None:
    """Put the standby on stage: plan, run, status; hold, release, abort."""


@failover.command("plan")
@click.option("--to", "target", metavar="SITE", help="The site to become active; else the standby.")
@click.pass_obj
def plan(ctx: Context, target: str | None) -> int:
    """Show what a failover would do now, what it would lose and how long it would take. Changes nothing.

    Exit code 4 when a gate refuses; the plan says which, and how the risk can be taken by name.
    """
    from understudy.failover.decide import refused
    from understudy.failover.engine import prepare
    from understudy.failover.plan import render
    from understudy.failover.plans import save_plan, target_of
    from understudy.service import open_service

    service = open_service(ctx.config)
    role = target_of(service, target or "")
    made = prepare(service.world(role), target=role)
    save_plan(service.register.store, made)
    ctx.screen.result(made.model_dump(mode="json"), [render(made)])
    return Refused.exit_code if refused(made.gates) else 0


@failover.command("run")
@click.argument("plan_id", metavar="[PLAN]", required=False)
@click.option(
    "--accept-loss", multiple=True, metavar="COMPONENT=DURATION", help="Accept this loss, such as vector_index=75m."
)
@click.option("--accept-unfenced", default="", metavar="REASON", help="Why the old writers are known to be stopped.")
@click.option("--reason", default="", help="A ticket or a sentence; kept in the journal.")
@click.option("--yes", is_flag=True, help="Do not ask for the service's name.")
@click.pass_obj
def run(ctx: Context, /, plan_id: str | None, **options: Any) -> None:  # noqa: ANN401 - click's own
    """Run PLAN, or the newest fresh one; after an interruption the same command resumes."""
    from understudy.failover.engine import run as run_plan
    from understudy.failover.plan import render
    from understudy.service import open_service

    service = open_service(ctx.config)
    chosen = find_plan(service, plan_id)
    ctx.screen.say(render(chosen))
    if not options["yes"]:
        confirm(service)
    acceptances = read_acceptances(options["accept_loss"], options["accept_unfenced"], options["reason"])
    outcome = run_plan(
        chosen,
        service.world(chosen.target),
        who=getpass.getuser(),
        acceptances=acceptances,
        progress=_shown_on(ctx.screen),
    )
    following = f"understudy report {outcome.epoch}"
    ctx.screen.result({**asdict(outcome), "next": following}, [outcome.sentence, f"next: {following}"])


@failover.command("status")
@click.pass_obj
def status(ctx: Context) -> None:
    """Show who holds the epoch, where they are, what was done and what comes next."""
    from understudy.failover.status import failover_status, render_status
    from understudy.service import open_service

    service = open_service(ctx.config)
    found = failover_status(service.register, service.journal_vault(), names=service.settings.site_names())
    ctx.screen.result(found.as_json(), [render_status(found)])


@failover.command("hold")
@click.option("--reason", required=True, metavar="TEXT", help="Why; everybody who is stopped by it is shown this.")
@click.pass_obj
def hold(ctx: Context, reason: str) -> None:
    """Stop and think: no failover starts or is resumed, and a running one stops before its next effect.

    Writes stay as they are: off at both sites, when a failover is stopped before its point of no return.
    """
    from understudy.failover import orders
    from understudy.service import open_service, state_directory

    service = open_service(ctx.config)
    given = orders.hold(
        service.register,
        service.journal_vault(),
        who=getpass.getuser(),
        host=socket.gethostname(),
        reason=reason,
        directory=state_directory() / "journal" / service.name,
    )
    ctx.screen.result(given.as_json(), [given.sentence, f"next: {given.next_command}"])


@failover.command("release")
@click.pass_obj
def release(ctx: Context) -> None:
    """Lift the hold, and say what then goes on. What a failover left part way stays: resume it, or abort it."""
    from understudy.failover import orders
    from understudy.service import open_service, state_directory

    service = open_service(ctx.config)
    given = orders.release(
        service.register,
        service.journal_vault(),
        who=getpass.getuser(),
        host=socket.gethostname(),
        directory=state_directory() / "journal" / service.name,
    )
    ctx.screen.result(given.as_json(), [given.sentence, f"next: {given.next_command}"])


@failover.command("abort")
@click.option("--reason", default="", metavar="TEXT", help="Why; may be left out when an abort is resumed.")
@click.option(
    "--accept-dead-home", default="", metavar="REASON", help="Why a site that does not answer gets all traffic."
)
@click.option("--leave-capacity", is_flag=True, help="Do not resize the group back; do it by hand later.")
@click.option("--yes", is_flag=True, help="Do not ask for the service's name.")
@click.pass_obj
def abort(ctx: Context, /, **options: Any) -> None:  # noqa: ANN401 - click's own
    """Undo a failover before its point of no return: traffic back, the group's size back, the epoch released.

    After an interruption the same command resumes. After the point of no return it is refused: forward is the only way.
    """
    from understudy.failover.abort import abort as undo
    from understudy.failover.abort import plan_left, prepare_abort
    from understudy.failover.decide import Acceptances
    from understudy.failover.orders import reason_of
    from understudy.service import open_service

    service = open_service(ctx.config)
    chosen = plan_left(service.register, service.journal_vault())
    if chosen is None:
        value = {"verdict": "nothing", "next": "understudy status"}
        ctx.screen.result(value, ["nothing to do: no failover is under way", "next: understudy status"])
        return
    world = service.world(chosen.target)
    seen = prepare_abort(chosen, world)
    if seen is not None:
        reason_of(options["reason"] or seen.holder.aborting)
        ctx.screen.say(seen.render())
        if not options["yes"]:
            confirm(service)
    dead_home = reason_of(options["accept_dead_home"]) if options["accept_dead_home"] else ""
    outcome = undo(
        chosen,
        world,
        who=getpass.getuser(),
        reason=options["reason"],
        acceptances=Acceptances(dead_home=dead_home, reason=options["reason"]),
        leave_capacity=options["leave_capacity"],
        progress=_shown_on(ctx.screen),
    )
    ctx.screen.result(outcome.as_json(), [outcome.sentence, f"next: {outcome.next_command}"])


def find_plan(service: Service, plan_id: str | None) -> Plan:
    """Return a plan by its id; else the one left part way, else the newest fresh one. Raises NotFound, Refused."""
    from understudy.failover.plans import plan_to_run

    return plan_to_run(service.register, service=service.name, plan_id=plan_id or "")


def confirm(service: Service) -> None:
    """Ask for the service's name. Raises Refused when something else was typed, or nobody is there to type."""
    if not sys.stdin.isatty():
        raise Refused("nobody is at this terminal to type the service's name", hint="pass --yes to go on without it")
    typed = click.prompt(f"type {service.name} to go on", default="", show_default=False, err=True)
    if typed.strip() != service.name:
        raise Refused(
            f"{typed!r} is not {service.name}; nothing was changed", hint="type the service's name, or pass --yes"
        )


def read_acceptances(losses: tuple[str, ...], unfenced: str, reason: str) -> Any:  # noqa: ANN401 - Acceptances
    """Read what a commander accepts. Raises InvalidConfig, Refused without a reason."""
    from understudy.failover.decide import Acceptances
    from understudy.settings import parse_duration

    seconds: dict[str, float] = {}
    for loss in losses:
        component, _, text = loss.partition("=")
        try:
            seconds[component.strip()] = parse_duration(text).total_seconds()  # type: ignore[attr-defined]
        except ValueError as error:
            raise InvalidConfig(f"--accept-loss {loss}: {error}", hint="write it like vector_index=75m") from error
    if seconds and not reason:
        raise Refused("a loss is accepted with a reason", hint="add --reason INC-4711")
    return Acceptances(loss_seconds=seconds, unfenced=unfenced, reason=reason)


def _shown_on(screen: Screen) -> Any:  # noqa: ANN401 - a listener
    from understudy.failover.telling import event_line

    return lambda event: screen.say(event_line(event))
