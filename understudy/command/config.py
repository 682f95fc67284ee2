"""``understudy config``: everything that the config names, tried; and the schema that editors complete from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from understudy.command.screen import table

if TYPE_CHECKING:
    from understudy.command.root import Context
    from understudy.finding import Finding
    from understudy.settings import Settings


@click.group()
def config() -> None:
    """The config: check, schema."""


@config.command("check")
@click.option("--offline", is_flag=True, help="What it says by itself, its secrets and schedules; no network.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="For one trial.")
@click.pass_obj
def check(ctx: Context, *, offline: bool, seconds: float) -> int:
    """Try every endpoint, permission, secret and schedule of the config, and say all that is wrong at once.

    What is written are probes that stay where they are; nothing is deleted, and nobody's traffic is touched. Exit code
    3 when something is wrong, 9 when all that fails did not answer.
    """
    from understudy.check import check_service, exit_code
    from understudy.finding import Finding
    from understudy.service import Service
    from understudy.settings import InvalidSettings, load_settings

    try:
        settings = load_settings(ctx.config)
    except InvalidSettings as error:
        findings = [
            Finding(one.setting or "config", ok=False, words=one.words, file=one.file, line=one.line)
            for one in error.problems
        ]
        _show(ctx, findings, offline=offline)
        return error.exit_code
    findings = check_service(Service(settings), offline=offline, seconds=seconds)
    following = "register init, once; then understudy config check" if offline else first_push(settings)
    _show(ctx, findings, offline=offline, following=following)
    return exit_code(findings)


@config.command("schema")
@click.pass_obj
def schema(ctx: Context) -> None:
    """Print the JSON Schema of the config, with the vendors that other installed packages add."""
    from understudy.schema import build, text

    ctx.screen.result(build(), text().splitlines())


def first_push(settings: Settings) -> str:
    """Return the command that copies what a config has most need of, then the one that shows where that leads."""
    pushes = {"training": "artifacts push", "vector_index": "vectors export", "feature_store": "features push"}
    found = [command for component, command in pushes.items() if component in settings.components]
    return f"{found[0]}, then understudy status" if found else "status"


def _show(ctx: Context, findings: list[Finding], *, offline: bool, following: str = "") -> None:
    failed = sorted((finding for finding in findings if not finding.ok), key=lambda one: (one.file, one.line))
    rows = [[one.what, "ok", one.words] for one in findings if one.ok]
    lines = table(["WHAT", "", ""], rows)[1:] if rows else []
    lines += [f"{one.where} {one.what}: {one.words}".lstrip() for one in failed]
    if failed:
        lines += [f"{len(failed)} of {len(findings)} wrong.  next: understudy config check{' --offline' * offline}"]
    else:
        nothing = "nothing was asked for over the network" if offline else "all answer"
        lines += [f"{len(findings)} tried, {nothing}.  next: understudy {following}"]
    ctx.screen.result([finding.as_json() for finding in findings], lines)
